"""Connect to Ray: start it on this machine, or join a running cluster; callers need not know which."""

import atexit
import contextlib
import functools
import logging
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ray
from ray._private import auto_init_hook, ray_constants, services

from pipeline import interrupts
from pipeline.cluster import node_versions
from pipeline.cluster.phases import PHASES
from pipeline.errors import UserError

LOOPBACK, LOCAL = "127.0.0.1", "local"
_LOG_LINE = re.compile(rb"\[[-0-9]+ [:,.0-9]+ [A-Z] \d+ \d+\] .*\.cc:\d+: ")  # a line of Ray's C++ log
WORKER_KEYS, ACTOR_KEYS = "workers, cpus_per_worker, gpus_per_worker", "cpus_per_actor, gpus_per_actor"  # config keys


def connect() -> None:
    """Join the Ray cluster at `RAY_ADDRESS`, which Ray sets in jobs; if it is unset or `local`, start Ray on this machine."""
    if ray.is_initialized():
        return
    atexit.register(_stay_ended)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a batch job on a closed network has nobody to report to
    # Ray's own notices (token mode, actor restarts) would break up the live progress line; its log files keep them all.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    if address == LOCAL:
        PHASES.info("starting Ray on this machine")
    else:
        PHASES.info("joining the Ray cluster at %s", address)
    # Ray's own SIGTERM handler would print a C++ stack trace and end this process.
    with interrupts.kept(), _without_log_lines():
        _start() if address == LOCAL else _join()


@contextlib.contextmanager
def _without_log_lines() -> Iterator[None]:
    """Keep lines of Ray's C++ log off stderr while Ray starts: it writes some before it applies the log level it was given.

    Everything else that is written to stderr meanwhile is passed on.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    thread = threading.Thread(target=_hand_on, args=(reader, stderr), name="stderr", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(stderr, 2)  # closes the pipe, unless a process that was started meanwhile holds it open
        thread.join(1.0)


def _hand_on(reader: int, stderr: int) -> None:
    with open(reader, "rb") as lines:
        for line in lines:
            if not _LOG_LINE.match(line):
                os.write(stderr, line)
    os.close(stderr)


def _join() -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except RuntimeError as error:
        if "Version mismatch" not in str(error):  # Ray's own message: it has no exception type for this
            raise
        raise UserError(f"{' '.join(str(error).split())}; install the cluster's own versions here") from None
    node_versions.check_nodes()


def _start() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    _keep_token_private()
    # Ray's processes listen only on loopback if that is their node's address. Ray replaces a loopback address, except where
    # it does not support clusters (Windows, macOS); nothing else depends on this switch, which has no public name.
    ray_constants.ENABLE_RAY_CLUSTER, clusters = False, ray_constants.ENABLE_RAY_CLUSTER
    # A SIGTERM to this process group, as from job servers, must not end Ray's processes before this one: without them Ray's
    # C++ ends this process at once, with exit code 1 and before the run's lease is given back.
    popen = services.ConsolePopen
    own_group = popen if os.name == "nt" else functools.partial(popen, process_group=0)
    services.ConsolePopen = own_group  # type: ignore[misc,assignment]
    try:
        # "local": without an address Ray would join any Ray that `ray start` left running on this machine, whoever owns it.
        ray.init(
            LOCAL,
            _node_ip_address=LOOPBACK,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray's own message: it has no exception type for this
            raise
        raise UserError(
            "Ray did not start on this machine in the 30 s that it allows itself: too much else runs here; stop that, and run "
            "the same command again"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        services.ConsolePopen = popen  # type: ignore[misc]


def _stay_ended() -> None:
    """Keep Ray from starting again while this process exits: a thread of Ray Data that calls it then would start a new one."""
    auto_init_hook.enable_auto_connect = False


def _keep_token_private() -> None:
    """Write the token that Ray's processes ask for, readable only by its owner: Ray itself would let everybody read it."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or os.environ.get(
        "RAY_AUTH_MODE", "token"
    ) != "token":
        return
    token, path = secrets.token_hex(32), Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # readable by its owner alone
            draft.write(token)
            draft.flush()
            with contextlib.suppress(FileExistsError):
                os.link(draft.name, path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError:  # the home folder is not writable: only this process and its children get the token
        if not os.path.exists(path):
            os.environ["RAY_AUTH_TOKEN"] = token


def require(num_workers: int, cpus: float, gpus: float, what: str, keys: str) -> None:
    """Refuse a job that the cluster can never schedule, instead of waiting forever.

    Args:
        keys: the config keys that set what each worker needs, for the message.
    Raises:
        UserError: the cluster, at the limit of its autoscaler, has less than `num_workers` times (cpus, gpus).
    """
    total = ray.cluster_resources()
    # None on a cluster without an autoscaler; there is no public call for an autoscaler's limits.
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    total = {kind: max(total.get(kind, 0), limits.get(kind, 0)) for kind in total.keys() | limits.keys()}
    for kind, each in (("CPU", cpus), ("GPU", gpus)):
        needed, there = num_workers * each, total.get(kind, 0)
        if needed > there:
            raise UserError(
                f"{what} need {needed:g} {kind}s ({num_workers} x {each:g}) and the cluster has {there:g}; "
                f"lower their number or what each takes ({keys}), or add nodes"
            )
