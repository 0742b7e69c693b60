"""The commands of `maskmill` in the order of its help, and the two that belong to no other module: demo and check."""

import shlex
from collections.abc import Callable
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.cli import analysis as cli_analysis
from pipeline.cli import cli_output
from pipeline.cli import cluster as cli_cluster
from pipeline.cli import config as cli_config
from pipeline.cli import drift as cli_drift
from pipeline.cli import init as cli_init
from pipeline.cli import labelling as cli_labelling
from pipeline.cli import models as cli_models
from pipeline.cli import register as cli_register
from pipeline.cli import runs as cli_runs
from pipeline.cli import training as cli_training
from pipeline.cli import warm as cli_warm
from pipeline.cli.arguments import Bands, LabelsGlob, ValueRange, declared_image
from pipeline.cli.cli_output import Csv, Json
from pipeline.errors import UserError
from pipeline.interrupts import keeping

app = typer.Typer(
    invoke_without_command=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Turns image archives into queryable masks.",
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"maskmill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, with times, to stderr.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results and errors: no progress, no hints.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turns image archives into queryable masks."""  # `main` handles the switches, so that they may also follow a command
    cli_cluster.help_alone(context)


def demo(
    folder: Annotated[str, typer.Option(help="Folder that everything is written to.")] = "runs/demo",
    pretrained: Annotated[
        str | None, typer.Option(help="Segment with this release file or checkpoint, and train nothing.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="With --pretrained: your pictures, in any layout. Default: drawn street scenes.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="With --images: their labels, if they are stored apart.")] = None,
) -> None:
    """Draw a small corpus, train on it, segment it and print the results.

    It takes about three minutes. With --pretrained, it segments pictures with a trained network instead.
    """
    if pretrained is None and (images or labels):
        raise UserError(
            "demo: --images and --labels go with --pretrained FILE; to train on your own pictures, use `maskmill init`"
        )
    if labels and not images:
        raise UserError("demo: --labels are the labels of --images; give both")
    with keeping(f"what was finished is kept in {folder}, run the same command again to go on"):
        if pretrained is None:
            from pipeline.cli.demo import demo as run

            run(folder)
        else:
            from pipeline.cli.demo_pretrained import demo as run_pretrained

            run_pretrained(folder, pretrained, images, labels)


def check(
    uri: Annotated[str, typer.Argument(help="Images (and labels): a folder, a prefix, a zip, a tar, a manifest.")],
    labels: Annotated[str | None, typer.Option(help="Labels, if they are stored apart from the images.")] = None,
    layout: Annotated[str | None, typer.Option(help="Such as cityscapes or folder; detected if not given.")] = None,
    images_glob: Annotated[
        str | None, typer.Option(help="For layout pairs: which files are images, such as images/**/*.jpg")
    ] = None,
    labels_glob: LabelsGlob = None,
    label_space: Annotated[
        str | None,
        typer.Option(help="Check the labels against this label space: a built-in name, or a YAML file of classes."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Check only this split.")] = None,
    bands: Bands = None,
    value_range: ValueRange = None,
    max_pixels: Annotated[int, typer.Option(help="Images of more pixels count as bad.")] = 50_000_000,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Check a corpus without a model: number of images, labels, sizes, bad files.

    It also prints the shares of the classes in the labels, and how long reading all images takes.
    """
    from pipeline.cli.console import chosen_form, console, counting, hint
    from pipeline.cli.tables import print_check
    from pipeline.config import CorpusConfig, parse, read_label_space
    from pipeline.corpus.check import check_corpus, guess_corpus
    from pipeline.corpus.detect import Found

    form, image = chosen_form(as_json, as_csv), declared_image(bands, value_range, "check")
    if layout is None and images_glob is None:
        found = guess_corpus(uri, labels)
    else:
        values = {"images": uri, "labels": labels, "layout": layout or "pairs"}
        found = Found(
            parse(CorpusConfig, values | {"image_glob": images_glob, "label_glob": labels_glob}, where="check")
        )
    space = read_label_space(label_space, where="--label-space") if label_space else None
    with counting("checking") as on_progress:
        report = check_corpus(found.cfg, split, space, max_pixels, on_progress, image)
    if form:
        from pipeline.cli import answers

        document = answers.check(found, report)
        cli_output.write(form, document, lambda: [cli_output.flat(document)])
    else:
        print_check(console, found, report)
    if report.bad:
        if "unsupported_mode" in report.bad and image is None and not form:
            hint("check it with --bands and --range, which say what images of more than 8 bits or other bands mean")
        raise typer.Exit(2)
    if layout is None:
        told = {
            "images": uri, "labels": labels, "images-glob": images_glob, "labels-glob": labels_glob, "bands": bands,
            "range": value_range,
        }  # fmt: skip
        options = " ".join(f"--{name} {shlex.quote(value)}" for name, value in told.items() if value)
        hint(f"maskmill init DIR {options} writes configs for it")


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {  # by the headings of `maskmill --help`, in its order
    "Start here": (demo, cli_init.init, check, cli_config.config),
    "Networks": (
        cli_training.train, cli_training.tune, cli_training.calibrate, cli_training.tune_crf, cli_models.models,
        cli_models.release, cli_models.import_weights, cli_models.import_model, cli_models.export_model,
    ),
    "Runs": (
        cli_runs.segment, cli_runs.status, cli_runs.resume, cli_runs.retry_rejects, cli_runs.extend, cli_runs.verify,
        cli_runs.compact, cli_cluster.estimate, cli_cluster.submit,
    ),
    "Answers": (
        cli_analysis.evaluate, cli_analysis.areas, cli_analysis.show, cli_analysis.compare, cli_drift.drift,
        cli_analysis.report, cli_labelling.choose,
    ),
    "Other programs": (cli_analysis.export, cli_register.register),
    "This installation": (cli_warm.warm,),
}  # fmt: skip
for heading, commands in COMMANDS.items():
    for command in commands:
        name = "next" if command is cli_labelling.choose else None  # next() is Python's own
        app.command(name, rich_help_panel=heading)(command)
