"""Share the cores of one actor between the model, which uses all of them, and threads that decode and encode."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets at most as many threads compute at once as there are cores; each thread waits for its turn.

    Decoding while the model computes would make more threads than cores. The model's threads wait for each other at every
    layer, so a delay of one delays all. Therefore the model keeps the cores until it has no image left, and then lends them:
    by that time several images wait to be decoded, and all cores decode.
    """

    def __init__(self, cores: int) -> None:
        self._cores, self._ones, self._wanting_all = cores, 0, 0
        self._holder: int | None = None  # id of the thread that has all cores
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold one core; a model that waits for its turn goes first."""
        with self._changed:
            self._changed.wait_for(lambda: self._holder is None and not self._wanting_all and self._ones < self._cores)
            self._ones += 1
        try:
            yield
        finally:
            with self._changed:
                self._ones -= 1
                self._changed.notify_all()

    @contextmanager
    def all(self) -> Iterator[None]:
        """Hold all cores; has no effect in a thread that has them already."""
        if self._has_all():
            yield
            return
        self._take()
        try:
            yield
        finally:
            self._give()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Release the cores of a thread that has all, while it waits; has no effect in other threads."""
        if not self._has_all():
            yield
            return
        self._give()
        try:
            yield
        finally:
            self._take()

    def _has_all(self) -> bool:
        return self._holder == threading.get_ident()

    def _take(self) -> None:
        with self._changed:
            self._wanting_all += 1
            self._changed.wait_for(lambda: self._holder is None and not self._ones)
            self._wanting_all -= 1
            self._holder = threading.get_ident()

    def _give(self) -> None:
        with self._changed:
            self._holder = None
            self._changed.notify_all()
