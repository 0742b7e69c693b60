"""What the faults share: a store behind a proxy, a small corpus in it, a cluster of three nodes, a warm driver."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.synthetic.scenes import write_corpus
from tests.chaos.driver import Driver
from tests.chaos.nodes import Nodes
from tests.chaos.world import IMAGES, World
from tests.faulty_store import FaultyStore
from tests.s3_server import S3Server


@pytest.fixture(scope="package")
def world(s3_process: S3Server, s3: str, tiny_checkpoint: str) -> Iterator[World]:
    """Corpus and checkpoint in the store, and the proxy that cluster and drivers reach it through."""
    corpus, network = storage.join(s3, "chaos/corpus"), storage.join(s3, "chaos/checkpoint")
    write_corpus(corpus, {"val": IMAGES}, 32, 64, seed=1, packed=False)
    for file in storage.list_files(tiny_checkpoint):
        storage.put(storage.join(network, file.path), storage.read(file.uri))
    with FaultyStore(s3_process.url) as proxy:
        yield World(s3_process, proxy, corpus, network, storage.join(s3, "chaos/runs"))


@pytest.fixture(scope="package")
def nodes(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head without work and two worker nodes."""
    started = Nodes(world.environment)
    try:
        started.add()
        started.add()
        yield started
    finally:
        started.end()


class Drivers:
    """The warm driver of a cluster; a new one where the last was killed."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self._warm: Driver | None = None

    def get(self) -> Driver:
        if self._warm is not None and self._warm.busy():  # with the run of a test that failed
            self.end()
        if self._warm is None or self._warm.process.poll() is not None:
            self._warm = Driver(self._environment, self._log).wait_ready()
        return self._warm

    def end(self) -> None:
        if self._warm is not None:
            self._warm.kill()


@pytest.fixture(scope="package")
def drivers(nodes: Nodes, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    found = Drivers(world.environment | {"RAY_ADDRESS": nodes.address}, tmp_path_factory.mktemp("drivers") / "log")
    yield found
    found.end()


@pytest.fixture(scope="package")
def unbroken(drivers: Drivers, world: World) -> list[dict[str, object]]:
    """The rows of a run that nothing happened to, without measured seconds."""
    output = world.new_output()
    answer = drivers.get().run(world.config(output))
    assert answer["answered_now"] == IMAGES, answer
    return world.rows(output)
