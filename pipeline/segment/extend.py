"""`maskmill extend`: answer what has changed in the archive of a finished run, as the run's next generation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pipeline.cluster.phases import PHASES
from pipeline.config import SegmentConfig
from pipeline.corpus import scan_items
from pipeline.errors import UserError
from pipeline.runs import Lease, Run, RunInfo, describe, newest_state
from pipeline.runs.changes import Changes, Planned, times_written
from pipeline.runs.extension import Staged, planned, publish, rejected_ids, stage, staged, tidy
from pipeline.runs.generations import GONE, NEW, REPLACED
from pipeline.runs.info import Success, restore_success
from pipeline.segment.driver import Segmented, segment
from pipeline.segment.local_workers import LocalWorkers
from pipeline.segment.progress import Progress

MOST_GONE = 0.5  # share of the images; if more are gone, the archive is probably not mounted


@dataclass(frozen=True)
class Extended:
    """Result of an extension."""

    run: str
    generation: int  # number of the newest
    changes: Mapping[str, int]  # counts of new, replaced and gone images; all 0 if nothing differs
    images: int  # in the archive
    answered: Segmented | None  # what this start answered; None if there was nothing to answer


def extend(
    cfg: SegmentConfig,
    retry_rejects: bool = False,
    accept_gone: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    local: LocalWorkers | None = None,
) -> Extended:
    """Answer the images that are new or replaced in the archive of a finished run, and withdraw rows of gone images.

    The same command resumes an extension that was interrupted.

    Args:
        cfg: config of the run at `cfg.output`; keys that affect masks must equal the run's, machine settings may differ.
        retry_rejects: answer rejected images again; in an extension to be resumed, only those that it rejected itself.
        accept_gone: go on even if more than half of the images are gone.
        local: worker processes that were started in advance; used if the images are few enough to need no Ray.
    Raises:
        UserError: the run is not finished, another process writes it, the archive does not fit the run, or too many of the
            images answered now were rejected.
    """
    uri = cfg.output
    with Lease(uri) as lease:
        info, state = describe(uri), _finished(uri)
        restore_success(uri, state)
        tidy(uri, state)
        if (made := staged(uri, state)) is not None:
            if retry_rejects:
                with Lease(made.uri) as its:
                    Run.open(made.uri).withdraw_rejects(its)
        else:
            PHASES.info("listing the corpus")
            check = partial(_check_gone, cfg, accept_gone)
            known = _known(cfg, info, state, retry_rejects)
            made, changes = stage(uri, info, state, known, scan_items(cfg.corpus, cfg.split), check)
            if made is None:
                return Extended(uri, state.generation, {NEW: 0, REPLACED: 0, GONE: 0}, changes.images, None)
        answered = _answer(cfg, made, on_progress, local)
        PHASES.info("publishing generation %d", made.number)
        last = publish(made, lease).generations[-1]
    return Extended(uri, last.number, {NEW: last.new, REPLACED: last.replaced, GONE: last.gone}, last.images, answered)


def changes_of(cfg: SegmentConfig) -> Changes:
    """Return how the archive of a finished run differs from what the run has answered; writes nothing."""
    info, state, changes = describe(cfg.output), _finished(cfg.output), Changes()
    known = _known(cfg, info, state, retry_rejects=False)
    for _ in known.to_answer(scan_items(cfg.corpus, cfg.split), changes):
        pass
    return changes


def _finished(uri: str) -> Success:
    state = newest_state(uri)
    if state is None:
        raise UserError(
            f"run {uri} is not finished, so it cannot be extended yet; finish it first: maskmill resume {uri}"
        )
    return state


def _known(cfg: SegmentConfig, info: RunInfo, state: Success, retry_rejects: bool) -> Planned:
    again = rejected_ids(cfg.output, info, state) if retry_rejects else ()
    return planned(cfg.output, info, state, again, times_written(cfg.corpus.images, cfg.corpus.labels))


def _check_gone(cfg: SegmentConfig, accept_gone: bool, changes: Changes) -> None:
    """Raise UserError if so many images are gone that the archive is probably out of reach."""
    gone = changes.count(GONE)
    known = changes.images - changes.count(NEW) + gone
    if not accept_gone and gone > MOST_GONE * known:
        raise UserError(
            f"run {cfg.output}: {gone} of its {known} images are gone from {cfg.corpus.images}; see whether the archive can be "
            "reached whole, or add --accept-gone, which withdraws their rows"
        )


def _answer(
    cfg: SegmentConfig, made: Staged, on_progress: Callable[[Progress], None], local: LocalWorkers | None
) -> Segmented | None:
    """Answer the images of a staged generation like those of any run; return None if there are none."""
    cfg = cfg.model_copy(update={"output": made.uri})
    if made.plan.num_images:
        return segment(cfg, on_progress, local)
    with Lease(made.uri) as lease:
        Run.open(made.uri).finish(cfg.max_reject_rate, lease)
    return None
