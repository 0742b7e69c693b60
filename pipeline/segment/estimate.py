"""Estimate how long a segmentation run will take, how large its output is and what it costs; nothing is written.

Rates come from a finished run, from the caller, or from a few images answered on this machine; sizing.py computes the rest.
"""

import random
import resource
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import ceil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pipeline import storage
from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig, differences, pace_keys, parse
from pipeline.corpus import Item, items_of, plan_shards, scan_items
from pipeline.errors import UserError
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs import SECONDS, Run, RunInfo, describe, grown, plan_of, read_success, run_exists
from pipeline.segment.checkpoints import fitted, load_checkpoints, with_quantised
from pipeline.segment.driver import check_able, identity
from pipeline.segment.engine import as_recorded, with_engine
from pipeline.segment.shard import ShardSegmenter
from pipeline.segment.sizing import MASK_BYTES, Rates, Sizing, objects_of, size

OVERLAP = 0.9  # share of a GPU's rate: it idles while a shard's first image is decoded and the last is encoded
SAMPLE_PARTS = 64  # most parts of a finished run whose seconds are read
# Images to time, drawn from the whole corpus; one more is answered first, since the first image bears one-time costs.
SAMPLE = 4


@dataclass(frozen=True)
class Sample:
    """Figures of some images that were answered on this machine, with one actor's threads."""

    images: int
    seconds: dict[str, float]  # of all images together, by stage
    rejects: Counter[str]
    memory_bytes: int  # peak of this process: what an actor takes, without Ray
    gpu_bytes: int  # 0 on a CPU
    warning: str | None  # says that pixels do not reach the network as they should


@dataclass
class Listing:
    """Counts over the plan of a run, made table by table, and a few of its items, drawn with equal probability."""

    images: int = 0
    labelled: int = 0
    bytes: int = 0  # of images and labels as stored
    objects: int = 0  # images and labels that are objects of the store, not members of an archive
    shard_images: Counter[int] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    some: list[Item] = field(default_factory=list)

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> "Listing":
        """Count the tables of a plan."""
        listing, draw = cls(), random.Random(0)
        for table in tables:
            for row in range(table.num_rows):
                place = draw.randrange(listing.images + row + 1)  # reservoir sampling (Vitter 1985, algorithm R)
                if len(listing.some) <= SAMPLE:
                    listing.some += items_of(table.slice(row, 1))
                elif place <= SAMPLE:
                    listing.some[place : place + 1] = items_of(table.slice(row, 1))
            labels = table.num_rows - table["label_uri"].null_count
            members = [table.num_rows - table[name].null_count for name in ("member", "label_member")]
            listing.images += table.num_rows
            listing.labelled += labels
            listing.objects += table.num_rows + labels - sum(members)
            listing.bytes += sum(pc.sum(table[name]).as_py() or 0 for name in ("bytes", "label_bytes"))
            listing.shard_images.update(table["shard"].to_pylist())
            listing.splits.update(split or "none" for split in table["split"].to_pylist())
        return listing


@dataclass(frozen=True)
class Estimate:
    """Estimate of a run before it is started."""

    output: str
    listing: Listing | None  # None: the number of images was given
    done: int | None  # images that earlier starts have answered; None: there is no run yet
    pending_shards: int  # of the listing
    rates: Rates
    sizing: Sizing | None  # of the remaining images; None: there are none
    sample: Sample | None  # None: the rates were given, or come from another run
    warnings: tuple[str, ...]
    engine: str  # its name; for `auto`, also how it was chosen


