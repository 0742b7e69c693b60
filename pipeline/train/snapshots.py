"""Snapshots from which an interrupted training continues: a folder per step, valid only with a marker that is written last.

<folder>/step-000000120/<part>         weights.safetensors, optimizer.pt, ...
<folder>/step-000000120/_SUCCESS.json  format, step, position in the run, bytes and sha256 of each part
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage

FORMAT = 1
KEEP = 2  # the newest, and the previous one in case the newest is damaged
_MARKER = "_SUCCESS.json"


@dataclass(frozen=True)
class Snapshot:
    """A complete snapshot whose parts have been checked."""

    uri: str
    step: int
    position: dict[str, Any]
    parts: dict[str, bytes]


def save(folder: str, step: int, parts: Mapping[str, bytes], position: dict[str, Any]) -> str:
    """Write the snapshot of a step, then remove all but the newest two; return its URI."""
    uri = storage.join(folder, f"step-{step:09d}")
    storage.delete(storage.join(uri, _MARKER))  # of an earlier, damaged snapshot of this step
    for name, data in parts.items():
        storage.put(storage.join(uri, name), data)
    described = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in parts.items()}
    marker = {"format": FORMAT, "step": step, "position": position, "parts": described}
    storage.put(storage.join(uri, _MARKER), json.dumps(marker, indent=2).encode())
    _prune(folder, newest=step)
    return uri


def newest(folder: str) -> Snapshot | None:
    """Return the newest snapshot whose parts are all there and unchanged; None if there is none."""
    for step in sorted(_steps(folder), reverse=True):
        snapshot = _read(storage.join(folder, f"step-{step:09d}"))
        if snapshot is not None:
            return snapshot
    return None


def _read(uri: str) -> Snapshot | None:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        marker = json.loads(storage.read(storage.join(uri, _MARKER)))
        if marker["format"] != FORMAT:
            return None
        parts = {name: storage.read(storage.join(uri, name)) for name in marker["parts"]}
        if all(_sha256(data) == marker["parts"][name]["sha256"] for name, data in parts.items()):
            return Snapshot(uri, marker["step"], marker["position"], parts)
    return None


def _steps(folder: str) -> dict[int, list[storage.FileInfo]]:
    """Return the files of each step's folder, complete or not."""
    files_of: dict[int, list[storage.FileInfo]] = {}
    for file in storage.list_files(folder):
        match = re.match(r"step-(\d{9})/", file.path)
        if match:
            files_of.setdefault(int(match[1]), []).append(file)
    return files_of


def _prune(folder: str, newest: int) -> None:
    """Remove all but the two newest snapshots up to step `newest`; later ones, left by a run that had to go back, go too."""
    steps = _steps(folder)
    complete = [step for step, files in steps.items() if any(file.path.endswith(_MARKER) for file in files)]
    kept = sorted((step for step in complete if step <= newest), reverse=True)[:KEEP]
    for step in steps.keys() - set(kept):
        for file in sorted(steps[step], key=lambda file: not file.path.endswith(_MARKER)):  # the marker first
            storage.delete(file.uri)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
