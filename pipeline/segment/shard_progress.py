"""Progress within a shard: counts that actors leave at the cluster's head; `progress.py` reads them.

Ray Data hands on the summary of a shard once it is committed, which takes minutes where images are large. Meanwhile a thread
of each actor puts one small value a second into the key-value store of Ray's head. No answer depends on it: what cannot be
sent or read is left out.
"""

import contextlib
import json
import threading
import time
from dataclasses import dataclass, replace

import ray
from ray.experimental import internal_kv

SEND_S = 1.0
KEPT = 16  # committed shards of an actor that its counts name
NAMESPACE = b"maskmill"


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
    """The side of the actor; does nothing outside of Ray.

    Args:
        fingerprint: of the run.
    """

    def __init__(self, fingerprint: str) -> None:
        self._count = Count()
        if ray.is_initialized() and internal_kv._internal_kv_initialized():
            key = f"{fingerprint}/{ray.get_runtime_context().get_actor_id()}"
            threading.Thread(target=self._send_on, args=(key,), name="progress", daemon=True).start()

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

    def _send_on(self, key: str) -> None:
        sent: Count | None = None
        while True:
            if (count := self._count) is not sent:
                with contextlib.suppress(Exception):  # Ray's types for a head that is away differ by version
                    internal_kv._internal_kv_put(key, json.dumps(vars(count)), overwrite=True, namespace=NAMESPACE)
                    sent = count
            time.sleep(SEND_S)
