"""What a segmentation run would do: its plan, memory and time, from a finished run's rates or a few images answered here."""

import random
import resource
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline import storage
from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig
from pipeline.corpus import Item, items_of, plan_shards, scan_items
from pipeline.metrics.registry import check_metrics
from pipeline.models import checkpoint
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs import SECONDS, Run
from pipeline.segment import ShardSegmenter, estimate
from pipeline.segment.driver import identity

SAMPLE = 4  # images that are timed, drawn from the whole corpus; one more is answered before, for what happens once


@dataclass(frozen=True)
class Sample:
    """Images answered on this machine, with one actor's threads."""

    images: int
    images_per_s: float
    seconds: dict[str, float]  # of all images together, by stage
    rejects: Counter[str]
    memory_bytes: int  # the largest that this process was: what an actor takes beside Ray
    gpu_bytes: int  # 0 on a CPU


@dataclass(frozen=True)
class DryRun:
    """A run before it is started."""

    output: str
    images: int
    labelled: int
    bytes: int  # of images and labels as stored
    shards: int
    splits: dict[str, int]
    done: int | None  # images that an earlier start has answered; None: there is no run yet
    pending_shards: int
    sizing: estimate.Sizing | None  # of the pending images; None: none is pending
    images_per_s: float  # of one actor
    sample: Sample | None  # None: the rates are another run's


def rehearse(cfg: SegmentConfig, like: str | None = None) -> DryRun:
    """Plan a run and estimate it; nothing is written.

    Args:
        like: a finished run whose rates hold here too; without one, a few images are answered on this machine.
    Raises:
        UserError: as `segment`, before it would start; or `like` is no finished run.
    """
    ready = checkpoint.load(cfg.checkpoint)
    check_metrics(cfg.metrics, ready.label_space)
    run = _there(cfg, ready)
    if run is None:
        tables = plan_shards(scan_items(cfg.corpus, cfg.split), cfg.images_per_shard, cfg.bytes_per_shard)
    else:
        tables = run.plan.tables()
    listing = _Listing.of(tables)
    pending = list(listing.sizes) if run is None else run.pending()
    todo = sum(listing.sizes[shard] for shard in pending)
    sample, rates = None, estimate.Rates(0.0, listing.bytes / listing.images, 0.0)
    if like is not None:
        rates = estimate.measured(storage.absolute(like))
    elif pending:
        sample, mask_bytes = _answer(cfg, ready, listing.some)
        rates = estimate.Rates(sample.images_per_s, listing.bytes / listing.images, mask_bytes)
    return DryRun(
        output=cfg.output,
        images=listing.images,
        labelled=listing.labelled,
        bytes=listing.bytes,
        shards=len(listing.sizes),
        splits=dict(listing.splits),
        done=None if run is None else listing.images - todo,
        pending_shards=len(pending),
        sizing=estimate.size(cfg, todo, 0, rates, min(cfg.actors, len(pending))) if pending else None,
        images_per_s=rates.images_per_s,
        sample=sample,
    )


@dataclass
class _Listing:
    """What a plan holds, counted table by table, and a few of its items, drawn with equal chances."""

    images: int = 0
    labelled: int = 0
    bytes: int = 0
    sizes: Counter[int] = field(default_factory=Counter)  # shard -> images
    splits: Counter[str] = field(default_factory=Counter)
    some: list[Item] = field(default_factory=list)

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> "_Listing":
        listing, draw = cls(), random.Random(0)
        for table in tables:
            for row in range(table.num_rows):
                place = draw.randrange(listing.images + row + 1)  # of a reservoir (Vitter 1985, algorithm R)
                if len(listing.some) <= SAMPLE:
                    listing.some += items_of(table.slice(row, 1))
                elif place <= SAMPLE:
                    listing.some[place : place + 1] = items_of(table.slice(row, 1))
            listing.images += table.num_rows
            listing.labelled += table.num_rows - table["label_uri"].null_count
            listing.bytes += sum(pc.sum(table[name]).as_py() or 0 for name in ("bytes", "label_bytes"))
            listing.sizes.update(table["shard"].to_pylist())
            listing.splits.update(split or "none" for split in table["split"].to_pylist())
        return listing


def _there(cfg: SegmentConfig, ready: Checkpoint) -> Run | None:
    """The run that this start would resume; UserError where it would be refused."""
    if not storage.exists(storage.join(cfg.output, "run.json")):
        return None
    return Run.resumed(cfg.output, identity(cfg, ready))


def _answer(cfg: SegmentConfig, ready: Checkpoint, items: list[Item]) -> tuple[Sample, float]:
    """The timed answer, and bytes of one mask."""
    take_cores(cfg.cpus_per_actor)
    segmenter = ShardSegmenter(ready, cfg)
    segmenter.answer(items[:1])  # loops are compiled and memory is first touched here
    timed = items[1:] or items
    started = time.perf_counter()
    masks, rejects = segmenter.answer(timed)
    seconds = time.perf_counter() - started
    sample = Sample(
        len(timed),
        len(timed) / seconds,
        {name: sum(value or 0.0 for value in masks[name].to_pylist()) for name in SECONDS},
        Counter(rejects["error"].to_pylist()),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        torch.cuda.max_memory_allocated() if cfg.gpus_per_actor > 0 else 0,
    )
    return sample, masks.nbytes / max(1, masks.num_rows)
