"""Submit a config as a job to a Ray cluster.

Sent with the job are this package, wherever it is installed, the resolved config, and the local code folders and checkpoints
that it names; the store's credentials come from the cluster's own environment. A job's id is derived from its output, so that
an output has only one writer.
"""

import hashlib
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from pipeline.cluster import runtime_env
from pipeline.cluster.secret_values import refuse_secrets
from pipeline.config import SegmentConfig, TrainConfig, canonical, load, machine_keys, travelling
from pipeline.config.train import PREVIOUS
from pipeline.config.user_code import INSTALLED, TRUSTED, code_files, find_folder
from pipeline.errors import UserError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

Kind = Literal["segment", "train"]
SCHEMAS: dict[str, type[SegmentConfig] | type[TrainConfig]] = {"segment": SegmentConfig, "train": TrainConfig}
PACKAGE = Path(__file__).parent.parent
EXAMPLES = "examples"  # folder of an installed package with configs and the notebook, which no job reads
MAX_BYTES = 100_000_000  # the job server's own limit for a working_dir


@dataclass(frozen=True)
class Job:
    """A config that is ready to be submitted."""

    kind: Kind
    id: str  # job id of the first submit; later ones end in -2, -3, ...
    config: dict[str, Any]  # resolved
    digest: str  # hash of the config without its machine-side keys
    command: str  # arguments of the equivalent `ray job submit`, without address and id
    code: dict[str, Path] = field(default_factory=dict)  # name below code/ -> local folder
    checkpoints: dict[str, Path] = field(default_factory=dict)  # name below checkpoints/ -> local folder or file
    environment: dict[str, Any] = field(default_factory=dict)  # Ray's runtime_env, without its working_dir


@dataclass(frozen=True)
class Submitted:
    """The job that is now writing an output."""

    id: str
    started: bool  # False: it was already running


def prepare(kind: Kind, path: str, overrides: list[str] | None, environment: str | None = None) -> Job:
    """Read a config and check that it can be sent to a cluster.

    Args:
        environment: YAML file of Ray's `runtime_env`, for a cluster that lacks the packages.
    Raises:
        UserError: the config is wrong, names a local path, or holds a secret of this machine's environment; or
            the runtime environment is wrong.
    """
    cfg = load(SCHEMAS[kind], path, overrides)
    values = cfg.model_dump(mode="json")
    code, checkpoints = _code_of(values), _checkpoints_of(values)
    for key, value in _texts(values):
        if value.startswith("/"):
            raise UserError(
                f"{path}: {key} is {value}, a path of this machine; a cluster reaches storage through a URI: "
                "put the data at s3://..., or write file:///... for a folder that every node mounts"
            )
    refuse_secrets(path, values, "configs travel and are stored with the run")
    extra = runtime_env.read(environment) if environment else {}
    output = cfg.output
    name = re.sub(r"[^a-z0-9]+", "-", output.rsplit("/", 1)[-1].lower()).strip("-")[:24] or "run"
    what = {key: value for key, value in values.items() if key not in machine_keys(SCHEMAS[kind])}
    return Job(
        kind,
        f"{kind}-{name}-{hashlib.sha256(f'{kind} {output}'.encode()).hexdigest()[:10]}",
        values,
        hashlib.sha256(canonical(what).encode()).hexdigest()[:16],
        _plain_command(kind, path, overrides or [], extra),
        code,
        checkpoints,
        extra,
    )


def submit(client: "JobSubmissionClient", job: Job) -> Submitted:
    """Start the job unless it is running already; a job that ended is started again under the next id and resumes its run.

    Raises:
        UserError: a job with another config writes this output, or the package is too large.
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
            return Submitted(_running(client.get_job_info(name), job), started=False)  # by another submit, just now
    return Submitted(name, started=True)


def request(job: Job, name: str, folder: str) -> dict[str, Any]:
    """Return what is sent to the job server; no environment variables of this machine, since they would show in logs."""
    return {
        "submission_id": name,
        "entrypoint": f"python -m pipeline {job.kind} config.yaml",
        "runtime_env": {**job.environment, "working_dir": folder},
        "metadata": {"output": job.config["output"], "config": job.digest},
    }


def pack(job: Job, folder: Path) -> int:
    """Copy everything that the job needs into a folder, and return its size in bytes; UserError above `MAX_BYTES`."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", EXAMPLES)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignore)
    for name, source in job.code.items():
        for file in code_files(source):
            copy = folder / travelling.CODE / name / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    for name, source in job.checkpoints.items():
        (folder / travelling.CHECKPOINTS).mkdir(exist_ok=True)
        copy = folder / travelling.CHECKPOINTS / name
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copyfile(source, copy)
    (folder / "config.yaml").write_text(yaml.safe_dump(job.config, sort_keys=False))
    sizes = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda file: sizes[file])
        raise UserError(
            f"the package is {sum(sizes.values()) / 1e6:.0f} MB and the job server takes {MAX_BYTES / 1e6:.0f}; "
            f"the largest file is {largest.relative_to(folder)}: move data out of {PACKAGE}, the code folder and the "
            "checkpoint into the store"
        )
    return sum(sizes.values())


