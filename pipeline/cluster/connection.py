"""Ray inside this process, or the cluster this process runs in: the same calls either way."""

import contextlib
import logging
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ray
from ray._private import ray_constants

from pipeline import interrupts
from pipeline.cluster import node_versions
from pipeline.cluster.phases import PHASES
from pipeline.errors import UserError

LOOPBACK, LOCAL = "127.0.0.1", "local"
_LOG_LINE = re.compile(rb"\[[-0-9]+ [:,.0-9]+ [A-Z] \d+ \d+\] .*\.cc:\d+: ")  # of Ray's C++
WORKER_KEYS, ACTOR_KEYS = "workers, cpus_per_worker, gpus_per_worker", "cpus_per_actor, gpus_per_actor"  # of configs


def connect() -> None:
    """Join the running cluster (`RAY_ADDRESS`, or a job's own); on a lone machine, or where it is `local`, start Ray here."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a batch job on a closed network has nobody to report to
    # Ray's own notes (token mode, actor restarts) would tear the live progress line; its log files keep them all.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    if address == LOCAL:
        PHASES.info("starting Ray on this machine")
    else:
        PHASES.info("joining the Ray cluster at %s", address)
    # On SIGTERM, Ray's own handler would print a stack of its C++ and end this process.
    with interrupts.kept(), _without_log_lines():
        _start() if address == LOCAL else _join()


@contextlib.contextmanager
def _without_log_lines() -> Iterator[None]:
    """Keep lines of Ray's C++ log off stderr while Ray starts: it notes there which level it was given, before it keeps to it.

    Whatever else is written there meanwhile is handed on.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # closed
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
        os.dup2(stderr, 2)  # closes the pipe, unless a process that was started meanwhile writes to it too
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
        if "Version mismatch" not in str(error):  # Ray's own words: it has no type for it
            raise
        raise UserError(f"{' '.join(str(error).split())}; install the cluster's own versions here") from None
    node_versions.check_nodes()


def _start() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    _keep_token_private()
    # Ray's processes listen on loopback alone where their node has its address. Ray takes another in its place, except where
    # it is not built for clusters (Windows, macOS); nothing else depends on this switch, which has no public name.
    ray_constants.ENABLE_RAY_CLUSTER, clusters = False, ray_constants.ENABLE_RAY_CLUSTER
    try:
        # "local": without an address Ray would join whatever `ray start` left running on this machine, of whomever.
        ray.init(
            LOCAL,
            _node_ip_address=LOOPBACK,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray's own words: it has no type for it
            raise
        raise UserError(
            "Ray did not start on this machine in the 30 s that it allows itself: too much else runs here; stop that, and run "
            "the same command again"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def _keep_token_private() -> None:
    """The token that Ray's processes ask for, where Ray looks for it: Ray itself would write a file that all may read."""
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
    except OSError:  # a home that cannot be written: the token is this process's and its children's
        if not os.path.exists(path):
            os.environ["RAY_AUTH_TOKEN"] = token


def require(num_workers: int, cpus: float, gpus: float, what: str, keys: str) -> None:
    """Refuse a job that the cluster can never place, instead of waiting for ever.

    Args:
        keys: of the config, that say what is needed.
    Raises:
        UserError: the cluster, grown as far as its autoscaler may, is smaller than `num_workers` times (cpus, gpus).
    """
    total = ray.cluster_resources()
    # None on a cluster that does not grow; there is no public call for what an autoscaler may add.
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    total = {kind: max(total.get(kind, 0), limits.get(kind, 0)) for kind in total.keys() | limits.keys()}
    for kind, each in (("CPU", cpus), ("GPU", gpus)):
        needed, there = num_workers * each, total.get(kind, 0)
        if needed > there:
            raise UserError(
                f"{what} need {needed:g} {kind}s ({num_workers} x {each:g}) and the cluster has {there:g}; "
                f"lower their number or what each takes ({keys}), or add nodes"
            )
