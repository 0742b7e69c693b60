"""`run.json`: what a run is, and what decides its output."""

import hashlib
import json
from typing import Any

from pipeline import storage
from pipeline.config import canonical
from pipeline.errors import UserError
from pipeline.run.rows import FORMAT


def describe(uri: str) -> dict[str, Any]:
    """`run.json` of a run; UserError if there is no run, or one of another format."""
    try:
        description: dict[str, Any] = json.loads(storage.read(storage.join(uri, "run.json")))
    except FileNotFoundError:
        raise UserError(f"run {uri}: no run.json there; give the output of `maskmill segment`") from None
    if description["format"] != FORMAT:
        raise UserError(f"run {uri}: format {description['format']}, this version reads {FORMAT}; use its own version")
    return description


def fingerprint_of(identity: dict[str, Any]) -> str:
    """sha256 of everything that decides a run's output."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()
