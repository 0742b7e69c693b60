"""The driver of a training run: checks, stages, a Ray trainer for each, and the explanation of failures."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from pipeline import models, storage
from pipeline.cluster import connection
from pipeline.cluster.phases import PHASES
from pipeline.cluster.worker_env import worker_environment
from pipeline.config import TrainConfig, parse, stage_configs
from pipeline.crf.given import class_weights_of
from pipeline.imaging.bands import require_rasterio
from pipeline.models import Network, checkpoint, published_file
from pipeline.models.python_code import code_of
from pipeline.runs import Lease
from pipeline.train import curves, failures, label_check, mlflow, run_folder, telemetry, tensorboard
from pipeline.train.loop import run_worker
from pipeline.train.metrics_log import Record, following


@dataclass(frozen=True)
class Trained:
    """The best checkpoint's URI and its scores."""

    checkpoint: str
    best_epoch: int  # of the last stage
    miou: float
    seconds: float


def train(cfg: TrainConfig, on_record: Callable[[Record], None] = lambda record: None) -> Trained:
    """Train every stage until its last epoch; an interrupted run continues from its newest snapshot.

    Args:
        on_record: called from another thread with each new line of metrics.jsonl; in a run with stages the record has
            the key `stage`, e.g. "2/3".
    Raises:
        UserError: the corpus, the output or the machine does not fit the config, a loss became NaN or infinite, or
            memory ran out.
    """
    started = time.monotonic()
    phase = PHASES.info
    phase("looking at the corpus and the network")
    cfg = run_folder.with_layouts(_with_networks(cfg))
    stages = stage_configs(cfg)
    _check(cfg, stages)
    if not run_folder.is_finished(cfg):
        phase("looking at the first labels")
        label_check.look_at_labels([stage for stage in stages if not run_folder.is_finished(stage)])
    with Lease(cfg.output):  # a second training would remove this one's snapshots
        info = _train(cfg, stages, on_record)
    return Trained(storage.join(cfg.output, "best"), info["epoch"], info["miou"], time.monotonic() - started)


def _train(cfg: TrainConfig, stages: list[TrainConfig], on_record: Callable[[Record], None]) -> dict[str, Any]:
    """Train the stages that are not finished, and return how the best checkpoint was trained."""
    run_folder.claim(cfg)
    connection.connect()
    connection.require(
        cfg.workers, cfg.cpus_per_worker, cfg.gpus_per_worker, "the training workers", connection.WORKER_KEYS
    )
    run_folder.add_environment(cfg.output)
    watched = telemetry.TrainingMetrics(cfg.output)
    with mlflow.mlflow_run(cfg) as track:
        for number, stage in enumerate(stages, start=1):
            name = f"{number}/{len(stages)}" if len(stages) > 1 else None
            if not run_folder.is_finished(stage):
                PHASES.info("starting %d worker%s", cfg.workers, "" if cfg.workers == 1 else "s")
                _run_stage(stage, _telling((on_record, track, watched.add), name))
    if cfg.stages:
        run_folder.publish(stages[-1].output, cfg.output)
    return run_folder.finish(cfg)


def _with_networks(cfg: TrainConfig) -> TrainConfig:
    """Return the config with code hashes and architectures of external networks, so that every worker builds the same."""
    stages = []
    for stage, whole in zip(cfg.stages, stage_configs(cfg), strict=False):
        if "model" in stage:
            before, after = (one.model_dump(mode="json") for one in (whole.model, models.settled(whole.model)))
            found = {key: value for key, value in after.items() if before.get(key) != value}
            stage = stage | {"model": stage["model"] | found} if found else stage
        stages.append(stage)
    model = models.settled(cfg.model)
    return (
        cfg
        if model is cfg.model and not cfg.stages
        else cfg.model_copy(update={"model": model, "stages": tuple(stages)})
    )


