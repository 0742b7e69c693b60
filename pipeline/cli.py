"""The `maskmill` command: thin over the functions that jobs/ call too.

Exit codes: 0 clean, 2 done with rejects, 1 failed.
"""

import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated

import click
import typer

from pipeline import cli_cluster
from pipeline.config import CorpusConfig, SegmentConfig, TrainConfig, load, parse

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Turns image archives into queryable masks.",
)  # fmt: skip

Config = Annotated[str, typer.Argument(help="YAML file, complete: one file is one run.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key.")]
RunUri = Annotated[str, typer.Argument(help="Output of `maskmill segment`: a folder or an object prefix.")]


class ExportFormat(StrEnum):
    """What `maskmill export-model` can write."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch_export"


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
def tune(
    config: Config,
    space: Annotated[str, typer.Option(help="YAML file: `space`, keys with grid, choice, uniform or loguniform.")],
    overrides: Overrides = None,
) -> None:
    """Search over keys of a training config with Ray Tune: a table of the trials, and the best one's config."""
    from pipeline.config import TuneConfig
    from pipeline.console import console, print_trials, tuning
    from pipeline.tune import tune as run

    cfg, search = load(TrainConfig, config, overrides), load(TuneConfig, space)
    with tuning() as on_trial:
        trials = run(cfg, search, on_trial)
    print_trials(console, trials)
    console.print(f"best config: {cfg.output}/best.yaml", soft_wrap=True)


@app.command()
def export_model(
    checkpoint: Annotated[str, typer.Argument(help="What `maskmill train` wrote: <output>/best or <output>/last.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Who is to read it.")],
    out: Annotated[str, typer.Option(help="File to write: a path or a URI.")],
    height: Annotated[int, typer.Option(help="Of the images, pixels.")] = 512,
    width: Annotated[int, typer.Option(help="Of the images, pixels.")] = 1024,
) -> None:
    """Write a checkpoint as ONNX or torch.export, checked against the checkpoint's own logits."""
    from pipeline import storage
    from pipeline.console import console
    from pipeline.export_model import export as run

    done = run(storage.absolute(checkpoint), form.value, storage.absolute(out), height, width)
    console.print(
        f"{done.uri}: {done.bytes / 1e6:.1f} MB, uint8 (N, 3, {height}, {width}) -> logits; largest difference "
        f"{done.difference:.1g} of the largest logit",
        soft_wrap=True,
    )


@app.command()
def segment(config: Config, overrides: Overrides = None) -> None:
    """Segment a corpus with Ray Data: masks, counts and rejects as Parquet; done shards are skipped."""
    _segment(load(SegmentConfig, config, overrides))


@app.command()
def tune_crf(
    config: Config,
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(help="Labelled images of the split, drawn at random.")] = 100,
) -> None:
    """Search CRF settings on validation images (DeepLab's protocol); say whether the CRF helps at all."""
    from pipeline.console import console, counting, print_tuned
    from pipeline.tune_crf import tune_crf as run

    cfg = load(SegmentConfig, config, overrides)
    with counting("tuning the CRF", unit="CRF runs") as on_progress:
        found = run(cfg, images, on_progress)
    print_tuned(console, found)
    console.print(f"config: {cfg.output}/best.yaml", soft_wrap=True)


@app.command()
def resume(run: RunUri) -> None:
    """Go on with a run from its folder alone: its config is in run.json."""
    from pipeline import storage
    from pipeline.run import describe

    _segment(parse(SegmentConfig, describe(storage.absolute(run))["config"], where=f"{run}/run.json"))


@app.command()
def retry_rejects(run: RunUri) -> None:
    """Try the rejected images of a run again, e.g. after they were mended; their shards are answered anew."""
    from pipeline import storage
    from pipeline.console import console
    from pipeline.run import Lease, Run

    uri = storage.absolute(run)
    with Lease(uri) as lease:
        withdrawn = Run.open(uri).withdraw_rejects(lease)
    console.print(f"{sum(withdrawn.values())} rejects of {len(withdrawn)} shards are pending again")
    resume(run)


