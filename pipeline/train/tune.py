"""Ray Tune over any key of a training config: each trial is a separate training run.

<output>/trials/<hash of its values>  one training run each; an interrupted search finds the finished ones again
<output>/best.yaml                    the config of the best trial, ready for `maskmill train`
"""

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.tune
import yaml
from ray.tune.search.basic_variant import BasicVariantGenerator

from pipeline import storage
from pipeline.cluster import connection
from pipeline.config import AxisConfig, TrainConfig, TuneConfig, canonical, open_tree, stage_configs, with_values
from pipeline.errors import RunBusy, UserError
from pipeline.runs import Lease
from pipeline.train.driver import Trained, train
from pipeline.train.metrics_log import figure, read_records

_LOOK_AGAIN_S = 5.0


@dataclass(frozen=True)
class Trial:
    """One point of the space and its score; `error` is set if it could not be trained."""

    values: dict[str, Any]
    value: float  # best value of the score that `best_by` names; NaN with an error
    miou: float  # of that checkpoint; NaN with an error
    seconds: float
    output: str
    error: str | None


def tune(
    cfg: TrainConfig, space: TuneConfig, on_trial: Callable[[int, int], None] = lambda done, total: None
) -> list[Trial]:
    """Train every trial of a space; return the trials, best first by the score that the config's `best_by` names.

    Args:
        on_trial: called with (finished, all) after each trial.
    Raises:
        UserError: a key of the space is not in the config, or the cluster is too small for a trial.
    """
    for key, axis in space.space.items():
        with_values(cfg, {key: axis.first()}, where="space")
    connection.connect()
    connection.require(
        cfg.workers, cfg.cpus_per_worker, cfg.gpus_per_worker, "a trial's workers", connection.WORKER_KEYS
    )
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the trials write their own records
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the progress line is ours
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    filesystem, path = storage.arrow_filesystem(storage.join(cfg.output, "ray"))
    tuner = ray.tune.Tuner(
        # A trial only waits for its training workers, which take the CPUs. Tune requires some resource, so it reserves a byte.
        ray.tune.with_resources(ray.tune.with_parameters(_trial, payload=open_tree(cfg)), {"memory": 1}),
        param_space={key: _axis(axis) for key, axis in space.space.items()},
        tune_config=ray.tune.TuneConfig(
            num_samples=space.num_samples,
            search_alg=BasicVariantGenerator(
                max_concurrent=min(space.at_once or space.num_trials, _room(cfg)), random_state=space.seed
            ),
        ),
        run_config=ray.tune.RunConfig(
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_Counting(space.num_trials, on_trial)],
        ),
    )
    grid = tuner.fit()
    ended = [grid[index].metrics or {} for index in range(len(grid))]
    results = [metrics for metrics in ended if "values" in metrics]
    if not results:
        raise UserError(f"no trial finished; look into {cfg.output}/ray")
    fields = Trial.__dataclass_fields__
    trials = [Trial(**{name: metrics[name] for name in fields}) for metrics in results]
    trials.sort(key=lambda trial: -math.inf if math.isnan(trial.value) else trial.value, reverse=True)
    if trials[0].error:
        raise UserError(f"none of the {len(trials)} trials could be trained, the first because: {trials[0].error}")
    best = with_values(cfg, trials[0].values | {"output": storage.join(cfg.output, "best")}, where="best trial")
    text = yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False)
    storage.put(storage.join(cfg.output, "best.yaml"), text.encode())
    return trials


def _trial(values: dict[str, Any], payload: dict[str, Any]) -> None:
    name = hashlib.sha256(canonical(values).encode()).hexdigest()[:12]
    output = storage.join(payload["output"], "trials", name)
    row: dict[str, Any] = {"values": values, "output": output, "error": None}
    row |= {"value": math.nan, "miou": math.nan, "seconds": 0.0}
    try:
        cfg = with_values(TrainConfig.model_validate(payload), values | {"output": output}, where="trial")
        trained = _train_once(cfg)
        row |= {"value": _best(cfg), "miou": trained.miou, "seconds": trained.seconds}
    except UserError as error:  # such as a loss that diverges: a result of the search, not its end
        row["error"] = str(error)
    ray.tune.report(row)


def _train_once(cfg: TrainConfig) -> Trained:
    """Train a trial; while another trial that drew the same values trains it, wait, and then take its result."""
    while True:
        try:
            return train(cfg)
        except RunBusy:
            while Lease.holder(cfg.output) is not None:
                time.sleep(_LOOK_AGAIN_S)


def _best(cfg: TrainConfig) -> float:
    """Return the score that `best_by` names, for the best validation of a finished run."""
    records = read_records(storage.join(stage_configs(cfg)[-1].output, "metrics.jsonl"))
    return max(figure(record, cfg.best_by) for record in records if record["kind"] == "validation")


def _axis(axis: AxisConfig) -> Any:
    if axis.grid is not None:
        return ray.tune.grid_search(list(axis.grid))
    if axis.choice is not None:
        return ray.tune.choice(list(axis.choice))
    if axis.uniform is not None:
        return ray.tune.uniform(*axis.uniform)
    assert axis.loguniform is not None
    return ray.tune.loguniform(*axis.loguniform)


def _room(cfg: TrainConfig) -> int:
    """Return how many trials fit on the cluster at the same time."""
    total = ray.cluster_resources()
    needs = {"CPU": cfg.workers * cfg.cpus_per_worker, "GPU": cfg.workers * cfg.gpus_per_worker}
    return max(1, min(int(total.get(kind, 0) // need) for kind, need in needs.items() if need))


class _Counting(ray.tune.Callback):
    def __init__(self, total: int, on_trial: Callable[[int, int], None]) -> None:
        self._done, self._total, self._on_trial = 0, total, on_trial

    def on_trial_complete(self, *arguments: Any, **keywords: Any) -> None:
        self._done += 1
        self._on_trial(self._done, self._total)
