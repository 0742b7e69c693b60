"""Commands that train and adjust a network: train, tune, calibrate, tune-crf; `commands.py` adds them."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import storage
from pipeline.cli import cli_output
from pipeline.cli.arguments import Config, Overrides, segment_config, train_config
from pipeline.cli.cli_output import Csv, Json
from pipeline.interrupts import keeping

if TYPE_CHECKING:
    from pipeline.config import TrainConfig


def train(config: Config, overrides: Overrides = None) -> None:
    """Train a network with Ray Train, or continue an interrupted training."""
    from pipeline.cli.console import hint
    from pipeline.cli.next_steps import after_training

    cfg = train_config(config, overrides)
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

    cfg, search = train_config(config, overrides), load(TuneConfig, space)
    kept = f"the finished trials are kept in {cfg.output}, run the same command again to go on"
    with keeping(kept), tuning() as on_trial:
        trials = run(cfg, search, on_trial)
    print_trials(console, trials)
    console.print(f"best config: {cfg.output}/best.yaml", soft_wrap=True)


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

    form, cfg = chosen_form(as_json, as_csv), segment_config(config, overrides)
    with counting("fitting the temperature", unit="predictions") as on_progress:
        found = run(cfg, images, on_progress)
    if form:
        document = answers.calibration(found)
        cli_output.write(form, document, lambda: document["rows"])
        return
    print_calibrated(console, found)


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

    cfg = segment_config(config, overrides)
    with counting("tuning the CRF", unit="CRF runs") as on_progress:
        found = run(cfg, images, on_progress)
    print_tuned(console, found)
    console.print(f"config: {cfg.output}/best.yaml", soft_wrap=True)


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
