"""The command `drift`: say what changed from run to run, without labels; added by `commands.py`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import cli_output
from pipeline.cli.cli_output import Csv, Json

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.analysis import Drift, RunsView


def drift(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Runs, the oldest first; or one run with several generations (`maskmill extend`), to compare those."
        ),
    ],
    by: Annotated[list[str] | None, typer.Option(help="Compare each value of this group column separately.")] = None,
    last: Annotated[int, typer.Option(help="Compare the newest run with at most this many runs before it.")] = 7,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns whose values say which images are similar and count as one sample. Default: city and sequence."
        ),
    ] = None,
    least: Annotated[float, typer.Option(help="Changes below this fraction of the earlier value do not count.")] = 0.1,
    unlike: Annotated[int, typer.Option(help="Also list this many new images that differ most from earlier ones.")] = 0,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Say what changed from earlier runs to the newest one, without labels.

    It compares class areas, confidence, entropy and rejects. Exit code 2: something changed.
    """
    from pipeline.analysis.drift import ALIKE
    from pipeline.cli.console import chosen_form, console

    form, view = chosen_form(as_json, as_csv), _opened(runs)
    alike = tuple(group or ALIKE)
    found = view.drift(last, by or (), alike, least)
    farthest = view.unlike(unlike, last, alike).to_dict("records") if unlike else []
    if form:
        from pipeline.cli import answers

        document = answers.drift(found) | {"unlike": farthest, "other_settings": view.other_settings}
        cli_output.write(form, document, lambda: document["rows"])
    else:
        _print(found)
        for name, words in view.other_settings.items():
            if name in (found.newest, *found.earlier):
                console.print(f"{name} has other settings than the first run: {words}", soft_wrap=True, markup=False)
        for row in farthest:
            console.print(
                f"unlike earlier images: {row['image_id']} ({100 * row['distance']:.1f} %)",
                soft_wrap=True,
                markup=False,
            )
        if not len(found.changed):
            words = "nothing changed" if found.comparisons else "too few images to tell whether anything changed"
            console.print(f"{found.newest}: {words}", style="bold", markup=False)
    if len(found.changed):
        raise typer.Exit(2)


def _opened(uris: list[str]) -> "RunsView":
    """Open the runs as one view, or the generations if there is only one run."""
    from pipeline.analysis import open_generations, open_runs
    from pipeline.errors import UserError

    if len(uris) > 1:
        return open_runs(uris, allow_doubles=True)  # no counts are added up
    view = open_generations(uris[0])
    if len(view.members) < 2:
        raise UserError(
            f"run {uris[0]}: it has one generation, so there is nothing to compare it with; name earlier runs before it, or "
            "extend it"
        )
    return view


def _print(found: "Drift") -> None:
    from pipeline.cli.console import console

    console.print(_table(found))
    for sentence in found.sentences():
        console.print(sentence, style="bold", soft_wrap=True, markup=False)
    console.print(f"{found.summary()}; {method(found)}", soft_wrap=True, markup=False)
    for words, groups in (("only in the newest", found.only_newest), ("only in earlier runs", found.only_earlier)):
        if groups:
            console.print(f"{words}: {', '.join(groups)}", soft_wrap=True, markup=False)


def method(found: "Drift") -> str:
    """Say in a sentence how the verdicts were reached."""
    alike = " and ".join(found.asked.alike)
    samples = f"images with the same {alike} count as one sample" if alike else "each image is a sample"
    return (
        f"{samples}; p-values are adjusted for {found.comparisons} comparisons (Holm, 5 %); a change below "
        f"{100 * found.asked.least:g} % of the earlier value is small"
    )


def _table(found: "Drift") -> "Table":
    from rich.table import Table

    from pipeline.analysis.drift import CHANGED, cells
    from pipeline.cli.printing import group_word

    names = found.earlier[0] if len(found.earlier) == 1 else f"{found.earlier[0]} to {found.earlier[-1]}"
    title = f"{found.newest} against {names}, percent and nats"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in (*found.asked.by, ""):
        table.add_column(name, overflow="fold")
    for heading in ("before", "after", "change", "95 % interval", "p"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    before: list[Any] = []
    for row in found.table.to_dict("records"):
        group = [row[name] for name in found.asked.by]
        if before and group != before:
            table.add_section()
        words = cells(row)
        style = "bold" if row["verdict"] == CHANGED else None
        table.add_row(*map(group_word, group), *words, style=style)
        before = group
    return table
