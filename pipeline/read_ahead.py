"""Bounded read-ahead: many small requests run at once, and their results come in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def read_ahead(
    load: Callable[[S], T], items: Iterable[S], threads: int, depth: int | None = None
) -> Generator[tuple[S, Future[T]], None, None]:
    """Yield each item with the future of `load(item)`, in order; an exception of `load` is raised by its future.

    Args:
        threads: number of calls of `load` that run at once.
        depth: most items that are loading, or loaded but not yet yielded; by default two per thread.
    """
    depth = depth or 2 * threads
    waiting: deque[tuple[S, Future[T]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(load, item)))
            if len(waiting) == depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
