"""How long a segmentation run will take, how large its output is and what it costs, before anything is written.

Rates come from a finished run, from the caller, or from a few images that are answered on this machine. Units: bytes, seconds
unless a name says hours; prices in whatever currency they are given in. infra/docs/sizing.md has the formula and says which
numbers below were measured, and which are assumed.
"""

import random
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator
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
from pipeline.corpus.readers.tar import is_tar
from pipeline.corpus.readers.zip import is_zip
from pipeline.errors import UserError
from pipeline.metrics.registry import check_metrics, needs
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs import SECONDS, Run, RunInfo, describe, read_success, run_exists
from pipeline.runs.lease import RENEW_S
from pipeline.runs.parts import THREADS
from pipeline.runs.plan import PART_ROWS
from pipeline.segment.actor import num_tasks
from pipeline.segment.checkpoints import fitted, load_checkpoints, with_quantised
from pipeline.segment.driver import identity
from pipeline.segment.engine import as_recorded, with_engine
from pipeline.segment.shard import ShardSegmenter

OVERLAP = 0.9  # of a GPU's pace: its first and its last image of a shard are decoded and encoded beside nothing
STARTUP_S = 60.0  # Ray, actors, weights
PLAN_S, PLAN_FILE_BYTES, PLAN_DISK_BYTES = 31e-6, 15, 600  # of an image: CPU, Parquet of plan/, SQLite below TMPDIR
REQUEST_S, LIST_S = 0.02, 0.1  # one small request to a store; one page of a listing
LISTED_S = 20e-6  # of an object that S3 lists: CPU of its client, beside PLAN_S
COMMIT_S = 3 * REQUEST_S  # a shard's begin, part and end: one after the other, and the device waits
FINISH_S = 0.04e-3  # of a part at the end of a run: CPU
TASK_S, SHARD_S = 9e-3, 0.6e-3  # of Ray's driver (configs/LOG.md, Ray's tasks)
S3_READS_S = 5500  # that S3 promises of one prefix
SAMPLE_PARTS = 64  # of a finished run, whose seconds are read
SLOW_S = 1800.0  # without a sign of life: the alert of infra/watch
MUCH_COMMITTING = 0.2  # of a device's time
MANY_PARTS, MUCH_DISK_BYTES = 200_000, 10e9
MASK_BYTES = 30e3  # of a row, where nothing tells it
# Images that are timed here, drawn from the whole corpus; one more is answered before them, for what happens once.
SAMPLE = 4


@dataclass(frozen=True)
class Rates:
    """Of one device, and of one image."""

    images_per_s: float
    image_bytes: float  # read: image, and label where there is one
    mask_bytes: float  # written: a row of a part


@dataclass(frozen=True)
class Prices:
    """In one currency."""

    device_hour: float = 0.0
    million_gets: float = 0.4
    thousand_puts: float = 0.005  # writes and listings
    gb_month: float = 0.023


@dataclass(frozen=True)
class Sizing:
    """What follows from a number of images and the rates."""

    images: int
    devices: int
    read_bytes: float
    written_bytes: float
    shards: int
    hours: float  # of the whole run: plan, start, images, finish
    device_hours: float
    plan_hours: float
    finish_hours: float
    parts_per_s: float  # commits of all devices together
    gets: int
    puts: int
    lists: int
    plan_file_bytes: float
    warnings: tuple[str, ...]

    def cost(self, prices: Prices) -> float:
        """Devices + requests + one month of the masks: the formula of infra/docs/sizing.md."""
        requests = self.gets / 1e6 * prices.million_gets + (self.puts + self.lists) / 1e3 * prices.thousand_puts
        return self.device_hours * prices.device_hour + requests + self.written_bytes / 1e9 * prices.gb_month


@dataclass(frozen=True)
class Sample:
    """Images answered on this machine, with one actor's threads."""

    images: int
    seconds: dict[str, float]  # of all images together, by stage
    rejects: Counter[str]
    memory_bytes: int  # the largest that this process was: what an actor takes beside Ray
    gpu_bytes: int  # 0 on a CPU
    warning: str | None  # of pixels that do not reach the network as they should


