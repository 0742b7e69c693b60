"""Ctrl-C in a real terminal, in each phase: one message, exit code 130, and nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.synthetic.scenes import write_corpus
from tests.command import maskmill
from tests.small_train import config as train_config
from tests.terminal import CTRL_C, Terminal
from tests.test_segment import config as segment_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENDS_WITHIN_S = 30  # Ray's own processes are ended too


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """URIs of a corpus that keeps an actor busy."""
    return write_corpus(str(tmp_path_factory.mktemp("many")), {"train": 8, "val": 120}, 64, 128, seed=1)


def segment_file(many, tiny_checkpoint, tmp_path):
    cfg = segment_config(*many, tiny_checkpoint, tmp_path / "run", images_per_shard=1, actors=1,
                         predict={"scales": [1.0, 2.0, 3.0], "flip": True})  # fmt: skip
    return written(cfg, tmp_path)


def written(cfg, folder):
    path = folder / "config.yaml"
    path.write_text(json.dumps(cfg.model_dump(mode="json")))
    return str(path)


def stopped(terminal):
    """The one sentence of a command that Ctrl-C has ended."""
    assert terminal.ended(ENDS_WITHIN_S) == 130, terminal.text
    assert "Traceback" not in terminal.text and "Exception ignored" not in terminal.text, terminal.text
    (line,) = (line for line in terminal.text.splitlines() if "stopped: " in line)
    assert "run the same command again" in line
    return line


RAY = {"RAY_ADDRESS": "local"}  # which this small run would do without
LONG = [(0.2, None), (2.5, None), (1.5, RAY), (2.5, RAY), (6.0, RAY)]


@pytest.mark.parametrize(
    ("moment_s", "environment"),
    [(0.0, None), (1.5, None), (4.0, RAY), *(pytest.param(*values, marks=pytest.mark.long) for values in LONG)],
)
def test_ctrl_c_while_a_run_starts(many, tiny_checkpoint, tmp_path, moment_s, environment):
    with Terminal("segment", segment_file(many, tiny_checkpoint, tmp_path), environment=environment) as terminal:
        terminal.await_listening()
        terminal.read_for(moment_s)
        terminal.press(CTRL_C)
        stopped(terminal)


@pytest.mark.parametrize("environment", [None, pytest.param(RAY, marks=pytest.mark.long)])
def test_ctrl_c_while_segmenting_keeps_what_is_answered_and_gives_the_run_back(
    many, tiny_checkpoint, tmp_path, environment
):
    with Terminal("segment", segment_file(many, tiny_checkpoint, tmp_path), environment=environment) as terminal:
        terminal.await_text("images/s · ETA 0")
        terminal.press(CTRL_C)
        line = stopped(terminal)
    assert f"the images answered so far are kept in {tmp_path}/run" in line
    told = maskmill("status", str(tmp_path / "run")).stdout
    assert "not running; to resume it" in told and not told.startswith("0 of 128")


@pytest.mark.long
def test_ctrl_c_while_training_keeps_the_snapshots(scenes, tmp_path):
    cfg = train_config(scenes, tmp_path / "run", workers=1, epochs=200, save_every=1)
    with Terminal("train", written(cfg, tmp_path)) as terminal:
        terminal.await_text("data wait")
        terminal.press(CTRL_C)
        line = stopped(terminal)
    assert f"the snapshots written so far are kept in {tmp_path}/run" in line


SWALLOWED = """
import signal, sys, time
from pipeline import interrupts
interrupts.listen()
{handler}
print("ready", flush=True)
for _ in range(200):
    try:
        time.sleep(0.05)
    except KeyboardInterrupt:
        print("swallowed", flush=True)
        break
end = time.monotonic() + 20
while time.monotonic() < end:
    time.sleep(0.05)
"""


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGINT, lambda number, frame: None)"])
def test_a_key_that_a_library_swallows_is_heard_all_the_same(handler):
    """Either the exception disappears, as in a destructor, or the library's own handler takes the signal."""
    script = SWALLOWED.format(handler=handler)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(2)
    _, told = process.communicate(timeout=15)
    assert told.rstrip().endswith("KeyboardInterrupt")


UNWINDING = """
import time
from pipeline import interrupts
interrupts.REPEAT_S = 0.2
interrupts.listen()
try:
    print("ready", flush=True)
    time.sleep(30)
finally:
    time.sleep(1.5)
    print("closed down", flush=True)
"""


def test_closing_down_is_not_broken_off():
    process = subprocess.Popen(
        [sys.executable, "-c", UNWINDING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(2)
    assert process.communicate(timeout=15)[0] == "closed down\n"


IMPORTED = """
import os, signal, time
print("ready", flush=True)
os.kill(os.getpid(), signal.{signal})
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    time.sleep(0.05)
print("imported", flush=True)
"""
IMPORTS = """
import time
from pipeline import interrupts
interrupts.HOLD_S = 1.5
interrupts.listen()
import slow
time.sleep(30)
"""


@pytest.mark.parametrize(("number", "seconds", "printed"), [
    ("SIGTERM", 0.5, ["ready", "imported"]),
    ("SIGINT", 0.5, ["ready", "imported"]),
    ("SIGTERM", 30, ["ready"]),  # an import that never ends is broken off after all
])  # fmt: skip
def test_an_import_is_not_broken_off(number, seconds, printed, tmp_path):
    """torch's C++ ends the process where KeyboardInterrupt passes through it in an import."""
    (tmp_path / "slow.py").write_text(IMPORTED.format(signal=number, seconds=seconds))
    process = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=20,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
    )  # fmt: skip
    assert process.stdout.split() == printed
    assert process.stderr.rstrip().endswith("KeyboardInterrupt")


FORKS = """
import logging, os, signal, time
from pipeline import interrupts
interrupts.listen()
try:
    while True:
        if os.fork() == 0:
            os._exit(0)
        os.wait()
except KeyboardInterrupt:
    print("stopped")
"""


DROPS = """
import time
from pipeline import interrupts
interrupts.REPEAT_S = 15
interrupts.listen()
class Slow:
    def __del__(self):
        time.sleep(30)
try:
    print("ready", flush=True)
    Slow()
    time.sleep(30)
except KeyboardInterrupt:
    print("stopped")
"""


def test_a_signal_in_a_finaliser_is_raised_again_at_once():
    """Python prints an exception raised there and drops it."""
    process = subprocess.Popen([sys.executable, "-c", DROPS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10) == ("stopped\n", "")


def test_a_signal_in_a_fork_is_not_lost_in_the_callbacks_of_logging():
    """Whatever is raised in them, Python prints and drops."""
    for tenth in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(0.5 + tenth / 100)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("stopped\n", "")
