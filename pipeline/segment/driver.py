"""Segment a corpus into one Parquet row per image: Ray actors answer its shards, or local processes if images are few."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.cluster.phases import PHASES
from pipeline.config import SegmentConfig, run_keys
from pipeline.corpus import plan_shards, scan_items
from pipeline.imaging.bands import require_rasterio
from pipeline.imaging.polygons import require_shapely
from pipeline.metrics.registry import check_metrics
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict.engines import PACKAGES
from pipeline.runs import Lease, PartEntry, Run, grown
from pipeline.runs.info import restore_success, success_uri
from pipeline.segment import failures, local_workers
from pipeline.segment.actor import bound_to
from pipeline.segment.checkpoints import fitted, load_checkpoints
from pipeline.segment.engine import as_recorded, with_engine
from pipeline.segment.local_workers import LocalWorkers
from pipeline.segment.progress import Progress, Workers, heard

PHASE = PHASES.info
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmented:
    """How a run ended."""

    run: str
    rows: int
    rejects: dict[str, int]  # by reason
    answered_now: int  # images answered by this start; the others were committed before
    images_per_s: float
    engine: str = "torch"
    labelled: bool = True  # whether any image of the plan has a label
    had_finished: bool = False  # whether it was finished before this start, which then did nothing


def segment(
    cfg: SegmentConfig,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    local: LocalWorkers | None = None,
) -> Segmented:
    """Answer every image of a corpus; shards already committed to the run are skipped.

    Args:
        local: worker processes that were started in advance; used if the run needs no Ray.
    Raises:
        UserError: corpus, checkpoint, output or machine do not fit the config, or too many images were rejected.
    """
    with failures.explained(cfg.output):
        return _segment(cfg, on_progress, local)


def _segment(cfg: SegmentConfig, on_progress: Callable[[Progress], None], local: LocalWorkers | None) -> Segmented:
    PHASE("loading weights from %s", cfg.checkpoint)
    ready = load_checkpoints(cfg)
    check_able(cfg, ready)
    PHASE("looking at the corpus")
    cfg, recorded = as_recorded(fitted(cfg, ready))
    if recorded is None and cfg.engine != "torch":
        PHASE("preparing the engine")
    begins = with_engine(cfg, ready, recorded)
    cfg, ready = begins.cfg, begins.ready
    if recorded is not None and (state := grown(cfg.output)):
        whole = Run.resumed(cfg.output, identity(cfg, ready))
        if not storage.exists(success_uri(cfg.output)):
            with Lease(cfg.output):
                restore_success(cfg.output, state)
        reasons, labelled = state.rejects_by_reason, whole.plan.has_labels()
        return Segmented(cfg.output, state.rows, dict(reasons), 0, 0.0, cfg.engine, labelled, had_finished=True)
    with Lease(cfg.output) as lease:
        if recorded is None:
            begins.keep()
        PHASE("planning: listing the corpus" if recorded is None else "reading what is answered already")
        run = Run.open_or_create(
            cfg.output,
            identity(cfg, ready),
            cfg.model_dump(mode="json"),
            ready.label_space,
            make_plan=lambda: plan_shards(scan_items(cfg.corpus, cfg.split), cfg.images_per_shard, cfg.bytes_per_shard),
            packages=PACKAGES[begins.choice.engine],
        )
        pending = run.pending()
        run.checked.keep()
        progress = Progress(run.num_images, run.num_images - int(run.shard_sizes()[pending].sum()))
        if pending:
            run.reopen(lease)
            on_progress(progress)
            with _workers(cfg, run, progress, local) as workers:
                answered_by(workers, run, pending, progress, on_progress)
        before = None if pending else run.finished()
        finished = before or run.finish(cfg.max_reject_rate, lease)
    return Segmented(
        cfg.output,
        finished.rows,
        finished.rejects_by_reason,
        progress.answered_now,
        progress.images_per_s,
        cfg.engine,
        run.plan.has_labels(),
        had_finished=before is not None,
    )


def check_able(cfg: SegmentConfig, ready: Checkpoint) -> None:
    """Raise UserError if a metric does not support the classes, or a package that the run needs is missing."""
    check_metrics(dict(cfg.metrics), ready.label_space)
    if ready.image is not None:
        require_rasterio()
    if cfg.regions is not None and cfg.regions.polygons is not None:
        require_shapely()


def answered_by(
    workers: Workers, run: Run, pending: list[int], progress: Progress, on_progress: Callable[[Progress], None]
) -> None:
    """Let workers answer the pending shards of a run; record each summary in `run` and `progress`.

    Raises:
        UserError, ActorError: the error that ended a worker.
    """
    warned = False
    with heard(workers, progress, on_progress) as add:
        for row in workers.summaries(pending):
            failures.raise_encoded(row["ended"])
            if row["warning"] and not warned:
                _log.warning("%s", row["warning"])
                warned = True
            if row["part"] is not None:
                run.checked.committed(row["shard"], PartEntry(**json.loads(row["part"])))
            add(row)


def identity(cfg: SegmentConfig, ready: Checkpoint) -> dict[str, Any]:
    """Return everything that decides the bytes of a run's output; actors, batch size and GPUs do not."""
    settings = cfg.model_dump(mode="json", include=run_keys(SegmentConfig))
    return {**settings, **ready.identity}


@contextlib.contextmanager
def _workers(cfg: SegmentConfig, run: Run, progress: Progress, local: LocalWorkers | None) -> Iterator[Workers]:
    """Yield the workers for the remaining images of a run; end processes that were started in advance but are not needed."""
    with local or LocalWorkers() as processes:
        if local_workers.fits(cfg, progress.images - progress.done):
            processes.bound = bound_to(cfg, run)
            yield processes
            return
    from pipeline.segment.on_ray import OnRay  # its imports take seconds, which small runs save

    yield OnRay(cfg, run, progress)
