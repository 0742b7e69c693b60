"""SIGTERM, as Kubernetes and job servers send it, ends a real command like Ctrl-C, and the next start resumes at once."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.runs import Lease, Run
from tests.small_train import config as train_config
from tests.test_interrupts import ENDS_WITHIN_S, many, segment_file, written  # noqa: F401  # a fixture
from tests.test_kill import starts

pytestmark = [pytest.mark.slow, pytest.mark.scorecard("fault", 31), pytest.mark.timeout(900)]


def with_ray(ray):
    """The environment of a command that starts Ray, or of one that a small run makes do without."""
    return os.environ | {"RAY_ADDRESS": "local" if ray else ""}


class Command:
    """A `maskmill` process in a session of its own, whose output is no terminal."""

    def __init__(self, folder, *arguments, ray=False):
        self.log = folder / "log"
        with self.log.open("wb") as log:
            program = str(Path(sys.executable).with_name("maskmill"))
            self.process = subprocess.Popen(
                [program, *arguments], stdout=log, stderr=log, start_new_session=True, env=with_ray(ray)
            )

    def await_(self, condition, seconds=240):
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def listens(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (signal.SIGALRM - 1) & 1

    def stopped(self, send):
        """What it says, after one SIGTERM and its end."""
        send(self.process.pid, signal.SIGTERM)
        try:
            assert self.process.wait(ENDS_WITHIN_S) == 143, self.log.read_text()
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        said = self.log.read_text()
        for words in ("Traceback", "***", "SIGTERM", "Exception ignored"):
            assert words not in said, said
        assert len(re.findall("^stopped: .*run the same command again", said, re.M)) == 1, said
        return said


@pytest.mark.parametrize(("moment_s", "ray"), [(0.0, False), (1.5, False), (1.5, True), (4.0, True)])
def test_while_a_run_starts(many, tiny_checkpoint, tmp_path, moment_s, ray):  # noqa: F811
    command = Command(tmp_path, "segment", segment_file(many, tiny_checkpoint, tmp_path), ray=ray)
    command.await_(command.listens)
    time.sleep(moment_s)
    command.stopped(os.kill)


@pytest.mark.parametrize("ray", [False, True])
def test_while_segmenting_the_lease_is_given_back_and_a_resume_works_at_once(
    many,  # noqa: F811
    tiny_checkpoint,
    tmp_path,
    ray,
):
    """The first start is ended alone, the second with all of its process group."""
    command = Command(tmp_path, "segment", segment_file(many, tiny_checkpoint, tmp_path), ray=ray)
    run = str(tmp_path / "run")
    command.await_(lambda: list(tmp_path.glob("run/masks/part-*")))
    said = command.stopped(os.kill)
    assert f"the images answered so far are kept in {run}" in said
    assert Lease.holder(run) is None
    left = len(Run.open(run).pending())
    assert 0 < left < 128
    again = Command(tmp_path, "resume", run, ray=ray)
    again.await_(lambda: len(Run.open(run).pending()) < left)
    again.stopped(os.killpg)
    assert Lease.holder(run) is None


@pytest.mark.long
def test_while_training_the_snapshots_are_kept_and_training_goes_on_from_them(scenes, tmp_path):
    cfg = train_config(scenes, tmp_path / "run", workers=1, epochs=200, save_every=1)
    command = Command(tmp_path, "train", written(cfg, tmp_path))
    command.await_(lambda: list(tmp_path.glob("run/snapshots/*")))
    said = command.stopped(os.kill)
    assert f"the snapshots written so far are kept in {tmp_path}/run" in said
    again = Command(tmp_path, "train", written(cfg, tmp_path))
    again.await_(lambda: len(starts(cfg)) == 2)
    again.stopped(os.kill)
    assert starts(cfg)[1]["step"] > 0
