"""The `maskmill` command: thin over the functions that jobs/ call too.

Exit codes: 0 clean, 2 done with rejects, 1 failed.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import click
import typer

from pipeline import cli_cluster
from pipeline.config import CorpusConfig, SegmentConfig, TrainConfig, load

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Turns image archives into queryable masks.",
)  # fmt: skip

Config = Annotated[str, typer.Argument(help="YAML file, complete: one file is one run.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key.")]
RunUri = Annotated[str, typer.Argument(help="Output of `maskmill segment`: a folder or an object prefix.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Options of every command; `main` reads them before typer does."""


@app.command()
def demo(folder: Annotated[str, typer.Option(help="Where everything is written.")] = "runs/demo") -> None:
    """Make a small corpus, train on it, segment it with the CRF, and print the answers: about three minutes."""
    from pipeline.demo import demo as run

    run(folder)


@app.command()
def check(
    uri: Annotated[
        str, typer.Argument(help="Images (and labels): a prefix, a zip, or a folder with the pair of zips.")
    ],
    labels: Annotated[str | None, typer.Option(help="Labels, where they lie apart.")] = None,
    layout: Annotated[str | None, typer.Option(help="cityscapes, camvid or pairs; found out if not given.")] = None,
    images_glob: Annotated[str | None, typer.Option(help="Layout pairs: images/**/*.jpg")] = None,
    labels_glob: Annotated[str | None, typer.Option(help="Layout pairs: labels/**/*.png")] = None,
    label_space: Annotated[str | None, typer.Option(help="Check ids against cityscapes19, voc21 or camvid11.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    max_pixels: Annotated[int, typer.Option(help="Larger images count as bad.")] = 50_000_000,
) -> None:
    """Read a corpus without a model: counts, matched labels, sizes, bad files by reason, estimated time."""
    from pipeline import labels as spaces
    from pipeline.check import check_corpus, guess_corpus
    from pipeline.config import parse
    from pipeline.console import console, counting, print_check

    if layout is None and images_glob is None:
        cfg = guess_corpus(uri, labels)
    else:
        values = {"images": uri, "labels": labels, "layout": layout or "pairs"}
        cfg = parse(CorpusConfig, values | {"image_glob": images_glob, "label_glob": labels_glob}, where="check")
    space = spaces.space(label_space) if label_space else None
    with counting("checking") as on_progress:
        report = check_corpus(cfg, split, space, max_pixels, on_progress)
    print_check(console, cfg, report)
    if report.bad:
        raise typer.Exit(2)


@app.command()
def train(config: Config, overrides: Overrides = None) -> None:
    """Train a network with Ray Train; a run that was broken off continues."""
    from pipeline.console import console, training
    from pipeline.train import train as run

    cfg = load(TrainConfig, config, overrides)
    with training("training") as on_record:
        trained = run(cfg, on_record)
    console.print(
        f"best mIoU {100 * trained.miou:.2f} after epoch {trained.best_epoch}, {trained.seconds / 60:.1f} min: "
        f"{trained.checkpoint}"
    )


@app.command()
def segment(config: Config, overrides: Overrides = None) -> None:
    """Segment a corpus with Ray Data: masks, counts and rejects as Parquet; done shards are skipped."""
    from pipeline.console import console, segmenting
    from pipeline.segment import segment as run

    cfg = load(SegmentConfig, config, overrides)
    with segmenting("segmenting") as on_progress:
        done = run(cfg, on_progress)
    rejects = sum(done.rejects.values())
    console.print(
        f"{done.rows} masks, {rejects} rejects; {done.answered_now} images answered now"
        + (f" at {done.images_per_s:.2f} images/s" if done.answered_now else "")
        + f": {done.run}"
    )
    for reason, count in done.rejects.items():
        console.print(f"  rejected: {count} {reason}")
    if rejects:
        raise typer.Exit(2)


@app.command()
def evaluate(
    run: RunUri,
    by: Annotated[
        list[str] | None, typer.Option(help="Also by this group column: split, city, sequence, frame.")
    ] = None,
) -> None:
    """Print the IoU table of a run, raw beside CRF, from its counts."""
    from pipeline.analysis import iou_table, open_run
    from pipeline.console import console, print_groups

    view = open_run(run)
    console.print(iou_table(view))
    if by:
        print_groups(console, view.iou(by=by))


@app.command()
def verify(run: RunUri) -> None:
    """Prove that every image of the plan is answered exactly once, by re-reading every part."""
    from pipeline import storage
    from pipeline.console import console
    from pipeline.run import verify as prove

    found = prove(storage.absolute(run))
    for problem in found.problems:
        console.print(f"fault: {problem}", soft_wrap=True)
    console.print(
        f"{found.images} images planned: {found.masks} masks, {found.rejects} rejects, {len(found.problems)} faults"
    )
    if found.problems:
        raise typer.Exit(1)


@app.command()
def report(run: RunUri) -> None:
    """Write the run's static HTML report."""
    from pipeline.analysis import write_report
    from pipeline.console import console

    console.print(write_report(run), soft_wrap=True)


@app.command()
def import_weights(
    source: Annotated[str, typer.Argument(help="A published .pth file: path or URI.")],
    model: Annotated[str, typer.Option("--model", help="Name of the network: see `maskmill models`.")],
    output: Annotated[str, typer.Option("--output", help="Folder of the checkpoint.")],
    label_space: Annotated[str, typer.Option("--label-space", help="What its classes mean.")] = "voc21",
    values: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the network, e.g. backbone=resnet101")
    ] = None,
) -> None:
    """Turn published weights (torchvision, FCN and DeepLab releases) into a checkpoint."""
    import yaml

    from pipeline import checkpoint, labels
    from pipeline.config import parse_model
    from pipeline.console import console

    pairs = [value.partition("=") for value in values or []]
    cfg = parse_model({"name": model, **{key: yaml.safe_load(text) for key, _, text in pairs}}, where="--model")
    sha256 = checkpoint.import_published(source, cfg, labels.space(label_space), output)
    console.print(f"checkpoint: {output} · source sha256 {sha256[:12]}", soft_wrap=True)


@app.command()
def models() -> None:
    """List the networks that a config can name."""
    from pipeline.console import console, print_models
    from pipeline.models.catalogue import catalogue

    print_models(console, catalogue())


app.command()(cli_cluster.plan)
app.command()(cli_cluster.submit)
app.add_typer(cli_cluster.job, name="job")
app.add_typer(cli_cluster.cluster, name="cluster")


def main() -> None:
    """Entry point: errors become one sentence and an exit code; `--debug` shows the traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    sys.exit(_run(partial(app, arguments, standalone_mode=False), debug=len(arguments) < len(sys.argv) - 1))


def _run(command: Callable[[], object], debug: bool) -> int:
    try:
        code = command()
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except click.exceptions.Exit as done:
        return done.exit_code
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, ValueError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else 'no message'}"
        text += " (this is not one of the known errors: add --debug for the traceback)"
    print(f"error: {text}", file=sys.stderr)
    return 1
