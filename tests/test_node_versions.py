"""Nodes with other package versions than the driver: one message that names node, package and both versions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.cluster.node_versions import compare, versions_here
from tests.chaos.nodes import Nodes

ROOT = Path(__file__).parent.parent
DRIVER = {"maskmill": "0.1.0", "Python": "3.12.8", "torch": "2.15.0", "ray": "2.60.0"}


def test_what_is_installed_here_is_read_without_a_builds_suffix():
    import torch

    found = versions_here()
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found["maskmill"] == __version__
    assert None not in found.values()


@pytest.mark.parametrize(
    ("nodes", "missing", "different"),
    [
        ({"10.0.0.1": DRIVER}, "", ""),
        ({"10.0.0.1": {**DRIVER, "torch": "2.8.0"}}, "", "10.0.0.1 has torch 2.8.0, the driver 2.15.0"),
        (
            {f"10.0.0.{k}": {**DRIVER, "torch": "2.8.0"} for k in (1, 2, 3)},
            "",
            "10.0.0.1 (and 2 more) has torch 2.8.0, the driver 2.15.0",
        ),
        ({"10.0.0.1": DRIVER, "10.0.0.2": {**DRIVER, "ray": None}}, "ray is missing on 10.0.0.2", ""),
        ({"10.0.0.1": {"maskmill": None}}, "maskmill is missing on 10.0.0.1", ""),
    ],
)
def test_nodes_are_compared_with_the_driver(nodes, missing, different):
    assert compare(DRIVER, nodes) == (missing, different)


DRIVE = "from pipeline.cluster import connection; connection.connect()"


def joined(address):
    """What a driver prints that joins a cluster."""
    environment = os.environ | {"RAY_ADDRESS": address}
    command = [sys.executable, "-c", DRIVE]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_driver_that_joins_tells_of_a_node_with_another_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    planted = tmp_path / "torch-1.13.1.dist-info"
    planted.mkdir()
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.13.1\n")
    nodes = Nodes({"PYTHONPATH": str(tmp_path), "RAY_AUTH_MODE": "disabled"})
    try:
        nodes.add()
        said = joined(nodes.address)
        assert "has torch 1.13.1, the driver 2." in said and said.count("warning: ") == 1, said
    finally:
        nodes.end()
