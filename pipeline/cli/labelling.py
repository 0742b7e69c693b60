"""The command `next`: choose the images to label next; added by `commands.py`."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pandas import DataFrame

    from pipeline.analysis import RunView


def choose(
    run: Annotated[str, typer.Argument(help="Output of `maskmill segment`: a folder or an object prefix.")],
    by: Annotated[
        str,
        typer.Option(help="Choose by entropy (highest), confidence (lowest) or disagreement with the run of --beside."),
    ] = "entropy",
    n: Annotated[int, typer.Option("--n", help="Choose at most this many images.")] = 200,
    beside: Annotated[str | None, typer.Option(help="For --by disagreement: the other run.")] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns whose values say which images are similar; few of each are chosen. Default: city and sequence."
        ),
    ] = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="Also choose images that already have labels.")] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Leave out the images of this earlier list; may be given again."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write the list as a CSV file, which can be used as a corpus of layout manifest."
        ),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="With --output: also copy the images to a folder beside the CSV.")
    ] = False,
) -> None:
    """Choose the images that are most worth labelling next.

    These are the images that the network is least sure of, with few similar ones among them.
    """
    from pipeline import storage
    from pipeline.analysis import open_run
    from pipeline.analysis.manifest import read_ids, write_manifest
    from pipeline.cli.console import console, hint
    from pipeline.errors import UserError

    if copy and output is None:
        raise UserError("next: --copy puts the images beside the list of --output FILE: add it")
    if output is not None and not output.endswith(".csv"):
        raise UserError(f"next: --output {output} is a CSV; give it a name that ends with .csv")
    view = open_run(run)
    skipped = {image_id for file in skip or () for image_id in read_ids(file)}
    other = open_run(beside) if beside is not None else None
    columns = tuple(group or ("city", "sequence"))
    chosen = view.next(n, by, other, columns, labelled, skipped)
    if output is None:
        _print(view, chosen, by)
        return
    write_manifest(view, chosen, storage.absolute(output), copy)
    console.print(f"{_number(chosen)}: {output}", soft_wrap=True)
    command = f"maskmill export {shlex.quote(run)} --ids {shlex.quote(output)} --format label-studio --out DIR"
    hint(f"{command}; or cvat, huggingface, fiftyone")


def _print(view: "RunView", chosen: "DataFrame", by: str) -> None:
    from rich.table import Table

    from pipeline.cli.console import console, hint
    from pipeline.cli.printing import group_word

    columns = [name for name in chosen.columns if chosen[name].notna().any()]
    table = Table(title=f"{_number(chosen)} to label next, by {by}", title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name == by else "left", overflow="fold")  # ids are copied: never cut
    for row in chosen[columns].to_dict("records"):
        table.add_row(*(f"{value:.4f}" if name == by else group_word(value) for name, value in row.items()))
    console.print(table)
    hint(f"the same with --output FILE.csv, for `maskmill export {shlex.quote(view.uri)} --ids FILE.csv`")


def _number(chosen: "DataFrame") -> str:
    return f"{len(chosen)} image{'' if len(chosen) == 1 else 's'}"