def _code_of(values: dict[str, Any]) -> dict[str, Path]:
    """Return the local code folders that a config names, by their names in the job, and put those names into the config."""
    found: dict[str, Path] = {}
    sections = [values.get("model"), *(stage.get("model") for stage in values.get("stages", ()))]
    places = [(one, "path") for one in sections if one is not None and one["name"] == "python"] + [(values, "code")]
    for section, key in places:
        if section.get(key) in (None, INSTALLED, TRUSTED):
            continue
        folder = find_folder(section[key])
        if found.setdefault(folder.name, folder) != folder:
            raise UserError(
                f"two folders of code are called {folder.name}, {found[folder.name]} and {folder}; a job takes both below one "
                "folder: rename one"
            )
        section[key] = f"{travelling.CODE}/{folder.name}"
    return found


def _checkpoints_of(values: dict[str, Any]) -> dict[str, Path]:
    """Return the local checkpoints that a config names, by their names in the job, and put those names into the config.

    A name begins with a hash of the checkpoint's files, so that other weights give the job another digest.

    Raises:
        UserError: a checkpoint is too large to be sent.
    """
    found: dict[str, Path] = {}

    def named(uri: str) -> str:
        path = Path(uri)
        if not (path.is_file() or (path / "checkpoint.json").is_file()):
            return uri
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
        if size > MAX_BYTES:
            raise UserError(
                f"checkpoint {uri} is {size / 1e6:.0f} MB, and a job takes at most {MAX_BYTES / 1e6:.0f} MB along; copy it to "
                "the store and name it there (s3://...), or make one smaller file of it with `maskmill release`"
            )
        total = hashlib.sha256()
        for file in files:
            with file.open("rb") as data:
                total.update(hashlib.file_digest(data, "sha256").digest())
        name = f"{total.hexdigest()[:12]}-{path.name}"
        found[name] = path
        return f"{travelling.CHECKPOINTS}/{name}"

    for section in (values, *values.get("stages", ())):
        for key in ("checkpoint", "start_from"):
            if section.get(key) not in (None, PREVIOUS):
                section[key] = named(section[key])
    if values.get("ensemble"):
        values["ensemble"] = [named(uri) for uri in values["ensemble"]]
    return found


def _tries(client: "JobSubmissionClient", first: str) -> dict[int, "JobDetails"]:
    """Return number -> job for all submits of one id: 1 is the id itself, k is `<id>-k`."""
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
        raise UserError(
            f"job {name} is writing {job.config['output']} with another config; wait for it, stop it "
            f"(ray job stop {name}), or choose another output"
        )
    return name


def _plain_command(kind: Kind, path: str, overrides: list[str], extra: dict[str, Any]) -> str:
    sets = [word for override in overrides for word in ("--set", override)]
    # Ray matches these below the package too; there `/runs/*/` matches only subfolders, so pipeline/runs keeps its files.
    environment = {**extra, "py_modules": [str(PACKAGE)], "excludes": ["/.git", "/.venv", "/runs/*/"]}
    return shlex.join(
        [
            "--working-dir",
            ".",
            "--runtime-env-json",
            json.dumps(environment),
            "--",
            "python",
            "-m",
            "pipeline",
            kind,
            path,
            *sets,
        ]
    )


def plain_line(job: Job, address: str, name: str) -> str:
    """Return the equivalent `ray job submit` line, to be run in the same folder."""
    return f"ray job submit --address {shlex.quote(address)} --submission-id {name} {job.command}"


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _texts(value, f"{key}.{name}" if key else name)
    elif isinstance(values, list):
        for place, value in enumerate(values):
            yield from _texts(value, f"{key}.{place}")
    elif isinstance(values, str):
        yield key, values