def estimate(
    cfg: SegmentConfig,
    *,
    like: str | None = None,
    rate: float | None = None,
    mask_bytes: float = MASK_BYTES,
    images: int | None = None,
    image_bytes: float | None = None,
    devices: int | None = None,
    starting: bool = False,
) -> Estimate:
    """Plan a run and estimate it; nothing is written.

    Args:
        like: a finished run whose rates are used.
        rate: images/s of one device; without it and `like`, a few images are answered on this machine.
        mask_bytes: size of one mask row; used with `rate`.
        images, image_bytes: number and size of images; the corpus is then not listed.
        devices: number of devices, in place of the config's actors.
        starting: also refuse whatever `segment` would refuse at its start.
    Raises:
        UserError: arguments exclude each other, `like` is not a finished run, or `segment` would refuse the config.
    """
    if like is not None and rate is not None:
        raise UserError("estimate: --like RUN and --rate IMAGES_PER_S both give the rate; leave out one of them")
    if (images is None) != (image_bytes is None):
        raise UserError(
            "estimate: --images and --image-kb stand for the corpus, so both are needed; leave out both to list it"
        )
    rates = measured(storage.absolute(like)) if like is not None else None
    if rate is not None:
        rates = Rates(rate, 0.0, mask_bytes)
    if rates is None and images is not None:
        raise UserError(
            "estimate: with --images no corpus is listed, so no image can be tried; give the rate with --like RUN or --rate"
        )
    trying = starting or rates is None
    ready, recorded = None, None
    if trying or (images is None and run_exists(cfg.output)):
        ready = _loaded(cfg)
        cfg = fitted(cfg, ready)
    if images is None:
        cfg, recorded = as_recorded(cfg)
    engine = "auto: tried when the run begins" if cfg.engine == "auto" else str(cfg.engine)
    if ready is not None and trying and images is None:
        begins = with_engine(cfg, ready, recorded)
        cfg, ready, engine = begins.cfg, begins.ready, begins.choice.words
    elif ready is not None and recorded is not None:
        ready = with_quantised(ready, cfg, recorded)
    listing, done, sample = None, None, None
    pending: list[int] = []
    if images is None or image_bytes is None:
        listing, done, pending = _listed(cfg, ready, recorded)
        images = sum(listing.shard_images[shard] for shard in pending)
        image_bytes = listing.bytes / max(1, listing.images)
        objects = 0 if done is not None or cfg.corpus.layout in ("manifest", "parquet") else listing.objects
        if ready is not None and rates is None and pending:
            sample, rates = _answer(cfg, ready, listing.some)
    else:
        objects = objects_of(cfg, images)
    rates = replace(rates or Rates(0.0, 0.0, 0.0), image_bytes=image_bytes)
    sizing = None if listing and not pending else size(cfg, images, objects, rates, devices or cfg.actors)
    seen = (sample.warning,) if sample and sample.warning else ()
    warnings = (*seen, *(sizing.warnings if sizing else ()), *(unlike(storage.absolute(like), cfg) if like else ()))
    return Estimate(cfg.output, listing, done, len(pending), rates, sizing, sample, warnings, engine)


def measured(run: str) -> Rates:
    """Return the rates of a finished run, from the seconds of some of its parts and the sizes of all.

    Raises:
        UserError: the run is not finished, all images were rejected, or a part is gone.
    """
    if (success := read_success(run)) is None:
        raise UserError(f"run {run} is not finished (no _SUCCESS.json); rates come from a finished run")
    parts = {name: part for name, part in success.parts.items() if name.startswith("masks/") and part.rows}
    if not parts:
        raise UserError(f"run {run} has no mask; rates come from a run that answered images")
    names = list(parts)[:: ceil(len(parts) / SAMPLE_PARTS)]
    cfg, seconds = describe(run).config, dict.fromkeys(SECONDS, 0.0)
    for name in names:
        for column, total in _seconds(run, name).items():
            seconds[column] += total
    images = sum(parts[name].rows for name in names)
    mask_bytes = sum(part.bytes for part in parts.values()) / sum(part.rows for part in parts.values())
    return Rates(images / working_s(seconds, parse(SegmentConfig, cfg, where=f"run {run}")), 0.0, mask_bytes)


