"""Find the command that comes next, which a command names at its end."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline import storage


def after_training(config: str, checkpoint: str) -> str:
    """Return the command for a segment config beside the training's that uses its checkpoint, or how to get such a config."""
    for file, values in _configs(Path(config).parent):
        taken = values.get("checkpoint")
        if isinstance(taken, str) and storage.absolute(taken) == storage.absolute(checkpoint):
            return f"maskmill segment {shlex.quote(str(file))}"
    return (
        f"maskmill init DIR --images URI --checkpoint {shlex.quote(checkpoint)} writes a config for your images; then "
        "maskmill segment DIR/segment.yaml"
    )


def _configs(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the YAML files of a folder that hold keys and values."""
    for file in sorted(folder.glob("*.yaml")):
        try:
            values = yaml.safe_load(file.read_bytes().decode())
        except (OSError, ValueError, yaml.YAMLError, RecursionError):  # not a config of ours
            continue
        if isinstance(values, dict):
            yield file, values
