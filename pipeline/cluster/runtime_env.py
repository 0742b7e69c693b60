"""Read Ray's `runtime_env` for a job from a user's file: packages and variables that the cluster lacks."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.cluster.secret_values import MIN_LENGTH, NAMES, refuse_secrets
from pipeline.errors import UserError

KEYS = ("pip", "uv", "conda", "env_vars", "py_executable", "config")
_OURS = ("working_dir", "py_modules", "excludes")
_ALONE = ("image_uri", "container")
_SHOWN = "the job server shows its jobs' environments"


def read(path: str) -> dict[str, Any]:
    """Read a runtime environment from a YAML file with Ray's keys (Ray's documentation, Environment Dependencies).

    Raises:
        UserError: there is no such file; a key is unknown, set by the submit itself, or not allowed beside a folder of code;
            Ray refuses a value, or a value is a secret.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--runtime-env {path}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"--runtime-env {path}: expected a mapping with keys among {', '.join(KEYS)}")
    for key in values:
        _check_key(path, key)
    for name, value in _variables(path, values).items():
        if NAMES.search(name) and len(str(value)) >= MIN_LENGTH:
            raise UserError(
                f"--runtime-env {path}: env_vars.{name} looks like a secret, and {_SHOWN}; set it where the cluster's nodes "
                "are started"
            )
    refuse_secrets(path, values, _SHOWN)
    from ray.runtime_env import RuntimeEnv

    try:
        return dict(RuntimeEnv(**values).to_dict())  # replaces a local requirements file by its lines
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"--runtime-env {path}: {' '.join(str(error).split())}") from None


def _check_key(path: str, key: object) -> None:
    if key in _OURS:
        raise UserError(f"--runtime-env {path}: {key} is set by the submit itself; leave it out")
    if key in _ALONE:
        raise UserError(
            f"--runtime-env {path}: Ray takes {key} only without a folder of code and config, which a submit sends; start the "
            "cluster's nodes from the image (infra/Dockerfile), or list packages under pip or uv"
        )
    if key not in KEYS:
        raise UserError(f"--runtime-env {path}: no key '{key}'; it may have {', '.join(KEYS)}")


def _variables(path: str, values: dict[str, Any]) -> dict[str, Any]:
    variables = values.get("env_vars", {})
    if not isinstance(variables, dict):
        raise UserError(f"--runtime-env {path}: env_vars is a mapping of names to texts")
    return variables