def _check(cfg: TrainConfig, stages: list[TrainConfig]) -> None:
    """Raise the errors that can be detected before a cluster is started."""
    before: Network | None = None  # of the previous stage
    for number, stage in enumerate(stages):
        run_folder.require_splits(stage)
        if stage.validate_crf is not None:
            class_weights_of(stage.validate_crf.class_weights, stage.label_space.space.classes)
        with torch.device("meta"):
            bands = 3 if stage.image is None else len(stage.image.bands)
            network = models.build(stage.model, stage.label_space.space.num_classes, bands=bands)
            network.check_size(torch.zeros(1, 3, *stage.augment.crop))
        if not run_folder.is_finished(stage):
            _check_start(stage, network, before if number and _continues(stage, stages[number - 1]) else None)
        before = network
    if cfg.image is not None:
        require_rasterio()
    if cfg.tensorboard:
        tensorboard.require_tensorboard()
    if cfg.mlflow:
        mlflow.require_mlflow()


def _continues(stage: TrainConfig, previous: TrainConfig) -> bool:
    return stage.start_from == storage.join(previous.output, "best")


def _check_start(cfg: TrainConfig, network: Network, before: Network | None) -> None:
    """Raise UserError if a stage's network cannot start from its weights: those of the stage `before`, or those it names."""
    if before is None and cfg.start_from is not None:
        before = checkpoint.load(cfg.start_from, code_of(cfg.model)).model
        models.fit_bands(network, before)
    if before is not None:
        models.check_encoder(network, before)
        models.matching(network, before.state_dict())
    elif cfg.weights not in ("imagenet", "random"):
        _check_weights(cfg)


def _check_weights(cfg: TrainConfig) -> None:
    """Raise UserError if the file of weights does not exist, or is for another encoder."""
    tensors, _ = published_file.read(cfg.weights)
    models.build(cfg.model, cfg.label_space.space.num_classes, tensors)


def _run_stage(cfg: TrainConfig, on_record: Callable[[Record], None]) -> None:
    run_folder.claim(cfg)
    run_folder.bind_images(cfg)
    run_folder.count_labels(cfg)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config=cfg.model_dump(mode="json"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cfg.workers,
            use_gpu=cfg.gpus_per_worker > 0,
            resources_per_worker={"CPU": cfg.cpus_per_worker}
            | ({"GPU": cfg.gpus_per_worker} if cfg.gpus_per_worker else {}),
        ),
        run_config=_run_config(cfg),
    )
    metrics = storage.join(cfg.output, "metrics.jsonl")
    with following(metrics, on_record):
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise failures.explained(cfg, error) from error
        finally:
            with contextlib.suppress(
                OSError
            ):  # a picture must not hide the error above, nor cost a training that is done
                curves.draw(metrics, storage.join(cfg.output, "curves.png"))
    run_folder.finish(cfg)


def _worker(payload: dict[str, Any]) -> None:
    cfg = parse(TrainConfig, payload, where="train config")
    context = ray.train.get_context()
    run_worker(
        cfg,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        after_epoch=ray.train.report,
    )


def _telling(listeners: Sequence[Callable[[Record], None]], stage: str | None) -> Callable[[Record], None]:
    def tell(record: Record) -> None:
        named = record if stage is None else record | {"stage": stage}
        for listener in listeners:
            listener(named)

    return tell


def _run_config(cfg: TrainConfig) -> ray.train.RunConfig:
    """Return Ray's run config: its own records go below the output, through the same storage, under a new name each start."""
    filesystem, path = storage.arrow_filesystem(storage.join(cfg.output, "ray"))
    return ray.train.RunConfig(
        name=time.strftime("%Y%m%dT%H%M%S"),
        storage_filesystem=filesystem,
        storage_path=path,
        failure_config=ray.train.FailureConfig(max_failures=cfg.max_failures),
        worker_runtime_env=worker_environment(cfg.gpus_per_worker),
        logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]  # an argument of Train v2
    )