@dataclass
class Listing:
    """What the plan of a run holds, counted table by table, and a few of its items, drawn with equal chances."""

    images: int = 0
    labelled: int = 0
    bytes: int = 0  # of images and labels as stored
    objects: int = 0  # images and labels that are objects of the store, not members of an archive
    shard_images: Counter[int] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    some: list[Item] = field(default_factory=list)

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> "Listing":
        """Of the tables of a plan."""
        listing, draw = cls(), random.Random(0)
        for table in tables:
            for row in range(table.num_rows):
                place = draw.randrange(listing.images + row + 1)  # of a reservoir (Vitter 1985, algorithm R)
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
    """A run before it is started."""

    output: str
    listing: Listing | None  # None: the number of images was given
    done: int | None  # images that an earlier start has answered; None: there is no run yet
    pending_shards: int  # of the listing
    rates: Rates
    sizing: Sizing | None  # of the images that are left; None: none is
    sample: Sample | None  # None: the rates were given, or are another run's
    warnings: tuple[str, ...]
    engine: str  # and, of `auto`, how it came about


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
        like: a finished run whose rates hold here too.
        rate: images/s of one device; without it and `like`, a few images are answered on this machine.
        mask_bytes: of one mask row, with `rate`.
        images, image_bytes: stand for the corpus, which is not listed then.
        devices: instead of the config's actors.
        starting: also refuse what `segment` would refuse at its start.
    Raises:
        UserError: arguments exclude each other, `like` is no finished run, or `segment` would refuse the config.
    """
    if like is not None and rate is not None:
        raise UserError("estimate: --like RUN and --rate IMAGES_PER_S both give the rate; leave out one of them")
    if (images is None) != (image_bytes is None):
        raise UserError(
            "estimate: --images and --image-kb stand for the corpus, so they go together; leave out both to list it"
        )
    rates = measured(storage.absolute(like)) if like is not None else None
    if rate is not None:
        rates = Rates(rate, 0.0, mask_bytes)
    if rates is None and images is not None:
        raise UserError("estimate: --images lists no corpus to try images of; give the rate as --like RUN or --rate")
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
        images, image_bytes = sum(listing.shard_images[shard] for shard in pending), listing.bytes / listing.images
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


def objects_of(cfg: SegmentConfig, images: int) -> int:
    """How many objects a listing returns if there are so many images: an archive and a table are one object."""
    if cfg.corpus.layout in ("manifest", "parquet") or cfg.corpus.images.endswith((".csv", ".parquet")):
        return 0
    uris = [uri for uri in (cfg.corpus.images, cfg.corpus.labels) if uri is not None]
    return images * sum(not is_zip(uri) and not is_tar(uri) for uri in uris)


def measured(run: str) -> Rates:
    """The rates of a finished run, from the seconds of some of its parts and the sizes of all.

    Raises:
        UserError: the run is not finished, all of it was rejected, or a part is gone.
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
    """How long an actor takes, from the seconds of its stages (columns `seconds_*`).

    On a CPU the stages take turns on the actor's cores, network and CRF on all of them at once: their seconds add up. A GPU's
    network runs beside the cores, which decode and encode; its CRF holds both. Seconds of decoding hold the wait for the store,
    so that a slow store makes the answer too long, never too short.
    """
    cores = seconds["seconds_encode"]
    if cfg.decode == "actor":  # else other nodes decode, and are taken to keep up
        cores += seconds["seconds_decode"]
    cores, forward = cores / cfg.cpus_per_actor, seconds["seconds_forward"]
    if not cfg.gpus_per_actor:
        return seconds["seconds_crf"] + forward + cores
    return (seconds["seconds_crf"] + max(forward, cores)) / OVERLAP


def unlike(run: str, cfg: SegmentConfig) -> list[str]:
    """Warnings: what was other in a run whose rate is used, among that which decides its pace."""
    keys, before = pace_keys(SegmentConfig), describe(run).config
    now = cfg.model_dump(mode="json", include=keys)
    changed = differences({key: before[key] for key in keys & before.keys()}, now)
    return [f"the rate is that of another setting than {run}'s: {'; '.join(changed)}"] if changed else []


