"""What commands that learn from a config's labelled images share: the images, a task of Ray for some of them, the predictor."""

from collections.abc import Callable
from typing import Any

import ray

from pipeline.cluster.worker_env import worker_environment
from pipeline.config import PredictConfig, SegmentConfig
from pipeline.corpus import Item, list_items
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict import Predictor


def labelled_images(cfg: SegmentConfig) -> list[Item]:
    """The images of the config's split that have a label."""
    return [item for item in list_items(cfg.corpus, cfg.split) if item.label is not None]


def as_task(cfg: SegmentConfig, function: Callable[..., Any]) -> Any:
    """A function as a task of Ray that has an actor's cores and GPUs, and is done again where its worker dies."""
    return ray.remote(
        num_cpus=cfg.cpus_per_actor,
        num_gpus=cfg.gpus_per_actor,
        max_retries=2,
        runtime_env=worker_environment(cfg.gpus_per_actor),
    )(function)


def predictor_of(cfg: SegmentConfig, ready: Checkpoint, settings: PredictConfig | None = None) -> Predictor:
    """A predictor for the config's networks, inside such a task; `settings` stand in for `cfg.predict`."""
    device = "cuda" if cfg.gpus_per_actor > 0 else "cpu"
    return Predictor(ready.model, settings or cfg.predict, device, others=[other.model for other in ready.others])
