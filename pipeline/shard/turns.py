"""The cores of one actor, shared by the model, which computes on all of them, and by threads that decode and encode."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """So many cores, never more threads at work: each thread waits for its turn.

    Decoding beside the model's own threads would give the cores more threads than they are: those of the model wait for each
    other at every layer, so one that is held up holds up all. Where the model lacks images, all cores decode.
    """

    def __init__(self, cores: int) -> None:
        self._cores, self._ones, self._wanting_all, self._all = cores, 0, 0, False
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """One core; after the model, if it waits for its turn."""
        with self._changed:
            self._changed.wait_for(lambda: not self._all and not self._wanting_all and self._ones < self._cores)
            self._ones += 1
        try:
            yield
        finally:
            with self._changed:
                self._ones -= 1
                self._changed.notify_all()

    @contextmanager
    def all(self) -> Iterator[None]:
        """All cores."""
        with self._changed:
            self._wanting_all += 1
            self._changed.wait_for(lambda: not self._all and not self._ones)
            self._wanting_all, self._all = self._wanting_all - 1, True
        try:
            yield
        finally:
            with self._changed:
                self._all = False
                self._changed.notify_all()
