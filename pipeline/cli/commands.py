"""The commands of `maskmill`; jobs/ call `run_training` and `run_segmentation` too."""

import dataclasses
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import __version__, storage
from pipeline.cli import analysis as cli_analysis
from pipeline.cli import cli_output
from pipeline.cli import cluster as cli_cluster
from pipeline.cli import config as cli_config
from pipeline.cli import drift as cli_drift
from pipeline.cli import init as cli_init
from pipeline.cli import labelling as cli_labelling
from pipeline.cli import models as cli_models
from pipeline.cli import register as cli_register
from pipeline.cli import warm as cli_warm
from pipeline.cli.analysis import RunUri
from pipeline.cli.cli_output import Csv, Json
from pipeline.errors import UserError
from pipeline.interrupts import keeping

if TYPE_CHECKING:  # so that `maskmill --help` imports no configs, torch or Ray, which takes seconds
    from pipeline.config import SegmentConfig, TrainConfig
    from pipeline.segment.progress import Progress as SegmentProgress

app = typer.Typer(
    invoke_without_command=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Turns image archives into queryable masks.",
)  # fmt: skip

Config = Annotated[str, typer.Argument(help="YAML file; `maskmill init` writes one, `maskmill config` lists its keys.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key of the config; may be given again."),
]


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
    labels_glob: Annotated[
        str | None, typer.Option(help="For layout pairs: which files are labels, such as labels/**/*.png")
    ] = None,
    label_space: Annotated[
        str | None,
        typer.Option(help="Check the labels against this label space: a built-in name, or a YAML file of classes."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Check only this split.")] = None,
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

    form = chosen_form(as_json, as_csv)
    if layout is None and images_glob is None:
        found = guess_corpus(uri, labels)
    else:
        values = {"images": uri, "labels": labels, "layout": layout or "pairs"}
        found = Found(
            parse(CorpusConfig, values | {"image_glob": images_glob, "label_glob": labels_glob}, where="check")
        )
    space = read_label_space(label_space, where="--label-space") if label_space else None
    with counting("checking") as on_progress:
        report = check_corpus(found.cfg, split, space, max_pixels, on_progress)
    if form:
        from pipeline.cli import answers

        document = answers.check(found, report)
        cli_output.write(form, document, lambda: [cli_output.flat(document)])
    else:
        print_check(console, found, report)
    if report.bad:
        raise typer.Exit(2)
    if layout is None:
        told = {"images": uri, "labels": labels, "images-glob": images_glob, "labels-glob": labels_glob}
        options = " ".join(f"--{name} {shlex.quote(value)}" for name, value in told.items() if value)
        hint(f"maskmill init DIR {options} writes configs for it")


def train(config: Config, overrides: Overrides = None) -> None:
    """Train a network with Ray Train, or continue an interrupted training."""
    from pipeline.cli.console import hint
    from pipeline.cli.next_steps import after_training

    cfg = _train_config(config, overrides)
    run_training(cfg)
    hint(after_training(config, storage.join(cfg.output, "best")))


def tune(
    config: Config,
    space: Annotated[
        str, typer.Option(help="YAML file with `space`: for each key its grid, choice, uniform or loguniform.")
    ],
    overrides: Overrides = None,
) -> None:
    """Search for the best values of keys of a training config with Ray Tune.

    It prints a table of the trials and writes the best one's config.
    """
    from pipeline.cli.console import console, tuning
    from pipeline.cli.tables import print_trials
    from pipeline.config import TuneConfig, load
    from pipeline.train.tune import tune as run

    cfg, search = _train_config(config, overrides), load(TuneConfig, space)
    kept = f"the finished trials are kept in {cfg.output}, run the same command again to go on"
    with keeping(kept), tuning() as on_trial:
        trials = run(cfg, search, on_trial)
    print_trials(console, trials)
    console.print(f"best config: {cfg.output}/best.yaml", soft_wrap=True)


def segment(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, memory and time; write nothing.")] = False,
    like: Annotated[str | None, typer.Option(help="With --dry-run: take the rates of this finished run.")] = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Segment a corpus with Ray Data: write masks, counts and rejects as Parquet.

    After an interruption, run the same command again: finished shards are skipped.
    """
    cfg = _segment_config(config, overrides)
    if like is not None and not dry_run:
        raise UserError("segment: --like gives rates to --dry-run; leave it out, or add --dry-run")
    if (as_json or as_csv) and not dry_run:
        raise UserError(
            "segment: --json and --csv give the answer of --dry-run; for a run, use `maskmill status RUN --json`"
        )
    if not dry_run:
        raise typer.Exit(run_segmentation(cfg))
    from pipeline.cli.console import chosen_form
    from pipeline.segment.estimate import estimate
    from pipeline.segment.sizing import Prices

    form = chosen_form(as_json, as_csv)
    cli_cluster.tell_estimate(form, estimate(cfg, like=like, starting=True), Prices(), cfg.actors)


def tune_crf(
    config: Config,
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(help="Number of labelled images, drawn at random from the split.")] = 100,
) -> None:
    """Search for the best CRF settings on validation images.

    It follows DeepLab's protocol, and says whether the CRF helps at all.
    """
    from pipeline.cli.console import console, counting
    from pipeline.cli.tables import print_tuned
    from pipeline.segment.tune_crf import tune_crf as run

    cfg = _segment_config(config, overrides)
    with counting("tuning the CRF", unit="CRF runs") as on_progress:
        found = run(cfg, images, on_progress)
    print_tuned(console, found)
    console.print(f"config: {cfg.output}/best.yaml", soft_wrap=True)


def calibrate(
    config: Config,
    overrides: Overrides = None,
    images: Annotated[
        int, typer.Option(min=2, help="Number of labelled images, drawn at random from the split.")
    ] = 200,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Fit the temperature that makes confidences agree with accuracy.

    It uses labelled validation images, and says what the temperature changes.
    """
    from pipeline.cli import answers
    from pipeline.cli.console import chosen_form, console, counting
    from pipeline.cli.tables import print_calibrated
    from pipeline.segment.calibrate import calibrate as run

    form, cfg = chosen_form(as_json, as_csv), _segment_config(config, overrides)
    with counting("fitting the temperature", unit="predictions") as on_progress:
        found = run(cfg, images, on_progress)
    if form:
        document = answers.calibration(found)
        cli_output.write(form, document, lambda: document["rows"])
        return
    print_calibrated(console, found)


def resume(run: RunUri) -> None:
    """Resume an unfinished run, or an unfinished extension, from its folder alone.

    The config is read from the run's run.json.
    """
    from pipeline.runs import is_being_extended

    uri = storage.absolute(run)
    cfg = _config_of(uri, run)
    if is_being_extended(uri):
        raise typer.Exit(run_extension(cfg.model_copy(update={"output": uri})))
    raise typer.Exit(run_segmentation(cfg))


def extend(
    run: RunUri,
    overrides: Overrides = None,
    retry_rejects: Annotated[
        bool, typer.Option("--retry-rejects", help="Also try rejected images again, e.g. after they were repaired.")
    ] = False,
    accept_gone: Annotated[
        bool,
        typer.Option("--accept-gone", help="Continue even if more than half of the images are gone from the archive."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is new, replaced or gone; write nothing.")
    ] = False,
) -> None:
    """Bring a finished run up to date with its archive, as a new generation.

    New and replaced images are segmented; the masks of images that are gone are withdrawn.
    """
    from pipeline.cli.console import console
    from pipeline.config import SegmentConfig, overridden, parse
    from pipeline.runs import describe

    uri = storage.absolute(run)
    values = overridden(SegmentConfig, describe(uri).config, overrides)
    cfg = parse(SegmentConfig, {**values, "output": uri}, where=f"{run}/run.json")
    if not dry_run:
        raise typer.Exit(run_extension(cfg, retry_rejects, accept_gone))
    from pipeline.segment.extend import changes_of

    console.print(changes_of(cfg).words() or "nothing in the archive has changed since the run", soft_wrap=True)


def retry_rejects(run: RunUri) -> None:
    """Try the rejected images of a run again, e.g. after they were repaired.

    The shards that hold them are segmented anew.
    """
    from pipeline.cli.console import console
    from pipeline.runs import Lease, Run, check_checkpoints
    from pipeline.segment.checkpoints import addresses, load_checkpoints

    uri = storage.absolute(run)
    with Lease(uri) as lease:
        found = Run.open(uri)  # masks are withdrawn only if this model can make them again
        cfg = _config_of(uri, run)
        check_checkpoints(uri, addresses(cfg), load_checkpoints(cfg).identity)
        withdrawn = found.withdraw_rejects(lease)
    console.print(f"{sum(withdrawn.values())} rejects of {len(withdrawn)} shards are pending again")
    resume(run)


def status(run: RunUri, as_json: Json = False, as_csv: Csv = False) -> None:
    """Show the progress of a run: images answered, shards pending, rejects.

    It also shows the run's generation, and whether a process is writing it.
    """
    from pipeline.cli.console import chosen_form, console
    from pipeline.runs.status import status as ask

    form, found = chosen_form(as_json, as_csv), ask(storage.absolute(run))
    if form:
        document = dataclasses.asdict(found)
        cli_output.write(form, document, lambda: [cli_output.flat(document)])
        return
    state = f"being written by {found.writer}" if found.writer else found.state
    if found.state == "not finished" and not found.writer:
        state += f" and not running; to resume it: maskmill resume {shlex.quote(run)}"
    if found.state == "being extended" and not found.writer:
        state = f"an extension is unfinished and not running; to continue it: maskmill extend {shlex.quote(run)}"
    console.print(f"{found.answered} of {found.images} images answered, {found.pending_shards} shards pending; {state}")
    if found.generation > 1:
        console.print(f"  generation {found.generation}: {found.new} new, {found.replaced} replaced, {found.gone} gone")
    for reason, count in found.rejects.items():
        console.print(f"  rejected: {count} {reason}")


def verify(run: RunUri) -> None:
    """Verify that every image of a run is answered exactly once.

    It reads all parts of the run again.
    """
    from pipeline.cli.console import console
    from pipeline.runs import verify as prove

    found = prove(storage.absolute(run))
    for problem in found.problems:
        console.print(f"fault: {problem}", soft_wrap=True)
    if found.more_problems:
        console.print(f"and {found.more_problems} faults more")
    console.print(
        f"{found.images} images planned: {found.masks} masks, {found.rejects} rejects, {found.num_problems} faults"
    )
    if found.problems:
        raise typer.Exit(1)


def compact(
    run: RunUri,
    out: Annotated[
        str | None, typer.Option("--out", help="Where the copy is written. Default: beside the run, as RUN-compact.")
    ] = None,
) -> None:
    """Copy a finished run into few large parts, of about 256 MB.

    The copy is a run of its own; the first run is not changed.
    """
    from pipeline.cli.console import console
    from pipeline.runs import compact as write

    uri = storage.absolute(run)
    copy = storage.absolute(out) if out else f"{uri}-compact"
    with keeping(f"what was written is kept in {copy}, run the same command again to go on"):
        done = write(uri, copy)
    console.print(f"{done.rows} masks, {done.rejects} rejects: {copy}", soft_wrap=True)


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {  # by the headings of `maskmill --help`, in its order
    "Start here": (demo, cli_init.init, check, cli_config.config),
    "Networks": (
        train, tune, calibrate, tune_crf, cli_models.models, cli_models.release, cli_models.import_weights,
        cli_models.import_model, cli_models.export_model,
    ),
    "Runs": (
        segment, status, resume, retry_rejects, extend, verify, compact, cli_cluster.estimate, cli_cluster.submit,
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


def _train_config(path: str, overrides: list[str] | None) -> "TrainConfig":
    from pipeline.config import TrainConfig, load

    return load(TrainConfig, path, overrides)


def _segment_config(path: str, overrides: list[str] | None) -> "SegmentConfig":
    from pipeline.config import SegmentConfig, load

    return load(SegmentConfig, path, overrides)


def _config_of(uri: str, run: str) -> "SegmentConfig":
    """Return the config that a run was written with; `run` is the name that the user gave, for messages."""
    from pipeline.config import SegmentConfig, parse
    from pipeline.runs import describe

    return parse(SegmentConfig, describe(uri).config, where=f"{run}/run.json")


def run_training(cfg: "TrainConfig") -> None:
    """Train, with progress and result on the console."""
    from pipeline.cli.console import console, loading, training

    kept = f"the snapshots written so far are kept in {cfg.output}, run the same command again to go on from the newest"
    with keeping(kept), training("training") as on_record:
        loading("torch and Ray")
        from pipeline.models.bands import first_convolution_words
        from pipeline.train.driver import train as run

        if words := first_convolution_words(cfg):
            console.print(words, soft_wrap=True)
        trained = run(cfg, on_record)
    console.print(
        f"best mIoU {100 * trained.miou:.2f} after epoch {trained.best_epoch}, {trained.seconds / 60:.1f} min: "
        f"{trained.checkpoint}",
        soft_wrap=True,
    )


def run_extension(cfg: "SegmentConfig", retry_rejects: bool = False, accept_gone: bool = False) -> int:
    """Extend a run, with progress on the console; the exit code: 0 clean, 2 done with rejects among the new answers."""
    from pipeline.cli.console import console, loading, print_extended, segmenting
    from pipeline.segment.local_workers import started_ahead

    kept = f"the images answered so far are kept in {cfg.output}, run the same command again for the rest"
    with keeping(kept), segmenting("extending") as show:
        loading("torch")
        with started_ahead(cfg) as local:
            from pipeline.segment.extend import extend as run

            done = run(cfg, retry_rejects, accept_gone, show, local)
    print_extended(console, done)
    return 2 if done.answered is not None and done.answered.rejects else 0


def run_segmentation(cfg: "SegmentConfig") -> int:
    """Segment, with progress on the console; the exit code: 0 clean, 2 done with rejects."""
    from pipeline.cli.console import console, loading, print_segmented, segmenting
    from pipeline.segment.local_workers import started_ahead

    newest: SegmentProgress | None = None
    kept = f"the images answered so far are kept in {cfg.output}, run the same command again for the rest"
    with keeping(kept), segmenting("segmenting") as show:

        def on_progress(progress: "SegmentProgress") -> None:
            nonlocal newest
            newest = progress
            show(progress)

        loading("torch")
        with started_ahead(cfg) as local:
            from pipeline.segment.driver import segment as run

            done = run(cfg, on_progress, local)
        changes = _changes_since(cfg) if done.had_finished else ""
    print_segmented(console, done, newest, changes)
    return 2 if done.rejects else 0


def _changes_since(cfg: "SegmentConfig") -> str:
    """Say what is new, replaced or gone in the archive of a finished run; empty if nothing, or if it cannot be listed."""
    from pipeline.segment.extend import changes_of

    recorded = _config_of(cfg.output, cfg.output)  # in which the layout is resolved
    try:
        return changes_of(recorded.model_copy(update={"output": cfg.output})).words()
    except UserError:  # the archive may be gone for good; the run stays valid
        return ""
