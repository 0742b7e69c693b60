"""Commands that query a run without changing its parts: evaluate, areas, show, compare, export, report.

`commands.py` adds them to `maskmill`.
"""

import shlex
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli import cli_output
from pipeline.cli.arguments import LabelsGlob
from pipeline.cli.cli_output import Csv, Json
from pipeline.errors import UserError, nearest
from pipeline.interrupts import keeping

if TYPE_CHECKING:
    from pipeline.analysis import RunView

EXPORT_FORMATS = (
    "One of png, cityscapes, geotiff, coco-rle, coco-polygons, coco-panoptic, label-studio, cvat, huggingface, fiftyone and "
    "confidence-png (maps of the confidence)."
)
RunUri = Annotated[str, typer.Argument(help="Output of `maskmill segment`: a folder or an object prefix.")]
By = Annotated[
    list[str] | None,
    typer.Option(
        help="Also print results by this group column: split, city, sequence, frame, or one of the corpus's own."
    ),
]


def evaluate(
    run: RunUri,
    by: By = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Score the masks against other labels, e.g. made later: a folder, a prefix or an archive."),
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option("--map", help="YAML file that maps each class of the labels to classes of the run."),
    ] = None,
    label_space: Annotated[
        str | None,
        typer.Option(help="Label space of the labels, if it is not the run's: a built-in name, or a YAML file."),
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the labels; detected if not given.")] = None,
    labels_glob: LabelsGlob = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=CLASS+CLASS", help="Merge classes into one, e.g. vehicle=car+truck+bus."),
    ] = None,
    with_report: Annotated[
        bool, typer.Option("--report", help="Also write the report, as `maskmill report` does.")
    ] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Print the scores of a run: mIoU and the IoU of each class, with intervals.

    The network's own scores are beside those after the CRF. Without labels, it prints each class's share of the pixels.
    """
    from pipeline.analysis import open_run
    from pipeline.analysis.merging import parse_merges
    from pipeline.cli.console import chosen_form, hint

    form = chosen_form(as_json, as_csv)
    view = open_run(run)
    if with_report and (labels or merge):
        raise UserError("evaluate: --report shows the run as it is; leave it out, or --labels and --merge")
    if labels is not None:
        view = _on_labels(view, labels, class_map, label_space, layout, labels_glob)
    elif class_map or label_space or layout or labels_glob:
        raise UserError("evaluate: --map, --label-space, --layout and --labels-glob go with --labels: add it")
    if merge:
        view = view.merged(parse_merges(merge))
    if form:
        from pipeline.cli import answers

        document = answers.evaluation(view, by or ()) if form == "json" else {}
        cli_output.write(form, document, lambda: answers.evaluation_rows(view, by or ()))
    else:
        _print_answers(view, by)
    if with_report:
        report(run)
    elif not (labels or merge):
        hint(f"maskmill report {shlex.quote(run)}")


def _print_answers(view: "RunView", by: list[str] | None) -> None:
    from pipeline.cli.console import console
    from pipeline.cli.run_tables import areas_table, headline_table, iou_table
    from pipeline.cli.tables import print_groups

    if view.is_labelled():
        console.print(headline_table(view))
        console.print(iou_table(view))
        if by:
            print_groups(console, view.iou(by=by))
        if view.has_unknown():
            _print_unknown(view)
        return
    console.print(areas_table(view))
    if by:
        console.print(areas_table(view, by))
    if view.has_unknown():
        _print_unknown(view)
    console.print("no image of the run has a label, so there is no IoU; --labels URI counts against labels")


def _print_unknown(view: "RunView") -> None:
    from pipeline.cli.console import console
    from pipeline.metrics.metric import percent

    share, below = percent(view.unknown()["share"].iloc[0]), view.description.config["unknown_below"]
    console.print(
        f"{share} % of the pixels are unknown, their confidence is below {below:g}: shares and scores leave them out",
        soft_wrap=True,
    )


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


def areas(
    run: RunUri,
    by: By = None,
    only: Annotated[list[str] | None, typer.Option("--class", help="Only this class; may be given again.")] = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Count the predicted pixels of each class, and their shares, by any group.

    It needs no labels and decodes no masks.
    """
    from pipeline.analysis import open_run
    from pipeline.cli import answers
    from pipeline.cli.console import chosen_form, console
    from pipeline.cli.run_tables import pixels_table

    form, view = chosen_form(as_json, as_csv), open_run(run)
    for name in only or ():
        if name not in view.space.classes:
            raise UserError(
                f"--class {name}: no class of {view.space.name}: {', '.join(view.space.classes)}"
                f"{nearest(name, view.space.classes)}"
            )
    rows = answers.areas(view, by or (), only or ())
    if form:
        head = {"run": view.uri, "label_space": view.space.name, "by": list(by or ())}
        cli_output.write(form, head | {"rows": rows}, lambda: rows)
        return
    console.print(pixels_table(rows, by or ()))


