"""One worker of a run: loads the weights, answers shard after shard, and reports the error that ended it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig, parse
from pipeline.corpus import Item
from pipeline.errors import UserError
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs import SECONDS, PartEntry, Run
from pipeline.segment import failures
from pipeline.segment.checkpoints import load_alike, load_bound, load_checkpoints
from pipeline.segment.core_turns import Turns
from pipeline.segment.crash_isolation import WORKER_ERROR, Answer, Tables, isolate_crashes, isolate_errors
from pipeline.segment.loading import Load, Loader
from pipeline.segment.packed import pack, unpack
from pipeline.segment.rows import mask_columns
from pipeline.segment.shard import READERS, ShardSegmenter
from pipeline.segment.shard_progress import Count, CountReporter
from pipeline.segment.warm_up import warm_up

# Most Ray tasks: TASKS, or TASKS_AN_ACTOR per actor if that is more; with more shards, a task holds several.
TASKS, TASKS_AN_ACTOR = 2000, 100
Ahead = tuple[SegmentConfig, Checkpoint]  # as `loaded_ahead` returns them
WITNESSES = 7  # images of other shards to try when all images of a shard fail, to see whether those images are at fault


class Segmenter:
    """A worker that answers shards. It never raises: Ray would retry what can only fail again, with a message of its own.

    Args:
        payload: the segment config, as JSON values.
        fingerprint: of the run, as the driver knows it.
        retried: shard -> ids of images to try again, whose files may have been repaired since they were planned.
        send: passes the number of images answered within a shard to the driver.
        ahead: result of `loaded_ahead`; ignored if the run predicts with other checkpoints.
    """

    def __init__(
        self,
        payload: dict[str, Any],
        fingerprint: str,
        retried: dict[int, list[str]],
        send: Callable[[Count], None] | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self.ahead = ahead
        self.payload, self.fingerprint, self.retried = payload, fingerprint, retried
        self.resuming = True  # until the first shard without an answer: an interrupted task begins with answered ones
        self.failure: str | None = None  # encoded error that ended the run; remaining shards are skipped
        self.reporter = CountReporter(send)
        self.at_fault = (
            False  # whether this process failed on images that others could answer: it answers no more itself
        )
        self.told = False  # whether a warning about the first images' pixel values was passed on

    @cached_property
    def cfg(self) -> SegmentConfig:
        return parse(SegmentConfig, self.payload, where="segment config")

    @cached_property
    def run(self) -> Run:
        return _opened(self.cfg.output, self.fingerprint)

    @cached_property
    def segmenter(self) -> ShardSegmenter:
        """Created in the thread that answers: with a second team of torch threads, neither team would spin at its barriers."""
        take_cores(self.cfg.cpus_per_actor)
        warm_up()
        ready = self.ahead[1] if self.ahead is not None and load_alike(self.ahead[0], self.cfg) else None
        return ShardSegmenter(load_bound(self.cfg, ready), self.cfg, self.reporter.answered)

    def __call__(self, row: pa.Table) -> pa.Table:
        """Answer one shard and return its summary; after an error, `ended` says what it was."""
        shard = row["shard"][0].as_py()
        if self.failure is None:
            try:
                return self._answer(shard, row)
            except Exception as error:
                self.failure = failures.encode(self.payload["output"], error, f"shard {shard}")
        return _summary(shard, 0, [], {}, time.time(), self.failure)

    def _answer(self, shard: int, row: pa.Table) -> pa.Table:
        segmenter, began = self.segmenter, time.time()
        items = _items(self.run, shard, self.retried)
        if self.resuming and (reasons := self.run.answered(shard)) is not None:
            return _summary(shard, len(items), reasons, {}, began)
        self.resuming = False
        self.reporter.begin(shard, len(items))
        load = unpack(row) if self.cfg.decode == "tasks" else segmenter.load
        here = self.run.begin(shard) and load is not None and not self.at_fault
        with self._leaving(shard):
            # If an earlier worker died on the shard, or decoding failed, one of its images may kill the process: use children.
            masks, rejects = self._answer_here(items, load) if here else self._answer_in_children(items)
            if here and _all_failed(
                rejects, items
            ):  # maybe for this process alone, as all CUDA calls after a first error
                masks, rejects = self._answer_in_children(items)
                self.at_fault = not _all_failed(rejects, items)
            if _all_failed(rejects, items):
                self._check_others(shard, items)
        part = self.run.commit(shard, masks, rejects)
        self.reporter.commit(shard, len(items))
        if load is None:
            self.run.end_decoding(shard)
        seconds = {name: sum(value or 0.0 for value in masks[name].to_pylist()) for name in SECONDS}
        warning, self.told = None if self.told else segmenter.input_statistics.warning, True
        reasons = rejects["error"].to_pylist()
        return _summary(shard, len(items), reasons, seconds, began, warning=warning, part=part)

    @contextlib.contextmanager
    def _leaving(self, shard: int) -> Iterator[None]:
        """Mark the shard as never begun if the block raises."""
        try:
            yield
        except Exception:
            with contextlib.suppress(OSError):
                self.run.leave(shard)
            raise

    def _answer_here(self, items: list[Item], load: Load | None) -> Tables:
        return isolate_errors(partial(self.segmenter.answer, load=load), items, self._schema)

    def _answer_in_children(self, items: list[Item]) -> Tables:
        return isolate_crashes(partial(_answer_of_child, self.payload), items, self._schema)

    @property
    def _schema(self) -> pa.Schema:
        return mask_columns(self.cfg, self.run.label_space, self.run.image is not None)

    def _check_others(self, shard: int, items: list[Item]) -> None:
        """Raise the error that every image of a shard met, unless images of other shards can be answered."""
        others = np.unique(np.linspace(0, self.run.plan.num_shards - 1, WITNESSES + 1).round().astype(int)).tolist()
        witnesses = [_items(self.run, other, self.retried)[0] for other in others if other != shard]
        masks, _ = self._answer_in_children(witnesses)
        if masks.num_rows:
            return
        try:
            self.segmenter.answer(items[:1])
        except Exception as error:
            error.add_note(
                f"on image {items[0].image_id}, as on all {len(items)} of shard {shard} and on {len(witnesses)} of other shards"
            )
            raise


def decode(row: pa.Table, payload: dict[str, Any], fingerprint: str, retried: dict[int, list[str]]) -> pa.Table:
    """Decode the images of a shard into one row; without images if that fails, or if an earlier try died on the shard.

    In that case the actor answers the shard in child processes, and finds out what is wrong.
    """
    cfg, shard, items = parse(SegmentConfig, payload, where="segment config"), row["shard"][0].as_py(), None
    try:
        run = _opened(cfg.output, fingerprint)
        if run.begin_decoding(shard):
            items = _items(run, shard, retried)
        packed = pack(shard, items, Loader(cfg, run.label_space, Turns(1), run.image), threads=READERS + 1)
        if items is not None:
            run.end_decoding(shard)
    except Exception:
        return pack(shard, None)
    return packed


def loaded_ahead(payload: dict[str, Any] | None) -> Ahead | None:
    """Load the checkpoints of a run that is about to begin, while the driver still plans it.

    None if its config is not known yet, or if loading fails; the driver will report why.
    """
    if payload is None:
        warm_up()
        return None
    try:
        cfg = parse(SegmentConfig, payload, where="segment config")
        take_cores(cfg.cpus_per_actor)
        warm_up()
        return cfg, load_checkpoints(cfg)
    except (UserError, OSError):
        return None


def bound_to(cfg: SegmentConfig, run: Run) -> dict[str, Any]:
    """Return the arguments that bind `Segmenter` and `decode` to a run."""
    return {"payload": cfg.model_dump(mode="json"), "fingerprint": run.fingerprint, "retried": run.retried()}


def num_tasks(shards: int, actors: int) -> int:
    """Return the number of Ray tasks for a number of shards."""
    return min(shards, max(TASKS, TASKS_AN_ACTOR * actors))


@lru_cache(maxsize=1)
def _opened(uri: str, fingerprint: str) -> Run:
    """Open the run, once per process.

    Raises:
        UserError: it is not the run that the driver works on.
    """
    run = Run.open(uri)
    if run.fingerprint != fingerprint:
        raise UserError(
            f"run {uri}: its fingerprint was {fingerprint} when this command began and is {run.fingerprint} now; another run "
            "has taken its place: run the same command again, or choose another output"
        )
    return run


def _answer_of_child(payload: dict[str, Any]) -> Answer:
    """Return the function that answers items in a child process."""
    cfg = parse(SegmentConfig, payload, where="segment config")
    take_cores(cfg.cpus_per_actor)
    ready = load_bound(cfg)
    schema = mask_columns(cfg, ready.label_space, ready.image is not None)
    return partial(isolate_errors, ShardSegmenter(ready, cfg).answer, schema=schema)


def _all_failed(rejects: pa.Table, items: list[Item]) -> bool:
    return rejects["error"].to_pylist() == [WORKER_ERROR] * len(items)


def _items(run: Run, shard: int, retried: dict[int, list[str]]) -> list[Item]:
    """Return a shard's items; those to be retried refer to their files as they are now, not as planned."""
    again = set(retried.get(shard, ()))
    return [item.as_it_is() if item.image_id in again else item for item in run.shard_items(shard)]


def _summary(
    shard: int,
    images: int,
    rejects: list[str],
    seconds: dict[str, float],
    began: float,
    ended: str | None = None,
    warning: str | None = None,
    part: PartEntry | None = None,
) -> pa.Table:
    """Return one small row per shard: all that comes back to the driver."""
    values = {"shard": shard, "images": images, "rejects": rejects, "began": began, "ended": ended,
              "warning": warning, "part": None if part is None else part.json}  # fmt: skip
    values |= dict.fromkeys(SECONDS, 0.0) | seconds
    fields = {"shard": pa.int64(), "images": pa.int64(), "rejects": pa.list_(pa.string()), "began": pa.float64(),
              "ended": pa.string(), "warning": pa.string(), "part": pa.string()}  # fmt: skip
    return pa.Table.from_pylist([values], schema=pa.schema({**fields, **dict.fromkeys(SECONDS, pa.float64())}))
