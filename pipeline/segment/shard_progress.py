"""Progress within a shard: counts that actors send while they work; `progress.py` reads them.

The summary of a shard comes once it is committed, which takes minutes where images are large. Meanwhile a thread of each actor
sends one small value a second. No answer depends on it: what cannot be sent or read is left out.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

SEND_S = 1.0
KEPT = 16  # committed shards of an actor that its counts name


@dataclass(frozen=True)
class Count:
    """What one actor is at: images answered of a shard; `shard` is None before the first."""

    shard: int | None = None
    images: int = 0
    began: float = 0.0  # `time.time` of the shard's begin
    committed: tuple[
        tuple[int, int], ...
    ] = ()  # the last shards before it with their images: their summaries may come later


class CountReporter:
    """The side of the actor.

    Args:
        send: what hands a count to the driver; None: nobody hears of it.
    """

    def __init__(self, send: Callable[[Count], None] | None) -> None:
        self._count = Count()
        if send is not None:
            threading.Thread(target=self._send_on, args=(send,), name="progress", daemon=True).start()

    def begin(self, shard: int) -> None:
        """Work on a shard begins."""
        self._count = Count(shard, 0, time.time(), self._count.committed)

    def answered(self) -> None:
        """One image more is through."""
        self._count = replace(self._count, images=self._count.images + 1)

    def commit(self, shard: int, images: int) -> None:
        """A shard is committed."""
        self._count = Count(None, 0, self._count.began, (*self._count.committed, (shard, images))[-KEPT:])

    @property
    def count(self) -> Count:
        """What the actor is at."""
        return self._count

    def _send_on(self, send: Callable[[Count], None]) -> None:
        sent: Count | None = None
        while True:
            if (count := self._count) is not sent:
                with contextlib.suppress(Exception):  # Ray's types for a head that is away differ by version
                    send(count)
                    sent = count
            time.sleep(SEND_S)
