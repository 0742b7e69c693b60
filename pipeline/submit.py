"""A job on a Ray cluster: what travels, under which id, and what became of it.

What travels is pipeline/, jobs/ and the one resolved config, nothing else of the checkout; the store's credentials are the
cluster's own environment. A job's id follows from its output, so that one output has one writer.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from pipeline.config import SegmentConfig, TrainConfig, canonical, load

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

Kind = Literal["segment", "train"]
SCHEMAS: dict[str, type[SegmentConfig] | type[TrainConfig]] = {"segment": SegmentConfig, "train": TrainConfig}
CHECKOUT = Path(__file__).parent.parent
TRAVELS = ("pipeline", "jobs")
MAX_BYTES = 100_000_000  # the job server's own limit for a working_dir
# May change between two submits of one run; everything else is what the run is.
MACHINE_KEYS = {"actors", "cpus_per_actor", "batch_size", "gpus_per_actor", "max_reject_rate",
                "workers", "cpus_per_worker", "gpus_per_worker", "max_failures"}  # fmt: skip
SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|_KEY$", re.IGNORECASE)
RAY_TALKS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
POLL_S, LOST_S = 2.0, 600.0


@dataclass(frozen=True)
class Job:
    """One config ready to be sent."""

    kind: Kind
    id: str  # of the first submit; later ones end in -2, -3, ...
    config: dict[str, Any]  # resolved
    digest: str  # of what the run is
    command: str  # the plain line that does the same from the checkout, without address


@dataclass(frozen=True)
class Submitted:
    """The job that writes an output now."""

    id: str
    started: bool  # False: it was already running


def prepare(kind: Kind, path: str, overrides: list[str] | None) -> Job:
    """Read a config and make sure that it may travel.

    Raises:
        ValueError: the config is wrong, names a path of this machine, or holds a secret of this machine's environment.
    """
    cfg = load(SCHEMAS[kind], path, overrides)
    values = cfg.model_dump(mode="json")
    for key, value in _texts(values):
        if value.startswith("/"):
            raise ValueError(
                f"{path}: {key} is {value}, a path of this machine; a cluster reaches storage through a URI: "
                "put the data at s3://..., or write file:///... for a folder that every node mounts"
            )
    _refuse_secrets(path, values)
    output = cfg.output
    name = re.sub(r"[^a-z0-9]+", "-", output.rsplit("/", 1)[-1].lower()).strip("-")[:24] or "run"
    what = {key: value for key, value in values.items() if key not in MACHINE_KEYS}
    return Job(
        kind,
        f"{kind}-{name}-{hashlib.sha256(f'{kind} {output}'.encode()).hexdigest()[:10]}",
        values,
        hashlib.sha256(canonical(what).encode()).hexdigest()[:16],
        _plain_command(kind, path, overrides or []),
    )


def connect(address: str, insecure: bool = False) -> "JobSubmissionClient":
    """The job server of a cluster: `http(s)://HOST:PORT` of its dashboard.

    Raises:
        ValueError: not such an address, nobody answers, the cluster asks for no token, or there is none to give.
    """
    if not re.match(r"https?://[^/]", address):
        raise ValueError(
            f"--address {address}: expected the cluster's dashboard, e.g. http://127.0.0.1:8265 "
            "(over a network: https://, or a tunnel to the head's port 8265)"
        )
    address = address.rstrip("/")
    status = _status_without_token(address)
    headers = {}
    if status in (401, 403):
        headers["Authorization"] = f"Bearer {_token(address)}"
    elif not insecure:
        raise ValueError(
            f"{address} answers without a token, so whoever reaches it can run any code there (CVE-2023-48022); "
            "start the cluster with RAY_AUTH_MODE=token, or say --insecure"
        )
    with _without_ray_address():
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in RAY_TALKS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            return JobSubmissionClient(address, headers=headers)
        except AuthenticationError:
            raise ValueError(f"{address} refuses this token; set RAY_AUTH_TOKEN to the cluster's own") from None


def submit(client: "JobSubmissionClient", job: Job) -> Submitted:
    """Start the job, or find it running; one that ended is started again under the next id and resumes its run.

    Raises:
        ValueError: a job with another config writes this output, or the package is too large.
    """
    tries = _tries(client, job.id)
    if tries:
        number, newest = max(tries.items())
        if not newest.status.is_terminal():
            return Submitted(_running(newest, job), started=False)
        name = f"{job.id}-{number + 1}"
    else:
        name = job.id
    with tempfile.TemporaryDirectory(prefix="maskmill-") as folder:
        pack(job, Path(folder))
        try:
            client.submit_job(**request(job, name, folder))
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            return Submitted(_running(client.get_job_info(name), job), started=False)  # of another submit, just now
    return Submitted(name, started=True)


def request(job: Job, name: str, folder: str) -> dict[str, Any]:
    """Everything that the job server is told; it has no environment variables, since they would show in logs."""
    return {
        "submission_id": name,
        "entrypoint": f"python -m jobs.{job.kind} config.yaml",
        "runtime_env": {"working_dir": folder},
        "metadata": {"output": job.config["output"], "config": job.digest},
    }


def pack(job: Job, folder: Path) -> int:
    """Copy what travels into a folder; bytes of it. ValueError over `MAX_BYTES`."""
    for name in TRAVELS:
        if not (CHECKOUT / name).is_dir():
            raise ValueError(f"{CHECKOUT} has no {name}/: submit from a checkout installed with pip install -e .")
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
        shutil.copytree(CHECKOUT / name, folder / name, ignore=ignore)
    (folder / "config.yaml").write_text(yaml.safe_dump(job.config, sort_keys=False))
    sizes = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda file: sizes[file])
        raise ValueError(
            f"the package is {sum(sizes.values()) / 1e6:.0f} MB and the job server takes {MAX_BYTES / 1e6:.0f}; "
            f"the largest file is {largest.relative_to(folder)}: move data out of pipeline/ and jobs/, into the store"
        )
    return sum(sizes.values())


def follow(client: "JobSubmissionClient", name: str, write: Callable[[str], object]) -> int:
    """Hand on the job's output until it ends; its exit code. A lost connection is taken up again for `LOST_S`.

    Raises:
        ValueError: the cluster cannot be reached any more, or no longer knows the job.
    """
    from aiohttp import ClientError

    written = 0
    lost_since: float | None = None
    while True:
        position = 0

        async def tail() -> None:
            nonlocal position, written
            async for text in client.tail_job_logs(name):
                fresh = text[max(0, written - position) :]
                position += len(text)
                if fresh:
                    written += len(fresh)
                    write(fresh)

        # What went wrong with the log is of no interest: the job goes on without us, and its status says how it fares.
        with contextlib.suppress(OSError, RuntimeError, ClientError):
            asyncio.run(tail())
        try:
            details = client.get_job_info(name)
        except OSError as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > LOST_S:
                raise ValueError(
                    f"job {name}: no answer from the cluster for {LOST_S:.0f} s; ask for it again"
                ) from error
        except RuntimeError as error:
            raise ValueError(
                f"job {name}: the cluster does not know it any more, so its head was replaced; submit again: it resumes"
            ) from error
        else:
            lost_since = None
            if details.status.is_terminal():
                return exit_code(details)
        time.sleep(POLL_S)


def exit_code(details: "JobDetails") -> int:
    """0 clean, 2 done with rejects, else failed; 1 too for a job that was stopped or never started."""
    if details.status == "SUCCEEDED":
        return 0
    return details.driver_exit_code or 1


def info(client: "JobSubmissionClient", name: str) -> "JobDetails":
    """What the server knows of a job; ValueError with the known ids if there is none of this id."""
    for details in (jobs := client.list_jobs()):
        if details.submission_id == name:
            return details
    known = ", ".join(sorted(details.submission_id for details in jobs if details.submission_id)) or "none"
    raise ValueError(f"no job {name} on this cluster; jobs there: {known}")


def stop(client: "JobSubmissionClient", name: str, timeout_s: float = 60) -> str:
    """End a job and wait until it has ended; its status."""
    info(client, name)
    client.stop_job(name)
    deadline = time.monotonic() + timeout_s
    while not (details := client.get_job_info(name)).status.is_terminal():
        if time.monotonic() > deadline:
            raise ValueError(
                f"job {name} has not ended {timeout_s:.0f} s after it was told to; ask again for its status"
            )
        time.sleep(POLL_S)
    return str(details.status.value)


def _tries(client: "JobSubmissionClient", first: str) -> dict[int, "JobDetails"]:
    """number -> job, of all submits of one id: 1 is the id itself, k is `<id>-k`."""
    found = {}
    for details in client.list_jobs():
        match = re.fullmatch(re.escape(first) + r"(?:-(\d+))?", details.submission_id or "")
        if match:
            found[int(match[1] or 1)] = details
    return found


def _running(details: "JobDetails", job: Job) -> str:
    theirs = (details.metadata or {}).get("config")
    name = str(details.submission_id)
    if theirs != job.digest:
        raise ValueError(
            f"job {name} is writing {job.config['output']} with another config; wait for it, stop it "
            f"(maskmill job stop {name}), or choose another output"
        )
    return name


def _status_without_token(address: str) -> int:
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        raise ValueError(
            f"{address}: no answer ({getattr(error, 'reason', error)}); is the cluster up, and its port 8265 reachable?"
        ) from None


def _token(address: str) -> str:
    """This machine's token, from where Ray itself looks: the variable, the file it names, ~/.ray/auth_token."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.is_file() and (token := path.read_text().strip()):
        return token
    raise ValueError(
        f"{address} asks for a token and there is none: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file"
    )


def _plain_command(kind: Kind, path: str, overrides: list[str]) -> str:
    sets = [word for override in overrides for word in ("--set", override)]
    excludes = '{"excludes": ["runs", ".git", ".venv"]}'
    return shlex.join(
        ["--working-dir", ".", "--runtime-env-json", excludes, "--", "python", "-m", f"jobs.{kind}", path, *sets]
    )


def plain_line(job: Job, address: str, name: str) -> str:
    """The `ray job submit` line, to be run in the checkout, that this submit stands for."""
    return f"ray job submit --address {shlex.quote(address)} --submission-id {name} {job.command}"


def _refuse_secrets(path: str, values: dict[str, Any]) -> None:
    text = canonical(values)
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= 8 and value in text:
            raise ValueError(
                f"{path} holds the value of {name}: configs travel and are stored with the run; "
                "take it out, the cluster's own environment carries the store's credentials"
            )


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _texts(value, f"{key}.{name}" if key else name)
    elif isinstance(values, str):
        yield key, values


@contextlib.contextmanager
def _without_ray_address() -> Iterator[None]:
    """Ray lets these variables override an explicit address."""
    hidden = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value is not None})