def show(
    run: RunUri,
    image: Annotated[str, typer.Argument(help="Id of the image, as in the tables and the report.")],
    of: Annotated[
        Literal["prediction", "errors", "truth", "confidence"],
        typer.Option(
            help="What to show: class colours of prediction or truth, errors in red, or confidence from black to white."
        ),
    ] = "prediction",
    output: Annotated[
        str | None, typer.Option(help="Picture file to write, .png or .jpg. Default: show it in the terminal.")
    ] = None,
) -> None:
    """Show one image of a run under its class colours, in the terminal or a file.

    A legend names the classes.
    """
    from pipeline.cli.console import console
    from pipeline.cli.show import show as run_show

    run_show(console, run, image, of, output)


def compare(
    before: RunUri,
    after: Annotated[list[str], typer.Argument(help="Other runs over the same images, each compared with the first.")],
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Compare runs class by class on the images that are labelled in both.

    The intervals are paired, image by image. For runs without labels, use `maskmill drift`.
    """
    from pipeline.analysis import open_run
    from pipeline.analysis.card import temperature
    from pipeline.analysis.many_runs import run_names
    from pipeline.cli.console import chosen_form, console
    from pipeline.cli.run_tables import comparison_table, comparisons_table

    form, first = chosen_form(as_json, as_csv), open_run(before)
    views = [open_run(uri) for uri in after]
    found = [first.compare(view) for view in views]
    if form:
        from pipeline.cli import answers

        if len(views) == 1:
            document = answers.comparison(first, views[0], found[0])
            cli_output.write(form, document, lambda: document["rows"])
        else:
            every = answers.comparisons(first, list(zip(views, found, strict=True)))
            cli_output.write(form, every, lambda: answers.comparison_rows(every))
        return
    names = run_names([view.uri for view in (first, *views)])
    for name, view in zip(names, (first, *views), strict=True):
        if temperature(view) != 1:
            console.print(f"{name}: the network's logits are divided by the temperature {temperature(view):g}")
    console.print(comparison_table(found[0]) if len(found) == 1 else comparisons_table(names, found))
    for name, one in zip(names[1:], found, strict=True):
        if one.only_before or one.only_after:
            other = "the second" if len(found) == 1 else name
            console.print(f"left out: {one.only_before} images only in the first run, {one.only_after} in {other}")


def export(
    run: RunUri,
    form: Annotated[str, typer.Option("--format", help=EXPORT_FORMATS)],
    out: Annotated[str, typer.Option("--out", help="Folder or object prefix to write below.")],
    ids: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Export only these images: a list from `maskmill next`, or one id per line."),
    ] = None,
) -> None:
    """Export a run's masks for other programs, such as labelling tools."""
    from pipeline.analysis import export as write
    from pipeline.analysis import open_run
    from pipeline.analysis.manifest import read_ids
    from pipeline.cli.console import console

    with keeping(f"{out} holds only the masks written so far: run the same command again"):
        done = write(open_run(run), form, out, read_ids(ids) if ids else None)
    console.print(f"{done.masks} masks: {done.uri}", soft_wrap=True)


def report(
    run: RunUri,
    beside: Annotated[str | None, typer.Option(help="A second run to show beside this one.")] = None,
    num_worst: Annotated[
        int, typer.Option("--worst", min=0, help="Number of images to show of each kind: worst, typical and random.")
    ] = 8,
    earlier: Annotated[
        list[str] | None,
        typer.Option(help="An earlier run, to show what changed since; may be given again, the oldest first."),
    ] = None,
) -> None:
    """Write the results of a run as a static HTML report."""
    from pipeline.analysis import write_report
    from pipeline.cli.console import console, hint

    console.print(f"report, for a browser: {write_report(run, num_worst, beside, earlier or ())}", soft_wrap=True)
    hint(f"masks as picture files: maskmill export {shlex.quote(run)} --format png --out DIR")
