"""Check that the nodes of a cluster have the driver's versions of the packages that affect masks and weights."""

import logging
import platform
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import __version__
from pipeline.errors import UserError

_log = logging.getLogger(__name__)

PACKAGES = ("ray", "torch", "torchvision", "numpy", "pydantic", "pyarrow", "pillow")
ANSWER_S = 60.0  # how long to wait for a busy node; after that, its versions are not compared
_ADVICE = "install the same on every node, or list them in a file for `maskmill submit --runtime-env`"

Versions = dict[str, str | None]


def check_nodes() -> None:
    """Compare every node's versions with the driver's, and log one warning if some differ.

    Raises:
        UserError: a node lacks a package.
    """
    here = ray.get_runtime_context().get_node_id()
    names = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    others = [node for node in names if node != here]
    if not others:
        return
    found = {names[node]: versions for node, versions in _ask(others).items()}
    missing, different = compare(versions_here(), found)
    if missing:
        raise UserError(f"{missing}; {_ADVICE}")
    if different:
        _log.warning("warning: %s; %s", different, _ADVICE)


def versions_here() -> Versions:
    """Return package -> version in this process, without build suffix (2.15.0 for 2.15.0+cu132); None if it is missing."""
    found: Versions = {"maskmill": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = None
    return found


def compare(driver: Versions, nodes: Mapping[str, Versions]) -> tuple[str, str]:
    """Describe which packages nodes lack, and which versions differ from the driver's; each is "" if there are none.

    Args:
        nodes: address -> versions.
    """
    by_value: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for address, versions in nodes.items():
        for name, value in versions.items():
            if value != driver.get(name, ""):
                by_value[name, value].append(address)
    missing = [f"{name} is missing on {_some(where)}" for (name, value), where in by_value.items() if value is None]
    different = [
        f"{_some(where)} has {name} {value}, the driver {driver[name]}"
        for (name, value), where in by_value.items()
        if value is not None
    ]
    return ", ".join(missing), ", ".join(different)


def _ask(nodes: Iterable[str]) -> dict[str, Versions]:
    """Return node id -> versions of the nodes that answer in time."""
    ask = ray.remote(num_cpus=0, max_retries=0)(versions_here)
    asked = {
        node: ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    }
    answered, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S, fetch_local=False)
    found = {}
    for node, answer in asked.items():
        if answer not in answered:
            continue
        try:
            found[node] = ray.get(answer, timeout=ANSWER_S)
        except RayError as error:
            if unknown := re.search(r"No module named '(\w+)", str(error)):  # this package, or one that it imports
                found[node] = {"maskmill" if unknown[1] == "pipeline" else unknown[1]: None}
            # otherwise the node has left the cluster meanwhile
    return found


def _some(addresses: list[str]) -> str:
    """Format addresses: `10.0.0.1`, or `10.0.0.1 (and 2 more)`."""
    more = len(addresses) - 1
    return addresses[0] + (f" (and {more} more)" if more else "")
