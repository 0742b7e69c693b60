"""One writer at a time: leases that are refused, taken over and given back, and a writer that was frozen meanwhile."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage
from pipeline.errors import StoreRefused
from pipeline.runs import Lease, lease


@pytest.fixture(params=["folder", "s3", "gs", "az"])
def run_uri(request, tmp_path):
    return (
        str(tmp_path) if request.param == "folder" else f"{request.getfixturevalue(request.param)}/{uuid.uuid4().hex}"
    )


def put_lease(run_uri, expires_in_s=1000.0, **changes):
    expires = time.time() + expires_in_s
    holder = {"token": "x", "host": "elsewhere", "machine": "m", "pid": 1, "expires": expires} | changes
    storage.put(f"{run_uri}/_lease/00000004.json", json.dumps(holder).encode())


def leases(run_uri):
    return [file.path for file in storage.list_files(f"{run_uri}/_lease")]


HERE = {"host": socket.gethostname(), "machine": lease._machine()}


@pytest.mark.parametrize(
    "holder",
    [{**HERE, "pid": os.getpid()}, {}, {"expires_in_s": -1.0}],
    ids=["this machine", "another machine", "another machine whose clock may be behind"],
)
def test_a_second_writer_is_refused_while_the_first_lives(run_uri, holder):
    put_lease(run_uri, **holder)
    with pytest.raises(ValueError, match=r"\(process \d+\) is writing it; wait for it to end"), Lease(run_uri):
        pass
    assert leases(run_uri) == ["00000004.json"]
    assert Lease.holder(run_uri) == f"{holder.get('host', 'elsewhere')} (process {holder.get('pid', 1)})"


def test_refused_credentials_end_neither_the_renewal_nor_hide_the_error(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    put, tries = storage.put, []

    def refused_once(uri, data):
        tries.append(uri)
        if len(tries) == 1:
            raise StoreRefused("the credentials have expired")
        put(uri, data)

    def refused(uri, data):
        raise StoreRefused("the credentials have expired")

    with pytest.raises(KeyboardInterrupt), Lease(str(tmp_path)):
        monkeypatch.setattr(storage, "put", refused_once)
        end = time.monotonic() + 20
        while len(tries) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        monkeypatch.setattr(storage, "put", refused)
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "holder",
    [{"expires_in_s": -lease.SKEW_S - 1}, {**HERE, "pid": 2**22 + 5}],
    ids=["expired", "process gone"],
)
def test_a_dead_writers_lease_is_taken_over_and_given_back(run_uri, holder):
    put_lease(run_uri, **holder)
    assert Lease.holder(run_uri) is None
    with Lease(run_uri) as held:
        held.check()
        assert leases(run_uri) == ["00000005.json"]
        with pytest.raises(ValueError, match="is writing it"), Lease(run_uri):
            pass
    assert Lease.holder(run_uri) is None
    with Lease(run_uri):
        assert leases(run_uri) == ["00000006.json"]


def test_a_process_of_another_container_with_this_host_name_is_not_taken_for_dead(tmp_path):
    put_lease(tmp_path, host=socket.gethostname(), pid=2**22 + 5)
    with pytest.raises(ValueError, match="is writing it"), Lease(str(tmp_path)):
        pass


def test_of_many_writers_that_find_a_dead_lease_one_takes_it(run_uri):
    put_lease(run_uri, expires=0)
    held = [Lease(run_uri) for _ in range(6)]

    def enter(one):
        try:
            return one.__enter__()
        except ValueError:
            return None

    with ThreadPoolExecutor(6) as pool:
        won = [one for one in pool.map(enter, held) if one]
    assert len(won) == 1
    won[0].__exit__(None, None, None)


def test_a_listing_that_was_old_does_not_give_the_lease_to_two(tmp_path, monkeypatch):
    """The number that the slow writer takes was used and removed since it looked."""
    put_lease(tmp_path, expires=0)
    real, looks = lease._numbers, []

    def old(run_uri):
        looks.append(real(run_uri))
        return [4] if len(looks) == 1 else real(run_uri)

    held = [Lease(str(tmp_path)) for _ in range(2)]
    with held[0]:
        pass
    with held[1], monkeypatch.context() as patched:  # 5 is gone, 6 holds
        put_lease(tmp_path, expires=0)
        patched.setattr(lease, "_numbers", old)
        with pytest.raises(ValueError, match="is writing it"), Lease(str(tmp_path)):
            pass
        assert not held[1].lost()


def test_a_lease_is_renewed_while_its_writer_lives_and_lost_when_it_was_taken(run_uri, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    with Lease(run_uri) as held:
        (name,) = leases(run_uri)
        first = storage.read(f"{run_uri}/_lease/{name}")
        deadline = time.monotonic() + 30
        while storage.read(f"{run_uri}/_lease/{name}") == first:
            assert time.monotonic() < deadline
        storage.put(f"{run_uri}/_lease/00000002.json", storage.read(f"{run_uri}/_lease/{name}"))
        with pytest.raises(ValueError, match="has taken it over; this one stops"):
            held.check()
    assert storage.read(f"{run_uri}/_lease/00000002.json") != b""  # not given back: it is another's


FROZEN = """
import sys
from pipeline.runs import Lease, lease
from tests.test_run import open_run, tables
lease.EXPIRES_S, lease.SKEW_S, lease.RENEW_S = 0.0, 0.0, 1000.0
with Lease(sys.argv[1]) as held:
    run = open_run(sys.argv[1])
    run.begin(1)
    answer = tables(run.shard_items(1), rejected=("val/s_2",))  # its store had an error
    print("ready", flush=True)
    sys.stdin.readline()
    run.commit(1, *answer)
    try:
        run.finish(1, held)
    except ValueError as error:
        print(error)
"""


def test_a_frozen_writer_that_wakes_after_its_lease_was_taken_changes_nothing(tmp_path, monkeypatch):
    from pipeline.runs import verify
    from tests.test_run import complete, open_run

    monkeypatch.setattr(lease, "SKEW_S", 0.0)
    old = subprocess.Popen(
        [sys.executable, "-c", FROZEN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert old.stdout.readline() == "ready\n"
        old.send_signal(signal.SIGSTOP)
        with Lease(str(tmp_path)) as held:
            run = open_run(tmp_path)
            complete(run)
            run.finish(0, held)
            before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
            success = (tmp_path / "_SUCCESS.json").read_bytes()
            old.send_signal(signal.SIGCONT)
            told, _ = old.communicate("go\n", timeout=60)
        assert "has taken it over; this one stops" in told
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
        assert (tmp_path / "_SUCCESS.json").read_bytes() == success
        assert verify(run.uri).problems == []
    finally:
        old.kill()
        old.wait()


def test_a_lease_that_a_full_disk_kept_from_being_given_back_is_not_held_against_its_own_process(tmp_path, monkeypatch):
    def full(uri, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Lease(str(tmp_path)):
        monkeypatch.setattr(storage, "put", full)
    monkeypatch.undo()
    assert Lease.holder(str(tmp_path)) is None
    with Lease(str(tmp_path)) as again:
        again.check()
