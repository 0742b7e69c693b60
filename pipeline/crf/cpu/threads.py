"""A team of threads for compiled functions that release the GIL, and their working memory.

Memory is kept for the next image, since on a virtual machine new pages can cost a third of the inference.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.errors import UserError

KEPT_BYTES = 1 << 30  # of memory that a process keeps between inferences, at most
_kept: list[np.ndarray] = []
_lock = Lock()


class Team:
    """Runs tasks on `num_threads` threads while the caller waits; with one thread the caller runs them itself."""

    def __init__(self, num_threads: int) -> None:
        if num_threads < 1:
            raise UserError(f"dense CRF: num_threads is {num_threads}; it must be at least 1")
        self.num_threads = num_threads
        self._lent: list[np.ndarray] = []
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="crf") if num_threads > 1 else None

    def __enter__(self) -> "Team":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        with _lock:
            room = KEPT_BYTES - sum(block.nbytes for block in _kept)
            for block in self._lent:
                if block.nbytes <= room:
                    _kept.append(block)
                    room -= block.nbytes
        self._lent = []

    def empty(self, *shape: int, dtype: Any = np.float32) -> np.ndarray:
        """Return an uninitialised array, aligned to a cache line and valid until the team exits."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with _lock:
            fitting = [i for i, block in enumerate(_kept) if num_bytes + 64 <= block.nbytes <= 2 * num_bytes + 4096]
            block = _kept.pop(min(fitting, key=lambda i: _kept[i].nbytes)) if fitting else None
        if block is None:
            block = np.empty(num_bytes + 64, np.uint8)
        self._lent.append(block)
        start = -block.ctypes.data % 64
        return block[start : start + num_bytes].view(dtype).reshape(shape)

    def run(self, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the results of work(*task) for each task, in order."""
        if self._pool is None or len(tasks) == 1:
            return [work(*task) for task in tasks]
        return list(self._pool.map(lambda task: work(*task), tasks))

    def bands(self, length: int, multiple: int = 1) -> list[tuple[int, int]]:
        """Divide 0..length into at most `num_threads` parts of nearly equal size, none empty, cut at multiples."""
        blocks = -(-length // multiple)
        cuts = [min(length, multiple * (blocks * t // self.num_threads)) for t in range(self.num_threads + 1)]
        return [(start, stop) for start, stop in pairwise(cuts) if start < stop]
