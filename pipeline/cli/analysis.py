"""Commands that ask a run and write nothing into its parts: evaluate, compare, export, report; added by `commands.py`."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UserError
from pipeline.interrupts import keeping

if TYPE_CHECKING:
    from pipeline.analysis import RunView

EXPORT_FORMATS = (
    "png, cityscapes, geotiff, coco-rle, coco-polygons, coco-panoptic, label-studio, cvat, huggingface or fiftyone."
)
RunUri = Annotated[str, typer.Argument(help="Output of `maskmill segment`: a folder or an object prefix.")]


def evaluate(
    run: RunUri,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Also by this group column: split, city, sequence, frame, or one of the corpus's own."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Labels that came later, or others: a folder, a prefix, an archive; masks are kept."),
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option("--map", help="YAML file: class of the labels -> classes of the run."),
    ] = None,
    label_space: Annotated[
        str | None, typer.Option(help="Of the labels, where it is not the run's: a built-in name, or a YAML file.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Of the labels; found out if not given.")] = None,
    labels_glob: Annotated[str | None, typer.Option(help="Layout pairs: labels/**/*.png")] = None,
    merge: Annotated[
        list[str] | None, typer.Option(metavar="NAME=CLASS+CLASS", help="Take classes as one: vehicle=car+truck+bus.")
    ] = None,
    with_report: Annotated[
        bool, typer.Option("--report", help="Also write the report, as `maskmill report` does.")
    ] = False,
) -> None:
    """Print a run's headline with intervals and the IoU of each class, raw beside CRF; without labels, each class's share."""
    from pipeline.analysis import open_run
    from pipeline.analysis.merging import parse_merges
    from pipeline.cli.console import console

    view = open_run(run)
    if with_report and (labels or merge):
        raise UserError("evaluate: --report shows the run as it is; leave it out, or --labels and --merge")
    if labels is not None:
        view = _on_labels(view, labels, class_map, label_space, layout, labels_glob)
    elif class_map or label_space or layout or labels_glob:
        raise UserError("evaluate: --map, --label-space, --layout and --labels-glob go with --labels: add it")
    if merge:
        view = view.merged(parse_merges(merge))
    _print_answers(view, by)
    if with_report:
        report(run)
    elif not (labels or merge):
        console.print(f"next: maskmill report {run}", soft_wrap=True)


def _print_answers(view: "RunView", by: list[str] | None) -> None:
    from pipeline.cli.console import console
    from pipeline.cli.run_tables import areas_table, headline_table, iou_table
    from pipeline.cli.tables import print_groups

    if view.is_labelled():
        console.print(headline_table(view))
        console.print(iou_table(view))
        if by:
            print_groups(console, view.iou(by=by))
        return
    console.print(areas_table(view))
    if by:
        console.print(areas_table(view, by))
    console.print("no image of the run has a label, so there is no IoU; --labels URI counts against labels")


def _on_labels(
    view: "RunView", labels: str, class_map: str | None, label_space: str | None, layout: str | None, glob: str | None
) -> "RunView":
    from pipeline.cli.console import console
    from pipeline.config import read_class_map, read_label_space

    counted = view.evaluated_on(
        labels,
        class_map=read_class_map(class_map) if class_map else None,
        label_space=read_label_space(label_space, where="--label-space") if label_space else None,
        layout=layout,
        label_glob=glob,
    )
    labelled, answered = (int(counted.counts(name)["images"].iloc[0]) for name in ("confusion", "pixels"))
    if labelled < answered:
        console.print(f"left out: {answered - labelled} of {answered} images have no label there")
    return counted


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
    form: Annotated[str, typer.Option("--format", help=EXPORT_FORMATS)],
    out: Annotated[str, typer.Option("--out", help="Folder or object prefix to write below.")],
    ids: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="These images alone: a list of `maskmill next`, or ids, one a line."),
    ] = None,
) -> None:
    """Write a run's masks for other programs, those that labels are corrected in among them."""
    from pipeline.analysis import export as write
    from pipeline.analysis import open_run
    from pipeline.analysis.manifest import read_ids
    from pipeline.cli.console import console

    with keeping(f"the masks written so far are in {out}, which are not all: run the same command again"):
        done = write(open_run(run), form, out, read_ids(ids) if ids else None)
    console.print(f"{done.masks} masks: {done.uri}", soft_wrap=True)


def report(
    run: RunUri,
    beside: Annotated[str | None, typer.Option(help="A second run, shown beside this one.")] = None,
    num_worst: Annotated[int, typer.Option("--worst", help="Images to show, the lowest first.")] = 8,
) -> None:
    """Write the run's static HTML report."""
    from pipeline.analysis import write_report
    from pipeline.cli.console import console

    console.print(f"report, for a browser: {write_report(run, num_worst, beside)}", soft_wrap=True)
    console.print(f"next: masks as picture files: maskmill export {run} --format png --out DIR", soft_wrap=True)
