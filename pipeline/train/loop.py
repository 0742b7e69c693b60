"""One worker of a training run, from the first step to the last."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.cluster.worker_env import take_cores
from pipeline.config import TrainConfig
from pipeline.corpus import Item
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.models.bands import first_convolution_words
from pipeline.models.cpp_compiler import cpp_compiler, has_cpp_compiler
from pipeline.train import failures, label_check, run_folder, state, tensorboard
from pipeline.train.data import Batch, EpochOrder, epoch_batches, steps_per_epoch
from pipeline.train.learner import Learner, StepResult
from pipeline.train.metrics_log import MetricsLog
from pipeline.train.validate import example_masks, require_truth, validate


def run_worker(
    cfg: TrainConfig,
    *,
    rank: int,
    world_size: int,
    device: torch.device,
    after_epoch: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> None:
    """Train, validate and save, starting from the newest snapshot of the run. Without Ray this is the only worker.

    Args:
        after_epoch: called with {"epoch", "step", "miou"} at the end of each epoch, where all workers synchronise.
    """
    _set_up(cfg, device)
    data = _open(cfg)
    with failures.memory_explained(cfg):
        learner = Learner(cfg, data.space.num_classes, data.counts, rank, world_size, device)
        position = state.restore(cfg, learner)
        log = MetricsLog(cfg.output if rank == 0 else None, position.step)
        begins = first_convolution_words(cfg)
        bands = {} if begins is None else {"first_convolution": begins}
        log.start(
            position.step,
            workers=world_size,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=str(device),
            **bands,
            **learner.started_from,
        )
        pictures = tensorboard.open_board(cfg, rank, log.records)
        for epoch in range(position.step // data.steps, cfg.epochs):
            _train_epoch(cfg, data, learner, position, log, epoch)
            if (epoch + 1) % cfg.validate_every == 0 or epoch + 1 == cfg.epochs:
                network = learner.resting()
                confusion = validate(network, cfg, data.val_items, rank, world_size)
                if position.best is None:
                    require_truth(cfg, confusion)
                validation = log.validation(position.step, epoch + 1, confusion, data.space.classes)
                position.miou = validation["miou"]
                if rank == 0:
                    state.save_checkpoint(cfg, network, position, validation, learner.started_from)
                    if pictures is not None:
                        pictures.add(log.records, example_masks(network, cfg, data.val_items), data.space.colours)
                learner.wake()
            log.flush()
            state.save_snapshot(cfg, learner, position, rank)
            after_epoch({"epoch": epoch + 1, "step": position.step, "miou": position.miou})


@dataclass(frozen=True)
class _Data:
    space: LabelSpace
    train_items: list[Item]
    val_items: list[Item]
    counts: np.ndarray | None  # (I, C) labelled pixels of each training image, if the recipe needs them
    steps: int  # per epoch


def _open(cfg: TrainConfig) -> _Data:
    train_items, val_items = (label_check.labelled(cfg, split) for split in (cfg.train_split, cfg.val_split))
    counts = run_folder.read_counts(cfg, train_items)
    steps = steps_per_epoch(len(train_items), cfg.batch_size)
    return _Data(cfg.label_space.space, train_items, val_items, counts, steps)


def _set_up(cfg: TrainConfig, device: torch.device) -> None:
    take_cores(cfg.cpus_per_worker)
    if cfg.compile and not has_cpp_compiler():
        raise UserError(
            f"compile: true needs a C++ compiler on each worker, and {socket.gethostname()} has no {cpp_compiler()}; install "
            "one, let CXX name one, or set compile to false"
        )
    if cfg.deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)  # some backward passes have no other kernel


def _train_epoch(
    cfg: TrainConfig, data: _Data, learner: Learner, position: state.Position, log: MetricsLog, epoch: int
) -> None:
    """Run the remaining steps of an epoch, with a snapshot every `save_every` steps."""
    log_step = partial(_log_step, cfg, data, log, epoch)
    batches = epoch_batches(
        data.train_items,
        data.space,
        cfg.augment,
        batch_size=cfg.batch_size,
        epoch=epoch,
        seed=cfg.seed,
        rank=learner.rank,
        world_size=learner.world_size,
        max_pixels=cfg.max_pixels,
        counts=data.counts,
        loss=cfg.loss,
        declared=cfg.image,
        first=position.step % data.steps,
        num_threads=cfg.read_threads,
        pin=learner.device.type == "cuda",
    )
    unlogged: tuple[int, StepResult, float] | None = None  # read one step later, while the GPU works on the next
    begun = time.monotonic()
    for (images, label), wait_s in _timed(batches):
        step = position.step
        result = learner.step(images, label, step, cfg.epochs * data.steps, wait_s)
        if unlogged is not None:
            log_step(*unlogged)
        now = time.monotonic()
        unlogged, begun = (step, result, now - begun), now
        position.step += 1
        if cfg.save_every and position.step % cfg.save_every == 0 and position.step % data.steps:
            log_step(*unlogged)
            unlogged = None
            log.flush()
            state.save_snapshot(cfg, learner, position, learner.rank)
            begun = time.monotonic()
    if unlogged is not None:
        log_step(*unlogged)


def _log_step(
    cfg: TrainConfig, data: _Data, log: MetricsLog, epoch: int, step: int, result: StepResult, seconds: float
) -> None:
    """Add a step to the log; UserError if its loss or its gradient is NaN or infinite."""
    loss, norm, wait_s = torch.stack([result.loss, result.gradient_norm, result.data_wait_s]).tolist()
    if not (np.isfinite(loss) and np.isfinite(norm)):
        log.flush()
        ids = _image_ids(cfg, data, epoch, step)
        failures.check_finite(loss, norm, step=step + 1, epoch=epoch + 1, image_ids=ids, good=state.good_state(cfg))
    log.step(
        step=step + 1,
        steps=cfg.epochs * data.steps,
        epoch=epoch + 1,
        loss=loss,
        lr=result.lr,
        gradient_norm=norm,
        seconds=seconds,
        data_wait=min(1.0, wait_s / max(seconds, 1e-9)),
        batch_size=cfg.batch_size,
    )


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch with the seconds spent waiting for it."""
    while True:
        begun = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.monotonic() - begun


def _image_ids(cfg: TrainConfig, data: _Data, epoch: int, step: int) -> list[str]:
    """Return the ids of the images in a step's batch, over all workers."""
    uniform = cfg.augment.class_uniform
    order = EpochOrder(len(data.train_items), seed=cfg.seed, epoch=epoch, class_uniform=uniform, counts=data.counts)
    first = step % data.steps * cfg.batch_size
    return [data.train_items[order[place][0]].image_id for place in range(first, first + cfg.batch_size)]
