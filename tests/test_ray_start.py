"""A Ray that does not start names the machine as the reason; one that did outlives signals to its driver, and ends with it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.chaos.nodes import children, title

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def stop_raylet(pid: int, stopped: list[int]) -> None:
    """Freeze the raylet of a process as soon as it is there, as a machine does that has no core left for it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not stopped:
        for child in children(pid):
            if "raylet" in title(child):
                os.kill(child, signal.SIGSTOP)
                stopped.append(child)
        time.sleep(0.005)


def test_a_ray_that_does_not_start_in_time_is_told_in_a_sentence():
    code = (
        "import sys; from pipeline.cli import run; from pipeline.cluster.connection import connect; "
        "sys.exit(run(connect, debug=False))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    frozen: list[int] = []
    threading.Thread(target=stop_raylet, args=(process.pid, frozen), daemon=True).start()
    try:
        _, said = process.communicate(timeout=240)
    finally:
        for pid in frozen:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    assert frozen and process.returncode == 1, said
    assert "Traceback" not in said
    assert "error: Ray did not start on this machine" in said


# In a process of its own: which processes a signal to this one's group reaches, and what a thread may do while it exits.
STARTED = """
import atexit, os, sys

@atexit.register  # before Ray's own: it runs after Ray was shut down
def use():
    try:
        ray.put(1)
    except Exception as error:
        print(type(error).__name__)

import ray
from pipeline.cluster.connection import connect
from tests.chaos.nodes import children, title

connect()
print([title(pid) for pid in children(os.getpid()) if os.getpgid(pid) == os.getpgrp()])
print(sum("raylet" in title(pid) for pid in children(os.getpid())) > 0)
sys.stdout.flush()
"""


def test_a_signal_to_the_drivers_group_spares_rays_processes_and_no_ray_starts_while_it_exits():
    """Without its raylet, Ray ends a driver at once with exit code 1; a thread of Ray Data may call Ray after its end."""
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines() == ["[]", "True", "RaySystemError"], done.stdout + done.stderr
