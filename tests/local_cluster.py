"""A Ray cluster that requires a token, and an S3 store, both on this machine, as seen by the client of a remote cluster."""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import s3fs
from ray._private.authentication_test_utils import reset_auth_token_state
from ray._private.utils import write_ray_address

from tests.chaos.nodes import Nodes, free_port
from tests.s3_server import S3Server


@dataclass(frozen=True)
class LocalCluster:
    """Where it answers; its nodes, of which some may be killed."""

    address: str  # of the job server
    store: str  # URI of an empty bucket
    metrics_port: int  # of the head, for Prometheus
    nodes: Nodes


@contextmanager
def local_cluster(folder: Path, workers: int) -> Iterator[LocalCluster]:
    """A head without work, workers of one CPU, and a store; the variables that a client needs are set meanwhile."""
    server, temporary = S3Server(folder), tempfile.mkdtemp(prefix="maskmill-")  # short: Ray's sockets lie there
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **server.environment()}
    try:
        with mock.patch.dict(os.environ, variables):
            reset_auth_token_state()  # Ray keeps both, and this process looks at the cluster's nodes
            s3fs.S3FileSystem.clear_instance_cache()  # of another test's server
            store = server.make_bucket("maskmill")
            # A job's `python` is found on the cluster's PATH: make it this one.
            environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
            port = free_port()
            nodes = Nodes(
                environment,
                _system_config={},
                temp_dir=temporary,
                include_dashboard=True,
                metrics_export_port=port,
                dashboard_agent_listen_port=free_port(),
            )
            try:
                # A job looks for its cluster there: with the default folder it may find another one of this machine.
                write_ray_address(nodes.address, temporary)
                for _ in range(workers):
                    nodes.add()
                yield LocalCluster(nodes.dashboard, store, port, nodes)
            finally:
                nodes.end()
    finally:
        server.stop(kill=True)
        shutil.rmtree(temporary, ignore_errors=True)
        reset_auth_token_state()
        s3fs.S3FileSystem.clear_instance_cache()
