"""The small run that every fault is laid on, and what must hold after each of them."""

import io
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.runs import SECONDS, verify
from tests.faulty_store import FaultyStore
from tests.s3_server import S3Server

IMAGES = 24
IMAGES_PER_SHARD = 2
SHARDS = IMAGES // IMAGES_PER_SHARD


@dataclass
class World:
    """Where everything lies."""

    server: S3Server
    proxy: FaultyStore
    corpus: str
    checkpoint: str
    runs: str
    _numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        """For clusters and drivers: to the store through the proxy."""
        return self.server.environment(self.proxy.url)

    def new_output(self) -> str:
        return storage.join(self.runs, f"run-{next(self._numbers)}")

    def config(self, output: str, **changes: object) -> dict[str, object]:
        """A segment config: twelve shards of two images, each long enough to be broken off."""
        return {
            "corpus": {"images": self.corpus, "labels": self.corpus, "layout": "cityscapes"},
            "checkpoint": self.checkpoint, "output": output, "predict": {"scales": [1.0] * 8},
            "images_per_shard": IMAGES_PER_SHARD, "max_reject_rate": 0, "actors": 2, "cpus_per_actor": 1,
        } | changes  # fmt: skip

    def parts(self, output: str) -> int:
        """Shards committed so far."""
        return len(storage.list_files(storage.join(output, "masks")))

    def rows(self, output: str) -> list[dict[str, object]]:
        """Every mask row but its measured seconds, in the order of the plan."""
        files = storage.list_files(storage.join(output, "masks"))
        tables = [pq.read_table(io.BytesIO(storage.read(file.uri))) for file in files]
        return [{k: v for k, v in row.items() if k not in SECONDS} for table in tables for row in table.to_pylist()]

    def rejects(self, output: str) -> dict[str, str]:
        """image id -> reason."""
        files = storage.list_files(storage.join(output, "rejects"))
        tables = [pq.read_table(io.BytesIO(storage.read(file.uri))) for file in files]
        return {row["image_id"]: row["error"] for table in tables for row in table.to_pylist()}

    def begun_again(self, output: str) -> int:
        """How often work on a shard was begun that had been begun before."""
        folder = storage.join(output, "attempts").removeprefix("s3://")
        return sum(count - 1 for count in self.proxy.count("PUT", f"^{folder}/").values())


def prove(world: World, output: str, unbroken: list[dict[str, object]]) -> None:
    """No image lost, none doubled, every file readable, every row that of the unbroken run."""
    proof = verify(output)
    assert (proof.images, proof.masks, proof.rejects, proof.problems) == (IMAGES, IMAGES, 0, [])
    differing = [
        (row["image_id"], name, row.get(name), expected.get(name))
        for row, expected in zip(world.rows(output), unbroken, strict=True)
        for name in row | expected
        if name not in row or name not in expected or row[name] != expected[name]
    ]
    assert differing == []


def wait_for(condition: Callable[[], object], timeout_s: float = 300) -> object:
    """What the condition says, once it says something."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found
