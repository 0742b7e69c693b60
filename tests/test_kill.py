"""kill -9 of the driver and of a worker at random steps: training ends with the same loss at every step as undisturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline import storage
from pipeline.train.driver import train
from pipeline.train.metrics_log import read_records
from tests.small_train import config, curve, train_alone

CHANGES = {"workers": 1, "batch_size": 2, "epochs": 6, "save_every": 3, "validate_every": 3, "max_failures": 3,
           "augment": {"crop": [32, 64], "scale": [0.8, 1.2], "flip": True, "colour": 0.2}}  # fmt: skip
STEPS = 24
DRIVER = """
import sys
from pipeline.config import TrainConfig, load
from pipeline.train.driver import train
train(load(TrainConfig, sys.argv[1]))
"""


@pytest.fixture(scope="module")
def unbroken(scenes, tmp_path_factory):
    """The loss curve and the hash of the weights of a run that nothing happened to."""
    cfg = config(scenes, tmp_path_factory.mktemp("unbroken"), **CHANGES)
    return train_alone(cfg), weights_of(cfg.output)


def weights_of(output):
    return json.loads(storage.read(f"{output}/last/checkpoint.json"))["weights_sha256"]


def snapshot_step(output):
    """The newest step for which a snapshot has been begun."""
    return max((int(file.path[5:14]) for file in storage.list_files(f"{output}/snapshots")), default=0)


def wait_for(what, deadline_s=100):
    deadline = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.scorecard("fault", 1, 5)
@pytest.mark.slow
def test_a_run_survives_kill_9_of_its_driver_and_of_its_worker(ray_session, scenes, tmp_path, unbroken, seed):
    import ray

    chance = random.Random(seed)
    first, second = chance.randrange(0, 9), chance.randrange(12, 18)
    cfg = config(scenes, tmp_path / "run", **CHANGES)
    file = tmp_path / "train.yaml"
    file.write_text(json.dumps(cfg.model_dump(mode="json")))

    # A driver of its own on the same cluster, killed while its worker trains.
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(file)], env=os.environ | {"RAY_ADDRESS": address})
    wait_for(lambda: starts(cfg) and snapshot_step(cfg.output) >= first)
    time.sleep(chance.random() * 0.3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    broken_at = snapshot_step(cfg.output)
    assert broken_at < STEPS

    # The same command again; this time the worker is killed, and Ray Train starts another.
    began = len(starts(cfg))
    killed = []

    def kill_worker():
        wait_for(lambda: len(starts(cfg)) > began and snapshot_step(cfg.output) >= second)
        time.sleep(chance.random() * 0.3)
        killed.append(starts(cfg)[-1]["pid"])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    train(cfg)
    killer.join()
    assert starts(cfg)[-1]["pid"] != killed[0]
    assert (curve(cfg.output), weights_of(cfg.output)) == unbroken


def starts(cfg):
    return [record for record in read_records(f"{cfg.output}/metrics.jsonl") if record["kind"] == "start"]
