"""A search over config keys on a real Ray Tune, and what is refused before it starts."""

import math

import pytest
import yaml
from rich.console import Console

from pipeline.cli.tables import print_trials
from pipeline.config import TrainConfig, TuneConfig, load, open_tree, parse, with_values
from pipeline.errors import UserError
from pipeline.runs import Lease
from pipeline.train.driver import Trained
from pipeline.train.metrics_log import read_records
from pipeline.train.tune import _trial, tune
from tests.small_train import config

SMALL = {"workers": 1, "epochs": 1, "augment": {"crop": [32, 32], "scale": [1, 1], "flip": False, "colour": 0}}


def space(**axes):
    return parse(TuneConfig, {"space": axes}, where="space")


@pytest.mark.slow
@pytest.mark.long
def test_a_search_trains_each_point_and_writes_the_best_config(ray_session, scenes, tmp_path):
    cfg = config(scenes, tmp_path, max_failures=0, best_by="pixel_accuracy", **SMALL)
    axes = {"optimizer.name": {"choice": ["sgd"]}, "optimizer.lr": {"grid": [1e-4, 1e30]}}
    counts = []
    trials = tune(cfg, space(**axes), lambda done, total: counts.append((done, total)))
    good, bad = trials
    assert counts[-1] == (2, 2)
    assert (good.error, good.values) == (None, {"optimizer.name": "sgd", "optimizer.lr": 1e-4})
    (validation,) = (r for r in read_records(f"{good.output}/metrics.jsonl") if r["kind"] == "validation")
    assert (good.value, good.miou) == (validation["pixel_accuracy"], validation["miou"])
    assert math.isnan(bad.value)
    assert "lower optimizer.lr" in bad.error
    best = load(TrainConfig, str(tmp_path / "best.yaml"))
    assert (best.optimizer.lr, best.optimizer.name, best.output) == (1e-4, "sgd", str(tmp_path / "best"))
    console = Console(width=400, record=True)
    print_trials(console, trials)
    assert f"failed: {bad.values}: the loss is nan at step 2" in console.export_text()


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"optimizer.rate": {"grid": [1]}}, r"space: optimizer\.rate: unknown key; known keys here: name, lr"),
        ({"optimiser.lr": {"grid": [1]}}, r"optimiser\.lr: optimiser is not a section of the config"),
        ({"epochs": {"choice": [0]}}, "epochs: found 0"),
    ],
)
def test_a_key_or_value_that_the_config_does_not_take_is_told_before_anything_starts(scenes, tmp_path, axes, sentence):
    with pytest.raises(ValueError, match=sentence):
        tune(config(scenes, tmp_path), space(**axes))


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        ({"grid": [1], "uniform": [0, 1]}, "give one of grid, choice, uniform and loguniform, found grid, uniform"),
        ({}, "found none"),
        ({"loguniform": [0, 1]}, "above 0 for loguniform"),
        ({"uniform": [2, 1]}, r"found the range 2\.0\.\.1\.0"),
    ],
)
def test_an_axis_is_one_kind_of_range(axis, sentence):
    with pytest.raises(ValueError, match=sentence):
        space(epochs=axis)


def test_trials_are_counted_over_grids_and_draws():
    axes = {"a": {"grid": [1, 2]}, "b": {"grid": [1, 2]}, "c": {"uniform": [0, 1]}}
    assert parse(TuneConfig, {"num_samples": 3, "space": axes}, where="space").num_trials == 12


def test_values_are_set_at_their_path(scenes, tmp_path):
    cfg = with_values(config(scenes, tmp_path), {"augment.colour": 1, "epochs": 7}, where="x")
    assert (cfg.augment.colour, cfg.epochs, cfg.augment.flip) == (1, 7, True)
    assert yaml.safe_load(yaml.safe_dump(cfg.model_dump(mode="json"))) == cfg.model_dump(mode="json")


@pytest.mark.slow
@pytest.mark.long
def test_a_search_without_a_trained_trial_writes_no_best_config(ray_session, scenes, tmp_path):
    with pytest.raises(UserError, match=r"none of the 1 trials could be trained, the first because: .*no split"):
        tune(config(scenes, tmp_path, train_split="trian", **SMALL), space(**{"optimizer.lr": {"grid": [1e-3]}}))
    assert not (tmp_path / "best.yaml").exists()


def test_a_trial_waits_for_another_of_the_same_values(scenes, tmp_path, monkeypatch):
    cfg = config(scenes, tmp_path, **SMALL)
    held, told = [], []

    def trained(trial):
        if not held:  # the other trial is at it, for a moment
            held.append(Lease(trial.output))
            held[0].__enter__()
        with Lease(trial.output):
            return Trained(f"{trial.output}/best", 1, 0.5, 1.0)

    monkeypatch.setattr("pipeline.train.tune.train", trained)
    monkeypatch.setattr("pipeline.train.tune._best", lambda trial: 0.75)
    monkeypatch.setattr("pipeline.train.tune.time.sleep", lambda seconds: held[0].__exit__(None, None, None))
    monkeypatch.setattr("ray.tune.report", told.append)
    _trial({"optimizer.lr": 1e-3}, open_tree(cfg))
    assert [(row["error"], row["value"], row["miou"]) for row in told] == [(None, 0.75, 0.5)]
