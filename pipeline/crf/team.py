"""A team of threads for compiled functions that run without the interpreter's lock: exactly as many as asked for."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import Any


class Team:
    """Runs tasks on `num_threads` threads, the caller among the waiting; with one thread the caller works itself."""

    def __init__(self, num_threads: int) -> None:
        if num_threads < 1:
            raise ValueError(f"dense CRF: num_threads is {num_threads}; it must be at least 1")
        self.num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="crf") if num_threads > 1 else None

    def __enter__(self) -> "Team":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """work(*task) of each task, in order."""
        if self._pool is None or len(tasks) == 1:
            return [work(*task) for task in tasks]
        return list(self._pool.map(lambda task: work(*task), tasks))

    def bands(self, length: int, multiple: int = 1) -> list[tuple[int, int]]:
        """0..length in at most `num_threads` parts of nearly equal size, cut at whole multiples; none is empty."""
        blocks = -(-length // multiple)
        cuts = [min(length, multiple * (blocks * t // self.num_threads)) for t in range(self.num_threads + 1)]
        return [(start, stop) for start, stop in pairwise(cuts) if start < stop]
