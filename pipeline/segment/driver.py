"""Ray Data: a corpus in, one Parquet row an image out. Rows of the dataset are shards; only their summaries come back."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy

from pipeline.cluster import connection
from pipeline.cluster.worker_env import worker_environment
from pipeline.config import SegmentConfig, run_keys
from pipeline.corpus import plan_shards, scan_items
from pipeline.imaging.bands import require_rasterio
from pipeline.imaging.polygons import require_shapely
from pipeline.metrics.registry import check_metrics
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict.engines import PACKAGES
from pipeline.runs import Lease, Run, grown
from pipeline.segment import failures, telemetry
from pipeline.segment.actor import Segmenter, decode
from pipeline.segment.checkpoints import fitted, load_checkpoints
from pipeline.segment.engine import as_recorded, with_engine
from pipeline.segment.progress import Progress, heard

# Of an actor: each deadly image costs one, and spot machines more; with no bound, one that never comes up would be tried
# for ever.
RESTARTS = 100
# A shard is tried for as long as its actor may be restarted. A bound of its own would be used up in the seconds between
# the death of a node and the cluster's notice of it, when every try finds nobody.
RETRIES = -1
# Tasks of Ray: beyond the larger of so many and so many an actor, a task holds several shards.
TASKS, TASKS_AN_ACTOR = 2000, 100
PHASE = connection.PHASES.info
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmented:
    """How a run ended."""

    run: str
    rows: int
    rejects: dict[str, int]  # by reason
    answered_now: int  # images of this start; the others were committed before
    images_per_s: float
    engine: str = "torch"
    labelled: bool = True  # at least one image of the plan has a label
    had_finished: bool = False  # before this start, which did nothing


def segment(cfg: SegmentConfig, on_progress: Callable[[Progress], None] = lambda progress: None) -> Segmented:
    """Answer every image of a corpus; shards already committed to the run are skipped.

    Raises:
        UserError: corpus, checkpoint, output or machine do not fit the config, or too many images were rejected.
    """
    with failures.explained(cfg.output):
        return _segment(cfg, on_progress)


def _segment(cfg: SegmentConfig, on_progress: Callable[[Progress], None]) -> Segmented:
    PHASE("loading weights from %s", cfg.checkpoint)
    ready = load_checkpoints(cfg)
    check_metrics(dict(cfg.metrics), ready.label_space)
    if ready.image is not None:
        require_rasterio()
    if cfg.regions is not None and cfg.regions.polygons is not None:
        require_shapely()
    PHASE("looking at the corpus")
    cfg, recorded = as_recorded(fitted(cfg, ready))
    if recorded is None and cfg.engine != "torch":
        PHASE("preparing the engine")
    begins = with_engine(cfg, ready, recorded)
    cfg, ready = begins.cfg, begins.ready
    if recorded is not None and (state := grown(cfg.output)):
        whole = Run.resumed(cfg.output, identity(cfg, ready))
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
        progress = Progress(run.num_images, run.num_images - int(run.shard_sizes()[pending].sum()))
        if pending:
            run.reopen(lease)
            on_progress(progress)
            rows = _answer(cfg, run, pending)
            watched = telemetry.SegmentationMetrics(cfg.output, progress.images, progress.done)
            warned = False
            with heard(cfg, run.fingerprint, progress, on_progress) as add:
                for row in rows.iter_rows():
                    failures.raise_encoded(row["ended"])
                    if row["warning"] and not warned:
                        _log.warning("%s", row["warning"])
                        warned = True
                    add(row)
                    watched.add(row, progress.done)
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


def identity(cfg: SegmentConfig, ready: Checkpoint) -> dict[str, Any]:
    """What decides the bytes of a run's output; machine-side knobs (actors, batch size, GPUs) are not in it."""
    settings = cfg.model_dump(mode="json", include=run_keys(SegmentConfig))
    return {**settings, **ready.identity}


def _answer(cfg: SegmentConfig, run: Run, pending: list[int]) -> ray.data.Dataset:
    """The stage chain: shard numbers -> summaries of committed shards."""
    connection.connect()
    connection.require(1, cfg.cpus_per_actor, cfg.gpus_per_actor, "one actor of the run", connection.ACTOR_KEYS)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    tasks = min(len(pending), max(TASKS, TASKS_AN_ACTOR * cfg.actors))
    shards: ray.data.Dataset = ray.data.from_items([{"shard": n} for n in pending], override_num_blocks=tasks)
    bound = {"payload": cfg.model_dump(mode="json"), "fingerprint": run.fingerprint, "retried": run.retried()}
    if cfg.decode == "tasks":  # on all nodes; not fused into the actor, since its restarts are set below
        shards = shards.map_batches(
            decode,  # type: ignore[arg-type]  # its second argument comes from fn_kwargs
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs=bound,
            num_cpus=1,
            scheduling_strategy="SPREAD",
        )
    # All actors start at once; where they could take the CPUs of decoding, Ray adds them one by one as it sees fit.
    actors = min(cfg.actors, len(pending))
    PHASE("starting %d actor%s, each loads the weights", actors, "" if actors == 1 else "s")
    # Ray Data has no named parameter for an actor's restarts yet, and warns of every other way to set them.
    warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
    return shards.map_batches(
        Segmenter,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs=bound,
        compute=ActorPoolStrategy(min_size=1, max_size=actors, initial_size=1 if cfg.decode == "tasks" else actors),
        num_cpus=cfg.cpus_per_actor,
        num_gpus=cfg.gpus_per_actor,
        ray_remote_args_fn=lambda: {
            "max_restarts": RESTARTS,
            "max_task_retries": RETRIES,
            "runtime_env": worker_environment(cfg.gpus_per_actor),
        },
    )
