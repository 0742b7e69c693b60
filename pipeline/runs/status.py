"""Report the progress of a run, without reading a mask."""

from dataclasses import dataclass

from pipeline.runs.extension import staged
from pipeline.runs.generations import newest_state
from pipeline.runs.info import Success
from pipeline.runs.lease import Lease
from pipeline.runs.ledger import Run
from pipeline.runs.success import still_finished


@dataclass(frozen=True)
class Status:
    """What `maskmill status` reports; field names are the keys of its JSON."""

    run: str
    state: str  # finished, being written, not finished, or being extended (finished, with a next generation begun)
    writer: str | None
    images: int  # of the newest generation, and of an extension that was begun
    answered: int
    shards: int
    pending_shards: int
    rejects: dict[str, int]  # by reason, the most frequent first
    generation: int = 1  # number of the newest that is finished
    new: int = 0  # images new in that generation; below: replaced and gone ones
    replaced: int = 0
    gone: int = 0


def status(uri: str) -> Status:
    """Return the progress of the run at a URI.

    Raises:
        UserError: there is no run, its `_SUCCESS.json` is damaged, or a part of an unfinished run belongs to another run.
    """
    state = newest_state(uri)
    if state is not None and (state.generations or staged(uri, state)):
        return _of_generations(uri, state)
    found, writer = Run.open(uri), Lease.holder(uri)
    if state is not None and (ended := still_finished(uri, found.fingerprint, state)):
        images, shards, reasons = found.num_images, found.plan.num_shards, ended.rejects_by_reason
        return Status(uri, "finished", writer, images, images, shards, 0, dict(reasons))
    sizes, pending = found.shard_sizes(), found.pending()
    answered = found.num_images - int(sizes[pending].sum())
    rejects = dict(found.rejects().most_common())
    words = "being written" if writer else "not finished"
    return Status(uri, words, writer, found.num_images, answered, len(sizes), len(pending), rejects)


def _of_generations(uri: str, state: Success) -> Status:
    writer, made = Lease.holder(uri), staged(uri, state)
    last = state.generations[-1] if state.generations else None
    done = state.rows + state.rejects
    images, answered, shards, pending = done, done, sum(name.startswith("masks/") for name in state.parts), 0
    if made is not None:
        run = Run.open(made.uri)
        sizes, left = run.shard_sizes(), run.pending()
        images, answered = images + run.num_images, answered + run.num_images - int(sizes[left].sum())
        shards, pending = shards + len(sizes), len(left)
    changes = {} if last is None else {"new": last.new, "replaced": last.replaced, "gone": last.gone}
    return Status(
        uri, "finished" if made is None else "being extended", writer, images, answered, shards, pending,
        dict(state.rejects_by_reason), state.generation, **changes,
    )  # fmt: skip
