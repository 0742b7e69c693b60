"""Faults 21 and 22: a training run is killed while it saves, and finds its newest snapshot cut short."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import pytest

from pipeline import storage
from tests.chaos.driver import ROOT
from tests.faulty_store import kills, owner_of
from tests.small_train import config, curve, train_alone

pytestmark = pytest.mark.chaos
CHANGES = {"workers": 1, "batch_size": 2, "epochs": 2, "save_every": 1}
SAVED = re.compile(r"/(snapshots/step-\d+|last|best)/")
TRAIN = """
import json, sys
from pipeline.config import TrainConfig, parse
from tests.small_train import train_alone
train_alone(parse(TrainConfig, json.loads(sys.argv[1]), where="chaos"))
"""


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """Loss curve and weights of a run that nothing happened to."""
    cfg = config(scenes, tmp_path_factory.mktemp("whole"), **CHANGES)
    return train_alone(cfg), weights_of(cfg.output)


def weights_of(output):
    return [json.loads(storage.read(f"{output}/{name}/checkpoint.json"))["weights_sha256"] for name in ("last", "best")]


def train(cfg, world):
    command = [sys.executable, "-c", TRAIN, json.dumps(cfg.model_dump(mode="json"))]
    return subprocess.run(command, env=os.environ | world.environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.scorecard("fault", 21)
def test_kill_9_in_the_middle_of_saving_costs_no_step(world, scenes, whole, seeds):
    """The process dies of a PUT of one of the files of a snapshot or a checkpoint; what was put before is there."""
    cfg = config(scenes, world.new_output(), **CHANGES)
    for seed in seeds:
        left = [random.Random(seed).randint(2, 9)]

        def where(asked, left=left):
            left[0] -= asked.method == "PUT" and bool(SAVED.search(asked.key))
            return left[0] == 0

        with world.proxy.fault(kills(lambda port: os.kill(owner_of(port), signal.SIGKILL)), where) as struck:
            assert train(cfg, world).returncode == -signal.SIGKILL
        assert SAVED.search(struck[0].key)
    done = train(cfg, world)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (curve(cfg.output), weights_of(cfg.output)) == whole


@pytest.mark.scorecard("fault", 22)
def test_a_newest_snapshot_cut_short_costs_the_steps_since_the_one_before(world, scenes, whole, seed):
    cfg = config(scenes, world.new_output(), **CHANGES)
    chance = random.Random(seed)

    def where(asked):
        return asked.method == "PUT" and "snapshots/step-000000006/_SUCCESS" in asked.key

    with world.proxy.fault(kills(lambda port: os.kill(owner_of(port), signal.SIGKILL)), where):
        assert train(cfg, world).returncode == -signal.SIGKILL
    part = storage.join(cfg.output, "snapshots/step-000000005", chance.choice(["weights.safetensors", "optimizer.pt"]))
    data = storage.read(part)
    storage.put(part, data[: chance.randrange(len(data))])
    done = train(cfg, world)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (curve(cfg.output), weights_of(cfg.output)) == whole
