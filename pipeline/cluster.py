"""Ray inside this process, or the cluster this process runs in: the same calls either way."""

import logging
import os

import ray

from pipeline.errors import UserError


def connect() -> None:
    """Join the running cluster (`RAY_ADDRESS`, or a job's own); on a lone machine start Ray inside this process."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a batch job on a closed network has nobody to report to
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    # Ray's own notes (token mode, actor restarts) would tear the live progress line; its log files keep them all.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    # "local": without an address Ray would join whatever `ray start` left running on this machine, of whomever.
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def require(num_workers: int, cpus: float, gpus: float, what: str) -> None:
    """Refuse a job that the cluster can never place, instead of waiting for ever.

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
                "lower the number of workers or what each takes, or add nodes"
            )
