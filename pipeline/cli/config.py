"""`maskmill config`: what the keys of a config are; added by `commands.py`."""

from typing import Annotated, Literal

import typer
from rich.padding import Padding
from rich.text import Text

from pipeline.config.describe import KeyEntry, detail, overview

_INDENT = 4


def config(
    kind: Annotated[Literal["train", "segment", "tune"], typer.Argument(help="Whose config.")],
    key: Annotated[
        str | None, typer.Argument(help="One key or section: optimizer, optimizer.lr, model.deeplabv3plus.")
    ] = None,
) -> None:
    """List the keys of a config with type, default, unit and meaning."""
    from pipeline.cli.console import console

    entries = overview(kind) if key is None else detail(kind, key)
    for entry in entries:
        console.print(Text.assemble((entry.path, "bold"), ": ", (_facts(entry), "dim")))
        console.print(Padding(Text(entry.doc), (0, 0, 0, _INDENT)))
    needed = [entry.path for entry in entries if entry.required and "." not in entry.path]
    if key is None:
        words = f"A config must set {', '.join(needed)}; every other key has a default, and the run keeps what it took."
        console.print(f"\n{words}\nOne key or section: maskmill config {kind} KEY, such as {_example(kind)}")
    elif any(entry.chosen for entry in entries[1:]):
        console.print(f"\nThe keys of one of them: maskmill config {kind} {entries[-1].path}")


def _facts(entry: KeyEntry) -> str:
    unit = f" [{entry.unit}]" if entry.unit else ""
    default = "" if entry.chosen else "; required" if entry.required else f"; default: {entry.default}"
    return f"{entry.kind}{unit}{default}"


def _example(kind: str) -> str:
    return {"train": "optimizer or model.deeplabv3plus", "segment": "crf", "tune": "space"}[kind]
