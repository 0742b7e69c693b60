"""`maskmill config`: list the keys of a config; added by `commands.py`."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config.describe import KeyEntry

_INDENT = 4


def config(
    kind: Annotated[Literal["train", "segment", "tune"] | None, typer.Argument(help="Kind of config.")] = None,
    key: Annotated[
        str | None, typer.Argument(help="One key or section, such as optimizer, optimizer.lr or model.deeplabv3plus.")
    ] = None,
    examples: Annotated[
        str | None,
        typer.Option("--examples", metavar="DIR", help="Copy example configs and a notebook to this folder instead."),
    ] = None,
) -> None:
    """List the keys of a config, or copy example configs.

    Each key is listed with its type, default, unit and meaning.
    """
    if examples is not None:
        _copy_examples(Path(examples))
    elif kind is None:
        raise UserError(
            "config: name the kind of config, train, segment or tune, or add --examples DIR to copy whole configs"
        )
    else:
        _list_keys(kind, key)


def _copy_examples(folder: Path) -> None:
    from pipeline.cli.console import console

    for name, source in sorted(example_files().items()):
        copy = folder / name
        if copy.exists():
            console.print(f"already exists, not overwritten: {copy}", soft_wrap=True)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        console.print(str(copy), soft_wrap=True)


def example_files() -> dict[str, Path]:
    """Return path below the folder of examples -> file, from the installed package, or from the checkout around it."""
    package = Path(__file__).parent.parent
    if (package / "examples").is_dir():
        roots = {"configs": package / "examples/configs", "explore.ipynb": package / "examples/explore.ipynb"}
    else:
        roots = {"configs": package.parent / "configs", "explore.ipynb": package.parent / "jobs/explore.ipynb"}
    notebook = roots["explore.ipynb"]
    files = {f"configs/{file.relative_to(roots['configs'])}": file for file in roots["configs"].rglob("*.yaml")}
    if not files or not notebook.is_file():
        raise UserError(f"the examples are missing from {package}; install maskmill again")
    return files | {notebook.name: notebook}


def _list_keys(kind: str, key: str | None) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from pipeline.cli.console import console
    from pipeline.config.describe import detail, overview

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


def _facts(entry: "KeyEntry") -> str:
    unit = f" [{entry.unit}]" if entry.unit else ""
    default = "" if entry.chosen else "; required" if entry.required else f"; default: {entry.default}"
    return f"{entry.kind}{unit}{default}"


def _example(kind: str) -> str:
    return {"train": "optimizer or model.deeplabv3plus", "segment": "crf", "tune": "space"}[kind]
