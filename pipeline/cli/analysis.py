"""Commands that ask a run and write nothing into its parts: evaluate, compare, export, report; added by `commands.py`."""

from typing import Annotated

import typer

from pipeline.interrupts import keeping

RunUri = Annotated[str, typer.Argument(help="Output of `maskmill segment`: a folder or an object prefix.")]


def evaluate(
    run: RunUri,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Also by this group column: split, city, sequence, frame, or one of the corpus's own."),
    ] = None,
) -> None:
    """Print a run's headline with intervals and the IoU of each class, raw beside CRF, from its counts."""
    from pipeline.analysis import open_run
    from pipeline.cli.console import console
    from pipeline.cli.run_tables import headline_table, iou_table
    from pipeline.cli.tables import print_groups

    view = open_run(run)
    console.print(headline_table(view))
    console.print(iou_table(view))
    if by:
        print_groups(console, view.iou(by=by))


def compare(
    before: RunUri,
    after: Annotated[str, typer.Argument(help="Another run over the same images.")],
) -> None:
    """Compare two runs over the images labelled in both: each class, with paired intervals."""
    from pipeline.analysis import open_run
    from pipeline.cli.console import console
    from pipeline.cli.run_tables import comparison_table

    comparison = open_run(before).compare(open_run(after))
    console.print(comparison_table(comparison))
    if comparison.only_before or comparison.only_after:
        console.print(
            f"left out: {comparison.only_before} images only in the first run, {comparison.only_after} in the second"
        )


def export(
    run: RunUri,
    form: Annotated[str, typer.Option("--format", help="cityscapes, png, coco-rle or geotiff.")],
    out: Annotated[str, typer.Option("--out", help="Folder or object prefix to write below.")],
) -> None:
    """Write a run's masks for other programs: a Cityscapes submission, PNG files with a palette, COCO RLE."""
    from pipeline.analysis import export as write
    from pipeline.analysis import open_run
    from pipeline.cli.console import console

    with keeping(f"the masks written so far are in {out}, which are not all: run the same command again"):
        done = write(open_run(run), form, out)
    console.print(f"{done.masks} masks: {done.uri}", soft_wrap=True)


def report(
    run: RunUri,
    beside: Annotated[str | None, typer.Option(help="A second run, shown beside this one.")] = None,
    num_worst: Annotated[int, typer.Option("--worst", help="Images to show, the lowest first.")] = 8,
) -> None:
    """Write the run's static HTML report."""
    from pipeline.analysis import write_report
    from pipeline.cli.console import console

    console.print(write_report(run, num_worst, beside), soft_wrap=True)
