"""Control what a command prints: `--quiet`, `--verbose`, and results for programs with `--json` and `--csv`.

With `--json` or `--csv`, stdout holds only the result; everything else goes to stderr.
"""

import csv
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import typer

from pipeline.errors import UserError

Form = Literal["json", "csv"]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON document and nothing else.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the answer as one CSV table and nothing else.")]

SWITCHES = {"-v": "verbose", "--verbose": "verbose", "-q": "quiet", "--quiet": "quiet", "--debug": "debug"}
quiet = False


def take_switches(arguments: list[str]) -> tuple[list[str], set[str]]:
    """Return the arguments without the switches that every command accepts, wherever they are, and these switches."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = {SWITCHES[word] for word in arguments[:end] if word in SWITCHES}
    return [word for word in arguments[:end] if word not in SWITCHES] + arguments[end:], found


def set_verbosity(switches: set[str]) -> None:
    """Print as much as the switches ask for.

    Raises:
        UserError: both `--quiet` and `--verbose` are given.
    """
    global quiet
    if {"quiet", "verbose"} <= switches:
        raise UserError("--quiet and --verbose exclude each other; give one of them")
    quiet = "quiet" in switches
    if "verbose" in switches:
        told = logging.StreamHandler(sys.stderr)
        told.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        log = logging.getLogger("pipeline")
        log.addHandler(told)
        log.setLevel(logging.INFO)


def write(form: Form, document: Mapping[str, Any], rows: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """Print a result: the document as JSON (NaN becomes null), or the rows as CSV (NaN and null become empty)."""
    if form == "json":
        sys.stdout.write(json.dumps(_plain(document), allow_nan=False) + "\n")
        return
    table = [_plain(row) for row in rows()]
    names = list(dict.fromkeys(name for row in table for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested document to one row: names are joined by dots, lists are left out."""
    row: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            row |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, (list, tuple)):
            row[f"{prefix}{name}"] = value
    return row


def _plain(value: Any) -> Any:
    """Convert a value to types that JSON has: NumPy's numbers become Python's, NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value