def size(cfg: SegmentConfig, images: int, listed: int, rates: Rates, devices: int) -> Sizing:
    """Everything that follows from a config, a number of images and rates.

    Args:
        listed: objects that a listing of the corpus returns; 0 for an archive, whose directory is one object.
    Raises:
        UserError: a number that must be positive is not.
    """
    for name, value in (("images", images), ("images/s of a device", rates.images_per_s), ("devices", devices)):
        if value <= 0:
            raise UserError(f"estimate: {name} is {value:g}; it must be above 0")
    a_shard = cfg.images_per_shard
    if rates.image_bytes:
        a_shard = max(1, min(a_shard, int(cfg.bytes_per_shard / rates.image_bytes)))
    a_shard = min(a_shard, images)
    shards = ceil(images / a_shard)
    shard_s = a_shard / rates.images_per_s
    driver_s = num_tasks(shards, devices) * TASK_S + shards * SHARD_S  # beside the devices
    work_s = max(ceil(shards / devices) * (shard_s + COMMIT_S), driver_s)
    corpus_pages, shard_pages = ceil(listed / storage.LIST_PAGE), ceil(shards / storage.LIST_PAGE)
    plan_parts = ceil(images / PART_ROWS)
    planning_s, listing_s = images * PLAN_S, _listing_s(corpus_pages, cfg.corpus.images)
    if cfg.corpus.images.startswith("s3"):  # pages are waited for while those before are planned
        plan_s = max(listing_s, planning_s + listed * LISTED_S)
        listing_s = max(listing_s, listed * LISTED_S)
    else:
        plan_s = planning_s + listing_s
    footers = 0 if cfg.regions is None else shards  # the driver knows the others: its actors tell it
    finish_s = footers * REQUEST_S / THREADS + _listing_s(shard_pages, cfg.output) + shards * FINISH_S
    hours = (plan_s + STARTUP_S + work_s + finish_s) / 3600
    renewals = ceil(hours * 3600 / RENEW_S)
    files = 1 + (cfg.corpus.labels is not None) + ("instances" in needs(dict(cfg.metrics)))
    found = Sizing(
        images=images,
        devices=devices,
        read_bytes=images * rates.image_bytes,
        written_bytes=images * rates.mask_bytes,
        shards=shards,
        hours=hours,
        device_hours=(STARTUP_S + work_s) / 3600 * devices,
        plan_hours=plan_s / 3600,
        finish_hours=finish_s / 3600,
        parts_per_s=shards / work_s,
        gets=images * files + footers + (devices + 2) * plan_parts,  # the driver counts the shards twice
        puts=2 * shards + plan_parts + renewals,
        lists=corpus_pages + shard_pages + renewals,
        plan_file_bytes=images * PLAN_FILE_BYTES,
        warnings=(),
    )
    return replace(found, warnings=tuple(_warnings(cfg, found, rates, shard_s, listing_s)))


def _listing_s(pages: int, uri: str) -> float:
    """How long the store lets a listing wait."""
    return pages * LIST_S / (storage.LISTERS if uri.startswith("s3") else 1)


def _loaded(cfg: SegmentConfig) -> Checkpoint:
    """The checkpoints, which give what the config asks to be counted."""
    ready = load_checkpoints(cfg)
    check_metrics(dict(cfg.metrics), ready.label_space)
    return ready


def _listed(
    cfg: SegmentConfig, ready: Checkpoint | None, recorded: RunInfo | None
) -> tuple[Listing, int | None, list[int]]:
    """The plan that a start would make, or find; of a run that it would resume, images done; the pending shards.

    Raises:
        UserError: the run that is there has other settings.
    """
    if ready is None or recorded is None:
        listing = Listing.of(plan_shards(scan_items(cfg.corpus, cfg.split), cfg.images_per_shard, cfg.bytes_per_shard))
        return listing, None, list(listing.shard_images)
    run = Run.resumed(cfg.output, identity(cfg, ready))
    listing, pending = Listing.of(run.plan.tables()), run.pending()
    return listing, listing.images - sum(listing.shard_images[shard] for shard in pending), pending


