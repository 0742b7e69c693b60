"""Small runs do without Ray: processes of this machine answer their shards, and nothing is lost if one dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from pipeline.corpus import plan_shards, scan_items
from pipeline.runs import Run, verify
from pipeline.segment import local_workers
from pipeline.segment.actor import Segmenter, bound_to, loaded_ahead
from pipeline.segment.driver import identity, segment
from pipeline.segment.local_workers import MOST_IMAGES, fits
from tests.chaos.nodes import children, title
from tests.test_interrupts import written
from tests.test_segment import WITHOUT_SECONDS, config, rows

PROGRAM = """
import json, sys
from pipeline.config import SegmentConfig, parse
from pipeline.segment import local_workers
from pipeline.segment.driver import segment
{before}
done = segment(parse(SegmentConfig, json.load(open(sys.argv[1])), where="test"))
print(json.dumps([done.rows, done.rejects, done.answered_now, "ray" in sys.modules]))
"""


class Driver:
    """A program that segments in a process of its own, where no Ray runs."""

    def __init__(self, cfg, folder, before=""):
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(before=before), written(cfg, folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def await_(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None and time.monotonic() < end, self.process.communicate()
            time.sleep(0.01)
        return found

    def answer(self):
        """What it printed: rows, rejects, images answered, whether Ray was imported."""
        out, err = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, err
        return json.loads(out)


@pytest.fixture(scope="module")
def on_ray(ray_session, scenes, tiny_checkpoint, tmp_path_factory):
    """The rows of the run that actors of Ray answer."""
    cfg = config(*scenes, tiny_checkpoint, tmp_path_factory.mktemp("on-ray") / "run")
    segment(cfg)
    return rows(cfg.output, WITHOUT_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("actors", [1, 2])
def test_the_rows_are_those_of_a_run_on_ray_which_is_not_imported(on_ray, scenes, tiny_checkpoint, tmp_path, actors):
    cfg = config(*scenes, tiny_checkpoint, tmp_path / "run", actors=actors)
    assert Driver(cfg, tmp_path).answer() == [14, {}, 14, False]
    assert rows(cfg.output, WITHOUT_SECONDS) == on_ray
    assert verify(cfg.output).problems == []


@pytest.mark.slow
@pytest.mark.long
def test_a_process_that_is_killed_is_replaced(on_ray, scenes, tiny_checkpoint, tmp_path):
    """Twice; the second time in the shard that was begun already."""
    cfg = config(*scenes, tiny_checkpoint, tmp_path / "run", actors=1, images_per_shard=1, predict={"scales": [4.0]})
    driver = Driver(cfg, tmp_path)
    for answered in (2, 5):
        driver.await_(lambda: len(list(tmp_path.glob("run/masks/part-*"))) >= answered)  # noqa: B023
        (child,) = driver.await_(lambda: [pid for pid in children(driver.process.pid) if "local_worker" in title(pid)])
        os.kill(child, signal.SIGKILL)
    assert driver.answer() == [14, {}, 14, False]
    assert verify(cfg.output).problems == []
    whole = cfg.model_copy(update={"output": str(tmp_path / "whole")})
    Driver(whole, tmp_path).answer()
    assert rows(cfg.output, WITHOUT_SECONDS) == rows(whole.output, WITHOUT_SECONDS)


@pytest.mark.slow
def test_the_processes_end_with_their_driver_however_it_ends(scenes, tiny_checkpoint, tmp_path):
    cfg = config(*scenes, tiny_checkpoint, tmp_path / "run", actors=1, images_per_shard=1, predict={"scales": [8.0]})
    driver = Driver(cfg, tmp_path)
    driver.await_(lambda: list(tmp_path.glob("run/masks/part-*")))
    (child,) = children(driver.process.pid)
    driver.process.kill()
    driver.process.communicate()
    end = time.monotonic() + 10
    while "local_worker" in title(child):
        assert time.monotonic() < end
        time.sleep(0.01)
    answered = len(list(tmp_path.glob("run/masks/part-*")))
    assert 0 < answered < 14
    assert len(Run.open(cfg.output).pending()) == 14 - answered
    assert Driver(cfg, tmp_path).answer() == [14, {}, 14 - answered, False]
    assert verify(cfg.output).problems == []


def test_processes_that_die_again_and_again_end_the_run_with_the_last_that_they_said(scenes, tiny_checkpoint, tmp_path):
    cfg = config(*scenes, tiny_checkpoint, tmp_path / "run")
    dead = "local_workers._PROGRAM = 'import sys; print(\"no room\"); sys.exit(3) # {path} {handle}'"
    driver = Driver(cfg, tmp_path, before=dead)
    _, err = driver.process.communicate(timeout=120)
    assert driver.process.returncode == 1
    assert f"run {cfg.output}: 5 processes died one after another over shard" in err
    assert "(exit code 3: no room)" in err
    assert len(Run.open(cfg.output).pending()) == 4


def test_weights_that_were_loaded_ahead_serve_a_run_with_the_same_checkpoint(scenes, tiny_checkpoint, tmp_path):
    cfg, copy = config(*scenes, tiny_checkpoint, tmp_path / "run", crf=None), str(tmp_path / "copy")
    shutil.copytree(tiny_checkpoint, copy)
    ahead = loaded_ahead(cfg.model_dump(mode="json"))
    assert ahead is not None and loaded_ahead(None) is None
    of_copy = loaded_ahead(cfg.model_copy(update={"checkpoint": copy}).model_dump(mode="json"))
    settings, ready = cfg.model_dump(mode="json"), ahead[1]
    run = Run.open_or_create(
        cfg.output,
        identity(cfg, ready),
        settings,
        ready.label_space,
        lambda: plan_shards(scan_items(cfg.corpus, None), 4, 10**9),
    )
    for given, same in ((ahead, True), (of_copy, False), (None, False)):
        segmenter = Segmenter(**bound_to(cfg, run), ahead=given).segmenter
        assert (segmenter.predictor.model is ready.model) == same


def test_a_checkpoint_that_cannot_be_loaded_ahead_is_left_to_the_driver(scenes, tmp_path):
    assert loaded_ahead(config(*scenes, str(tmp_path / "nothing"), tmp_path / "run").model_dump(mode="json")) is None


AFTER_WARM_UP = """
import json, sys
from pipeline.config import SegmentConfig, parse
from pipeline.corpus import list_items
from pipeline.segment.actor import loaded_ahead
from pipeline.segment.shard import ShardSegmenter
payload = json.load(open(sys.argv[1]))
cfg, ready = loaded_ahead(payload)
before = set(sys.modules)
ShardSegmenter(ready, cfg).answer(list_items(cfg.corpus, None)[:1])
print(json.dumps([name for name in set(sys.modules) - before if name.split(".")[0] in ("numba", "llvmlite", "torchcodec")]))
"""


def test_the_first_image_waits_for_no_import_of_what_each_image_needs(scenes, tiny_checkpoint, tmp_path):
    path = written(config(*scenes, tiny_checkpoint, tmp_path / "run", crf=None), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", AFTER_WARM_UP, path], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == []


def test_which_runs_do_without_ray(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cfg = config(*scenes, "model", tmp_path / "run")
    assert fits(cfg, MOST_IMAGES)
    assert not fits(cfg, MOST_IMAGES + 1)
    for key, value in (("gpus_per_actor", 1), ("decode", "tasks"), ("actors", 3), ("cpus_per_actor", 2)):
        assert not fits(cfg.model_copy(update={key: value}), 1), key
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    assert not fits(cfg, 1)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not fits(cfg, 1)


def test_the_children_of_a_process_end_with_it(monkeypatch):
    """In which it looks for an image that kills its process, for as long as the shard takes."""
    program = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    monkeypatch.setattr(local_workers, "_PROGRAM", program)
    worker, end = local_workers._Worker(None), time.monotonic() + 20
    while not (told := os.pread(worker._said.fileno(), 100, 0).strip()):
        assert time.monotonic() < end
        time.sleep(0.01)
    worker.end()
    while "sleep" in title(int(told)):
        assert time.monotonic() < end
        time.sleep(0.01)
