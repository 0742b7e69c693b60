"""Progress within a shard: counts that actors send while they work; `progress.py` reads them.

The summary of a shard comes once it is committed, which takes minutes if images are large. Meanwhile, a thread of each actor
sends one small value per second. No answer depends on it: what cannot be sent or read is skipped.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

SEND_S = 1.0
KEPT = 16  # most committed shards that an actor's count lists


@dataclass(frozen=True)
class Count:
    """Progress of one actor: images answered of its shard; `shard` is None between shards."""

    shard: int | None = None
    images: int = 0
    began: float = 0.0  # `time.time` when the shard was begun
    # The last committed shards with their numbers of images: their summaries may arrive later.
    committed: tuple[tuple[int, int], ...] = ()


class CountReporter:
    """Counts the images of an actor, and sends the count in a thread.

    Args:
        send: passes a count to the driver; None: nothing is sent.
    """

    def __init__(self, send: Callable[[Count], None] | None) -> None:
        self._count, self._images = Count(), 0
        if send is not None:
            threading.Thread(target=self._send_on, args=(send,), name="progress", daemon=True).start()

    def begin(self, shard: int, images: int) -> None:
        """Note that work on a shard of so many images begins."""
        self._count, self._images = Count(shard, 0, time.time(), self._count.committed), images

    def answered(self) -> None:
        """Note that one more image is answered; after a failure, images of the shard may be answered once more."""
        self._count = replace(self._count, images=min(self._images, self._count.images + 1))

    def commit(self, shard: int, images: int) -> None:
        """Note that a shard is committed."""
        self._count = Count(None, 0, self._count.began, (*self._count.committed, (shard, images))[-KEPT:])

    @property
    def count(self) -> Count:
        """Current progress of the actor."""
        return self._count

    def _send_on(self, send: Callable[[Count], None]) -> None:
        sent: Count | None = None
        while True:
            if (count := self._count) is not sent:
                with contextlib.suppress(Exception):  # Ray's exceptions for an unreachable head differ by version
                    send(count)
                    sent = count
            time.sleep(SEND_S)
