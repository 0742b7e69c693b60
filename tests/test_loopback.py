"""Who can reach the Ray that a command starts: nobody on another machine, and no other user, since it needs a token."""

import json
import os
import stat
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.scorecard("security", 13)]

# In a process of its own: what all of Ray's processes listen on once an actor and a task run.
STARTED = """
import json, os, time
from pathlib import Path

import ray
from pipeline.cluster import connection
from tests.chaos.nodes import children, title

connection.connect()

@ray.remote(num_cpus=0)
class Actor:
    def call(self):
        return 1

@ray.remote(num_cpus=0)
def task():
    return 1

actor = Actor.remote()
assert ray.get([actor.call.remote(), task.remote()]) == [1, 1]

def listening():
    owners, found = {}, []
    for pid in [os.getpid(), *children(os.getpid())]:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            link = os.readlink(file) if file.is_symlink() else ""
            if link.startswith("socket:["):
                owners[link[8:-1]] = pid
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in owners:
                found.append([title(owners[rest[5]]), local.rpartition(":")[0]])
    return found

wanted = {"gcs_server", "raylet", "Actor", "DashboardAgent", "RuntimeEnvAgent"}
deadline = time.monotonic() + 30
while time.monotonic() < deadline and not all(any(w in name for name, _ in listening()) for w in wanted):
    time.sleep(0.2)
print(json.dumps(listening()))
"""
# As the kernel writes 127.0.0.1, as it is and as an address of IPv6; ::1.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def run(code, home):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HOME": str(home)}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_process_of_an_embedded_ray_listens_on_loopback_alone(tmp_path):
    """Its token, which Ray would write for all to read, too is for its owner alone."""
    found = json.loads(run(STARTED, tmp_path).splitlines()[-1])
    for process in ("gcs_server", "raylet", "Actor", "DashboardAgent", "RuntimeEnvAgent", "connect"):
        assert any(process in name for name, _ in found), (process, found)
    assert [(name, address) for name, address in found if address not in LOOPBACK] == []
    token = tmp_path / ".ray/auth_token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert list(token.parent.iterdir()) == [token]


TOKEN = """
import os
from pipeline.cluster.connection import _keep_token_private

_keep_token_private()
print(os.environ.get("RAY_AUTH_TOKEN", ""))
"""


def test_a_token_of_an_earlier_start_is_kept_and_closed_to_others(tmp_path):
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("of an earlier start")
    token.chmod(0o644)
    assert run(TOKEN, tmp_path) == "\n"
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("of an earlier start", 0o600)


def test_a_home_that_cannot_be_written_leaves_the_token_to_the_process(tmp_path):
    (tmp_path / ".ray").write_text("no folder")
    assert len(run(TOKEN, tmp_path).strip()) == 64