def _answer(cfg: SegmentConfig, ready: Checkpoint, items: list[Item]) -> tuple[Sample, Rates]:
    """Some images answered and timed here, and the rates that follow."""
    take_cores(cfg.cpus_per_actor)
    segmenter = ShardSegmenter(ready, cfg)
    segmenter.answer(items[:1])  # loops are compiled and memory is first touched here
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
    """Seconds of each stage of one part; its other columns are not read."""
    filesystem, path = storage.arrow_filesystem(storage.join(run, name))
    try:
        with filesystem.open_input_file(path) as file:
            table = pq.ParquetFile(file, pre_buffer=True).read(list(SECONDS), use_threads=False)
    except FileNotFoundError:
        raise UserError(f"run {run}: {name} is gone; rates come from a whole run") from None
    return {column: sum(value or 0.0 for value in table[column].to_pylist()) for column in SECONDS}


def bytes_words(number: float) -> str:
    """Three digits and a unit, for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def time_words(hours: float) -> str:
    """Seconds, minutes or hours, for a person."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{hours:.1f} h"


def _warnings(cfg: SegmentConfig, found: Sizing, rates: Rates, shard_s: float, listing_s: float) -> Iterator[str]:
    """What will not go well, and what to do about it.

    Args:
        shard_s: of one shard on its device, without its commit.
        listing_s: of the corpus.
    """
    shards, devices, images_per_s = found.shards, found.devices, found.images * found.parts_per_s / found.shards
    commit_share = COMMIT_S / (shard_s + COMMIT_S)
    if shards < 4 * devices:
        yield (
            f"{shards} shards for {devices} devices: the last ones wait for the slowest; set images_per_shard to "
            f"{max(1, found.images // (8 * devices))}"
        )
    elif shard_s > SLOW_S:
        yield (
            f"a shard takes {time_words(shard_s / 3600)}: as much is lost with an actor that dies, and a run of few devices is "
            f"reported as stuck; set images_per_shard to {max(1, int(SLOW_S / 6 * rates.images_per_s))}"
        )
    small = dict[str, int]()  # what small shards lead to -> so many images would do
    if commit_share > MUCH_COMMITTING and shards >= 4 * devices:
        reason = f"a device waits {commit_share:.0%} of its time for the store to take its shards"
        small[reason] = ceil(10 * COMMIT_S * rates.images_per_s)
    if shards > MANY_PARTS:
        reason = f"{shards:,} parts, each of which is opened at the end of the run and by every question to it"
        small[reason] = ceil(found.images / MANY_PARTS)
    yield from (f"{reason}; {_larger(cfg, max(small.values()), rates)}" for reason in small)
    if images_per_s > S3_READS_S and cfg.corpus.images.startswith("s3"):
        yield (
            f"{images_per_s:,.0f} images/s, and S3 promises {S3_READS_S:,} reads/s of one archive or prefix; the rest is asked "
            f"again, and may end as rejects: take {max(1, int(devices * S3_READS_S / images_per_s))} devices, or spread the "
            "corpus over several folders or tars"
        )
    if listing_s > SLOW_S:
        yield (
            f"the corpus is listed in {time_words(listing_s / 3600)}, before any device has work; keep it as zip, "
            "tar, Parquet or a manifest, or cut it into several runs by prefix: counts add up across runs"
        )
    if (disk := found.images * PLAN_DISK_BYTES) > MUCH_DISK_BYTES:
        yield f"planning takes {bytes_words(disk)} below TMPDIR of the driver's node; give it a volume of that size"


def _larger(cfg: SegmentConfig, images: int, rates: Rates) -> str:
    """How to have so many images in a shard."""
    wanted = {"images_per_shard": images, "bytes_per_shard": ceil(images * rates.image_bytes)}
    return "set " + " and ".join(f"{key} to {value}" for key, value in wanted.items() if value > getattr(cfg, key))
