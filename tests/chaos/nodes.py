"""A Ray cluster in processes of this machine, whose nodes can be killed, frozen and replaced."""

import contextlib
import os
import socket
from pathlib import Path
from unittest import mock

# A frozen node is noticed after about ten seconds.
CONFIG = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
TRIES = 3  # Ray gives a node 30 s to start, which a busy machine may not keep


class Nodes:
    """A head without work; `add` and `remove` workers of one CPU."""

    def __init__(self, environment: dict[str, str], **head: object):
        import ray
        from ray.cluster_utils import Cluster

        self._environment = environment | {"RAY_USAGE_STATS_ENABLED": "0"}
        arguments = {"num_cpus": 0, "include_dashboard": False, "_system_config": CONFIG, **head}
        self._cluster = self._started(
            lambda: Cluster(initialize_head=True, head_node_args=arguments | {"dashboard_port": free_port()})
        )
        # Ray notes the newest cluster of a machine for whoever starts without an address: this one is no one else's.
        ray._common.utils.reset_ray_address()
        self.address: str = self._cluster.gcs_address
        self.dashboard = f"http://{self._cluster.webui_url}"

    def add(self, **arguments: object):
        """One more worker node."""
        return self._started(lambda: self._cluster.add_node(num_cpus=1, **arguments))

    def _started(self, start):
        for left in reversed(range(TRIES)):
            with mock.patch.dict(os.environ, self._environment):
                try:
                    return start()
                except Exception as error:
                    if not left or "timed out during startup" not in str(error):
                        raise
        raise AssertionError("unreachable")

    @property
    def workers(self) -> list:
        return list(self._cluster.worker_nodes)

    @property
    def head(self):
        return self._cluster.head_node

    def actors(self) -> list[int]:
        """Pids of all segmenting actors."""
        return [pid for node in self.workers for pid in actors(node)]

    def remove(self, node) -> None:
        """kill -9 of a raylet; its workers follow it."""
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def raylet(node, process: str = "raylet") -> int:
    """Pid of a node's raylet, or another of its processes."""
    return node.all_processes[process][0].process.pid


def children(pid: int) -> list[int]:
    """Pids of a process's children, and theirs; without those of threads and processes that end meanwhile."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for child in map(int, (task / "children").read_text().split()):
                    found += [child, *children(child)]
    return found


def title(pid: int) -> str:
    """What a process calls itself: Ray's workers name the actor or task they run."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""


def actors(node) -> list[int]:
    """Pids of a node's segmenting actors."""
    return [pid for pid in children(raylet(node)) if "MapWorker" in title(pid)]
