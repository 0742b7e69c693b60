"""Progress of a segmentation run, as its driver sees it: committed shards, and images answered in other shards."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.cluster.phases import PHASES
from pipeline.runs import SECONDS
from pipeline.segment.shard_progress import Count

POLL_S = 2.0


class Workers(Protocol):
    """Workers that answer shards: Ray actors, or processes of this machine."""

    def summaries(self, pending: list[int]) -> Iterator[dict[str, Any]]:
        """Yield the summary of each pending shard once it is committed."""

    def counts(self) -> Mapping[str, Count]:
        """Return the progress of each worker."""

    def forget(self) -> None:
        """Delete the counts of an earlier command."""

    def waits_for(self) -> str:
        """Return what the start of the first worker waits for."""


@dataclass
class Progress:
    """Progress of a run; images of earlier starts count as done, but not towards the rate."""

    images: int  # of the whole run
    done: int
    rejects: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))
    answered_now: int = 0
    first_answer: float | None = None  # `time.monotonic` when the first worker began
    unfinished: int = 0  # images answered in shards that are not committed yet
    unheard: int = 0  # images of committed shards whose summaries have not arrived yet

    def add(self, row: dict[str, Any]) -> None:
        self.begin(row["began"])
        self.done += row["images"]
        self.answered_now += row["images"]
        self.rejects.update(row["rejects"])
        for name in SECONDS:
            self.seconds[name] += row[name]

    def begin(self, moment: float) -> None:
        """Note when a worker began (`time.time`); only the first counts."""
        self.first_answer = self.first_answer or time.monotonic() - (time.time() - moment)

    @property
    def images_per_s(self) -> float:
        """Rate since the first worker began; 0 before."""
        answered = self.answered_now + self.unheard + self.unfinished
        return answered / max(time.monotonic() - self.first_answer, 1e-3) if self.first_answer else 0.0

    @property
    def eta_s(self) -> float | None:
        left = self.images - self.done - self.unheard - self.unfinished
        return left / self.images_per_s if self.images_per_s else None


@contextlib.contextmanager
def heard(
    workers: Workers, progress: Progress, on_progress: Callable[[Progress], None]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Keep `progress` up to date: a thread polls counts; call the yielded function with the summary of each committed shard.

    Args:
        on_progress: called after each summary, and by that thread when counts change; never by two threads at once.
    """
    lock, over, listener = threading.Lock(), threading.Event(), _Listener(workers)

    def add(row: dict[str, Any]) -> None:
        with lock:
            listener.hear(row["shard"], progress)
            progress.add(row)
            on_progress(progress)

    def listen() -> None:
        while not over.wait(listener.pause_s()):
            if not listener.read():
                continue
            with lock:
                if listener.count(progress):
                    on_progress(progress)

    thread = threading.Thread(target=listen, name="progress", daemon=True)
    thread.start()
    try:
        yield add
        listener.forget()
    finally:
        over.set()
        thread.join(POLL_S)


class _Listener:
    """Counts received from the workers of a run."""

    def __init__(self, workers: Workers) -> None:
        self.heard: set[int] = set()  # shards whose summaries have arrived
        self._workers, self._counts = workers, dict[str, Count]()
        # Shard -> images that are in no summary yet.
        self._committed, self._at_work = dict[int, int](), dict[int, int]()
        self._waited_for, self._begun = "", False
        self.forget()  # counts of an earlier command

    def pause_s(self) -> float:
        """Return the seconds between two polls; a poll costs one request per worker."""
        return max(POLL_S, 0.02 * len(self._counts))

    def read(self) -> bool:
        """Fetch the newest counts; return whether any has changed."""
        found = dict[str, Count]()
        with contextlib.suppress(Exception):  # failed reads are skipped, like failed sends
            found = dict(self._workers.counts())
        changed, self._counts = found != self._counts, found
        self._begun = self._begun or bool(self.heard) or any(one.images or one.committed for one in found.values())
        if not self._begun:
            self._say_what_is_waited_for()
        return changed

    def count(self, progress: Progress) -> bool:
        """Set the images in `progress` that are in no summary yet; return whether there are any."""
        counts = self._counts.values()
        known = {shard: images for one in counts for shard, images in one.committed if shard not in self.heard}
        self._committed, self._at_work = (
            known,
            {
                one.shard: one.images
                for one in counts
                if one.images and one.shard is not None and one.shard not in self.heard and one.shard not in known
            },
        )
        progress.unheard, progress.unfinished = sum(known.values()), sum(self._at_work.values())
        if began := [one.began for one in counts if one.began]:
            progress.begin(min(began))
        return bool(self._committed or self._at_work)

    def hear(self, shard: int, progress: Progress) -> None:
        """Take a shard out of those counts, since its summary has arrived; cheaper than `count`, which visits every worker."""
        self.heard.add(shard)
        progress.unheard -= self._committed.pop(shard, 0)
        progress.unfinished -= self._at_work.pop(shard, 0)

    def forget(self) -> None:
        """Delete the counts that workers have sent."""
        with contextlib.suppress(Exception):
            self._workers.forget()

    def _say_what_is_waited_for(self) -> None:
        begun = sum(count.shard is not None for count in self._counts.values())
        if begun:
            words = "waiting for the first image"
        elif self._counts:
            words = f"loading weights in {len(self._counts)} actor{'s' if len(self._counts) > 1 else ''}"
        else:
            words = self._workers.waits_for()
        if words and words != self._waited_for:
            PHASES.info(words)
            self._waited_for = words
