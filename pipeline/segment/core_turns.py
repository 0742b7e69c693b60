"""The cores of one actor, shared by the model, which computes on all of them, and by threads that decode and encode."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """So many cores, never more threads at work: each thread waits for its turn.

    Decoding beside the model's own threads would give the cores more threads than they are: those of the model wait for each
    other at every layer, so one that is held up holds up all. So the model keeps the cores until it lacks an image, and then
    lends them: by that time several images wait to be decoded, and all cores do it.
    """

    def __init__(self, cores: int) -> None:
        self._cores, self._ones, self._wanting_all = cores, 0, 0
        self._holder: int | None = None  # the thread that has all
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """One core; after the model, if it waits for its turn."""
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
        """All cores; nothing changes for a thread that has them."""
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
        """While the thread that has all cores waits; nothing changes for one that has not."""
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