@app.command()
def status(run: RunUri) -> None:
    """How far a run is: answered, pending, rejects by reason, whether a writer works on it."""
    from pipeline import storage
    from pipeline.console import console
    from pipeline.run import Lease, Run

    uri = storage.absolute(run)
    found = Run.open(uri)
    sizes, pending, rejects = found.shard_sizes(), found.pending(), found.rejects()
    left = int(sizes[pending].sum())
    holder = Lease.holder(uri)
    if found.finished():
        state = "finished"
    elif holder:
        state = f"being written by {holder}"
    else:
        state = f"not finished, nobody writes it: maskmill resume {run}"
    console.print(
        f"{found.num_images - left} of {found.num_images} images answered, {len(pending)} shards pending; {state}"
    )
    for reason, count in rejects.most_common():
        console.print(f"  rejected: {count} {reason}")


@app.command()
def evaluate(
    run: RunUri,
    by: Annotated[
        list[str] | None, typer.Option(help="Also by this group column: split, city, sequence, frame.")
    ] = None,
) -> None:
    """Print a run's headline with intervals and the IoU of each class, raw beside CRF, from its counts."""
    from pipeline.analysis import headline_table, iou_table, open_run
    from pipeline.console import console, print_groups

    view = open_run(run)
    console.print(headline_table(view))
    console.print(iou_table(view))
    if by:
        print_groups(console, view.iou(by=by))


@app.command()
def compare(
    before: RunUri,
    after: Annotated[str, typer.Argument(help="Another run over the same images.")],
) -> None:
    """Compare two runs over the images labelled in both: each class, with paired intervals."""
    from pipeline.analysis import comparison_table, open_run
    from pipeline.console import console

    comparison = open_run(before).compare(open_run(after))
    console.print(comparison_table(comparison))
    if comparison.only_before or comparison.only_after:
        console.print(
            f"left out: {comparison.only_before} images only in the first run, {comparison.only_after} in the second"
        )


@app.command()
def export(
    run: RunUri,
    form: Annotated[str, typer.Option("--format", help="cityscapes, png or coco-rle.")],
    out: Annotated[str, typer.Option("--out", help="Folder or object prefix to write below.")],
) -> None:
    """Write a run's masks for other programs: a Cityscapes submission, PNG files with a palette, COCO RLE."""
    from pipeline.analysis import export as write
    from pipeline.analysis import open_run
    from pipeline.console import console

    done = write(open_run(run), form, out)
    console.print(f"{done.masks} masks: {done.uri}", soft_wrap=True)


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
def compact(
    run: RunUri,
    out: Annotated[
        str | None, typer.Option("--out", help="Where the copy goes; absent = beside it, with -compact.")
    ] = None,
) -> None:
    """Write a finished run again with few parts of about 256 MB, as a run of its own; the first one stays as it is."""
    from pipeline import storage
    from pipeline.console import console
    from pipeline.run import compact as write

    uri = storage.absolute(run)
    copy = storage.absolute(out) if out else f"{uri}-compact"
    done = write(uri, copy)
    console.print(f"{done.rows} masks, {done.rejects} rejects: {copy}", soft_wrap=True)


@app.command()
def report(
    run: RunUri,
    beside: Annotated[str | None, typer.Option(help="A second run, shown beside this one.")] = None,
    num_worst: Annotated[int, typer.Option("--worst", help="Images to show, the lowest first.")] = 8,
) -> None:
    """Write the run's static HTML report."""
    from pipeline.analysis import write_report
    from pipeline.console import console

    console.print(write_report(run, num_worst, beside), soft_wrap=True)


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


def _segment(cfg: SegmentConfig) -> None:
    from pipeline.console import console, segmenting
    from pipeline.segment import segment as run

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
