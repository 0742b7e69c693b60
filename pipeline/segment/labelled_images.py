"""Labelled images of a config, Ray tasks over them, and a predictor: shared by `calibrate` and `tune-crf`."""

from collections.abc import Callable
from typing import Any

import ray

from pipeline.cluster.worker_env import worker_environment
from pipeline.config import PredictConfig, SegmentConfig
from pipeline.corpus import Item, list_items
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict import Predictor


def labelled_images(cfg: SegmentConfig) -> list[Item]:
    """Return the images of the config's split that have a label."""
    return [item for item in list_items(cfg.corpus, cfg.split) if item.label is not None]


def of_split(cfg: SegmentConfig) -> str:
    """Return ` of split 'NAME'`, for messages; empty if the config names none."""
    return "" if cfg.split is None else f" of split '{cfg.split}'"


def as_task(cfg: SegmentConfig, function: Callable[..., Any]) -> Any:
    """Turn a function into a Ray task with an actor's cores and GPUs, which is retried if its worker dies."""
    return ray.remote(
        num_cpus=cfg.cpus_per_actor,
        num_gpus=cfg.gpus_per_actor,
        max_retries=2,
        runtime_env=worker_environment(cfg.gpus_per_actor),
    )(function)


def predictor_of(cfg: SegmentConfig, ready: Checkpoint, settings: PredictConfig | None = None) -> Predictor:
    """Return a predictor for the config's networks, to be used inside such a task; `settings` replace `cfg.predict`."""
    device = "cuda" if cfg.gpus_per_actor > 0 else "cpu"
    return Predictor(ready.model, settings or cfg.predict, device, others=[other.model for other in ready.others])
