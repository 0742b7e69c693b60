"""Faults 17 and 18: a disk is full, where the masks go or where Ray spills to; a small tmpfs shows it."""

import random
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.driver import Driver
from tests.chaos.nodes import Nodes
from tests.chaos.world import IMAGES, prove

pytestmark = pytest.mark.chaos


def mounted(folder, size_kb, *options):
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size_kb}k", *options]), "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


@contextmanager
def small_disk(folder: Path, size_kb: int):
    """A folder on a file system of its own; skipped where this is not allowed."""
    folder.mkdir(parents=True)
    done = mounted(folder, size_kb)
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.scorecard("fault", 17)
def test_a_full_disk_ends_the_run_with_a_sentence_and_nothing_partial_is_seen(
    drivers, world, unbroken, seeds, tmp_path
):
    """The disk grows from start to start, and is enough for the last one alone."""
    with small_disk(tmp_path / "disk", 24) as disk:
        output = str(disk / "run")
        for size_kb in sorted(random.Random(seed).randint(24, 140) for seed in seeds):
            assert mounted(disk, size_kb, "remount").returncode == 0
            answer = drivers.get().run(world.config(output))
            assert "a disk is full" in str(answer.get("error")), answer
            assert "free space and run the same command again" in str(answer["error"])
            assert (
                "Ray" not in answer["error"] and "\n" not in answer["error"]
            )  # which has advice of its own, about retries
            assert list(disk.rglob("*.tmp")) == []
            world.rows(output)  # what is there can be read
        assert mounted(disk, 50_000, "remount").returncode == 0
        answer = drivers.get().run(world.config(output))
        assert answer.get("rows") == IMAGES, answer
        prove(world, output, unbroken)


@pytest.mark.scorecard("fault", 18)
def test_a_full_spill_disk_does_not_stop_a_run(world, unbroken, tmp_path):
    """The object store of every node is full and cannot spill: shards are numbers and summaries, and need next to none."""
    with small_disk(tmp_path / "spill", 64) as disk:
        store = {"object_store_memory": 80_000_000, "object_spilling_directory": str(disk)}
        nodes, output = Nodes(world.environment, num_cpus=1, **store), world.new_output()
        driver = Driver(world.environment | {"RAY_ADDRESS": nodes.address}, tmp_path / "log").wait_ready()
        try:
            filled = driver.run({"fill_bytes": 20_000_000})
            assert filled["objects"] >= 2 and "full" in filled["refused"].lower(), filled
            answer = driver.run(world.config(output, actors=1))
            assert answer.get("rows") == IMAGES, answer
        finally:
            driver.kill()
            nodes.end()
        prove(world, output, unbroken)