def working_s(seconds: dict[str, float], cfg: SegmentConfig) -> float:
    """Return the seconds that an actor needs, from the seconds of its stages (columns `seconds_*`).

    On a CPU, the stages take turns on the actor's cores, network and CRF on all of them at once, so their seconds add up. On a
    GPU, the network runs while the cores decode and encode; the CRF blocks both. Seconds of decoding include waiting for the
    store, so a slow store makes the result too long, never too short.
    """
    cores = seconds["seconds_encode"]
    if cfg.decode == "actor":  # otherwise other nodes decode, and are assumed to keep up
        cores += seconds["seconds_decode"]
    cores, forward = cores / cfg.cpus_per_actor, seconds["seconds_forward"]
    if not cfg.gpus_per_actor:
        return seconds["seconds_crf"] + forward + cores
    return (seconds["seconds_crf"] + max(forward, cores)) / OVERLAP


def unlike(run: str, cfg: SegmentConfig) -> list[str]:
    """Return warnings: which settings that affect speed differ in the run whose rate is used."""
    keys, before = pace_keys(SegmentConfig), describe(run).config
    now = cfg.model_dump(mode="json", include=keys)
    changed = differences({key: before[key] for key in keys & before.keys()}, now)
    return [f"the rate is that of another setting than {run}'s: {'; '.join(changed)}"] if changed else []


def _loaded(cfg: SegmentConfig) -> Checkpoint:
    """Load the checkpoints, and check as `segment` does that a run is possible with them here."""
    ready = load_checkpoints(cfg)
    check_able(cfg, ready)
    return ready


def _listed(
    cfg: SegmentConfig, ready: Checkpoint | None, recorded: RunInfo | None
) -> tuple[Listing, int | None, list[int]]:
    """Return the counts of the new or recorded plan, the images done (None for a new run), and the pending shards.

    Raises:
        UserError: the run at the output has other settings.
    """
    if ready is None or recorded is None:
        listing = Listing.of(plan_shards(scan_items(cfg.corpus, cfg.split), cfg.images_per_shard, cfg.bytes_per_shard))
        return listing, None, list(listing.shard_images)
    run = Run.resumed(cfg.output, identity(cfg, ready))
    if (state := grown(cfg.output)) is not None:  # an extended run is finished, and its first plan is not all of it
        listing = Listing.of(plan_of(cfg.output, recorded, state).tables())
        return listing, listing.images, []
    listing, pending = Listing.of(run.plan.tables()), run.pending()
    return listing, listing.images - sum(listing.shard_images[shard] for shard in pending), pending


def _answer(cfg: SegmentConfig, ready: Checkpoint, items: list[Item]) -> tuple[Sample, Rates]:
    """Answer and time some images here; return their figures and the rates that follow."""
    take_cores(cfg.cpus_per_actor)
    segmenter = ShardSegmenter(ready, cfg)
    segmenter.answer(items[:1])  # untimed: compiles kernels and touches memory for the first time
    timed = items[1:] or items
    started = time.perf_counter()
    masks, rejects = segmenter.answer(timed)
    rates = Rates(len(timed) / (time.perf_counter() - started), 0.0, masks.nbytes / max(1, masks.num_rows))
    sample = Sample(
        len(timed),
        {name: sum(value or 0.0 for value in masks[name].to_pylist()) for name in SECONDS},
        Counter(rejects["error"].to_pylist()),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        torch.cuda.max_memory_allocated() if cfg.gpus_per_actor > 0 else 0,
        segmenter.input_statistics.warning,
    )
    return sample, rates


def _seconds(run: str, name: str) -> dict[str, float]:
    """Return the seconds of each stage of one part; reads only those columns."""
    filesystem, path = storage.arrow_filesystem(storage.join(run, name))
    try:
        with filesystem.open_input_file(path) as file:
            table = pq.ParquetFile(file, pre_buffer=True).read(list(SECONDS), use_threads=False)
    except FileNotFoundError:
        raise UserError(f"run {run}: {name} is gone; rates come from a whole run") from None
    return {column: sum(value or 0.0 for value in table[column].to_pylist()) for column in SECONDS}
