"""Ray Train: a labelled corpus in, a checkpoint out.

<output>/config.json     the resolved config
<output>/metrics.jsonl   one record a few steps, one a validation
<output>/best, last      checkpoints: the highest validation mIoU, and the newest
<output>/resume.pt       what a restarted run continues from (one object, replaced whole)
"""

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline import checkpoint, cluster, labels, models, storage, watch
from pipeline.batches import epoch_batches, load_pair, steps_per_epoch
from pipeline.config import PredictConfig, TrainConfig, differences, parse
from pipeline.corpus import Item, list_items
from pipeline.metrics.counts import count_confusion
from pipeline.metrics.iou import mean_iou
from pipeline.models import Network
from pipeline.predict import Predictor, normalise
from pipeline.recipe import build_optimizer, cross_entropy, finite, set_lr
from pipeline.records import MetricsLog, Record, following

MACHINE_KEYS = {
    "workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "max_failures",
}  # may change between two starts of a run


@dataclass(frozen=True)
class Trained:
    """Where the best checkpoint lies and how good it is."""

    checkpoint: str
    best_epoch: int
    miou: float
    seconds: float


def train(cfg: TrainConfig, on_record: Callable[[Record], None] = lambda record: None) -> Trained:
    """Train until the last epoch; a run that was broken off continues from its last finished epoch.

    Args:
        on_record: called from another thread with each new line of metrics.jsonl.
    Raises:
        ValueError: the corpus, the output or the machine does not fit the config, or the loss became NaN or infinite.
    """
    started = time.monotonic()
    for split in (cfg.train_split, cfg.val_split):
        _labelled(cfg, split)
    _claim_output(cfg)
    cluster.connect()
    cluster.require(cfg.workers, cfg.cpus_per_worker, cfg.gpus_per_worker, "the training workers")
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
    watched = watch.Training(cfg.output)

    def seen(record: Record) -> None:
        watched.add(record)
        on_record(record)

    with following(storage.join(cfg.output, "metrics.jsonl"), seen):
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _plain(error) from error
    state = checkpoint.load(storage.join(cfg.output, "best")).info
    return Trained(storage.join(cfg.output, "best"), state["epoch"], state["miou"], time.monotonic() - started)


def _worker(payload: dict[str, Any]) -> None:
    """The loop of one worker."""
    cfg = parse(TrainConfig, payload, where="train config")
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    torch.set_num_threads(cfg.cpus_per_worker)
    torch.manual_seed(cfg.seed)

    space = labels.space(cfg.label_space)
    train_items, val_items = _labelled(cfg, cfg.train_split), _labelled(cfg, cfg.val_split)
    network = models.build(cfg.model, space.num_classes, pretrained=cfg.weights == "imagenet")
    network = network.place(device)
    optimizer = build_optimizer(network, cfg.optimizer)
    state = _restore(cfg, network, optimizer)
    model = ray.train.torch.prepare_model(network) if world_size > 1 else network
    mean, std = (torch.tensor(v, device=device).mul(255).view(1, 3, 1, 1) for v in (network.mean, network.std))
    steps = steps_per_epoch(len(train_items), cfg.batch_size)
    log = MetricsLog(cfg.output if rank == 0 else None, state.records)

    for epoch in range(state.epochs_done, cfg.epochs):
        torch.manual_seed(cfg.seed + 1_000_003 * epoch + rank)  # dropout: the same in a resumed run
        model.train()
        batches = epoch_batches(
            train_items,
            space,
            cfg.augment,
            batch_size=cfg.batch_size,
            epoch=epoch,
            seed=cfg.seed,
            rank=rank,
            world_size=world_size,
            max_pixels=cfg.max_pixels,
        )
        for step, (images, label) in enumerate(batches, start=epoch * steps):
            lr = set_lr(optimizer, cfg.optimizer, step, total=cfg.epochs * steps)
            x = normalise(images.to(device), mean, std).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
                logits = model(x)
            loss = cross_entropy(logits, label.to(device).long())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            log.step(step + 1, cfg.epochs * steps, epoch + 1, finite(loss, step, epoch), lr, cfg.batch_size)

        state.epochs_done = epoch + 1
        if state.epochs_done % cfg.validate_every == 0 or state.epochs_done == cfg.epochs:
            confusion = _validate(network, cfg, val_items[rank::world_size], device, world_size)
            state.miou = mean_iou(confusion)
            log.validation(state.epochs_done, confusion, space.classes)
            if rank == 0:
                _save(cfg, network, state, space)
        if rank == 0:
            _save_resume(cfg, network, optimizer, state, log.records)
        ray.train.report({"epoch": state.epochs_done, "miou": state.miou})


@dataclass
class _State:
    """How far a run is; everything else that a restart needs is a function of the config and this."""

    epochs_done: int = 0
    miou: float = -1.0  # of the newest validation
    best_miou: float = -1.0
    records: list[Record] = field(default_factory=list)


def _validate(
    network: Network, cfg: TrainConfig, items: list[Item], device: torch.device, world_size: int
) -> np.ndarray:
    """(C, C) int64 counts of the whole validation split: each worker predicts its share at full size, then they sum."""
    if world_size > 1:
        for buffer in network.buffers():  # batch statistics drift apart between workers; rank 0's are what is saved
            torch.distributed.broadcast(buffer, src=0)
    space = labels.space(cfg.label_space)
    network.eval()
    predictor = Predictor(network, network.mean, network.std, PredictConfig(precision=cfg.precision), device)
    confusion = np.zeros((space.num_classes, space.num_classes), np.int64)
    for item in items:
        image, label = load_pair(item, space, cfg.max_pixels)
        mask = predictor.probs([image])[0].argmax(0).to(torch.uint8).cpu().numpy()
        confusion += count_confusion(label, mask, space.num_classes)
    if world_size > 1:
        total = torch.from_numpy(confusion).to(device)
        torch.distributed.all_reduce(total)
        confusion = total.cpu().numpy()
    return confusion


def _save(cfg: TrainConfig, network: Network, state: _State, space: labels.LabelSpace) -> None:
    """The newest checkpoint, and the best one if this is it."""
    info = {"epoch": state.epochs_done, "miou": state.miou, "corpus": cfg.corpus.model_dump(), "split": cfg.train_split}
    checkpoint.save(storage.join(cfg.output, "last"), network, cfg.model, space, info)
    if state.miou > state.best_miou:
        state.best_miou = state.miou
        checkpoint.save(storage.join(cfg.output, "best"), network, cfg.model, space, info)


def _save_resume(
    cfg: TrainConfig, network: Network, optimizer: torch.optim.Optimizer, state: _State, records: list[Record]
) -> None:
    file = io.BytesIO()
    state.records = records
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "state": asdict(state)}, file)
    storage.put(storage.join(cfg.output, "resume.pt"), file.getvalue())


def _restore(cfg: TrainConfig, network: Network, optimizer: torch.optim.Optimizer) -> _State:
    try:
        data = storage.read(storage.join(cfg.output, "resume.pt"))
    except FileNotFoundError:
        return _State()
    saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    return _State(**saved["state"])


def _labelled(cfg: TrainConfig, split: str) -> list[Item]:
    items = [item for item in list_items(cfg.corpus, split) if item.label is not None]
    if not items:
        raise ValueError(
            f"{cfg.corpus.images}: split '{split}' has no labelled image; training needs labels, set corpus.labels"
        )
    return items


def _claim_output(cfg: TrainConfig) -> None:
    """Write config.json, or make sure that the run already there is of the same config."""
    uri = storage.join(cfg.output, "config.json")
    wanted = cfg.model_dump(mode="json")
    if not storage.create(uri, json.dumps(wanted, indent=2).encode()):
        found = json.loads(storage.read(uri))
        changed = [line for line in differences(found, wanted) if line.split(":")[0] not in MACHINE_KEYS]
        if changed:
            raise ValueError(
                f"{cfg.output} holds a training run of another config: {'; '.join(changed)}; "
                "choose another output, or restore the config to continue that run"
            )


def _run_config(cfg: TrainConfig) -> ray.train.RunConfig:
    """Ray's own record of the run goes below the output, through the same storage; the run's name is new each start."""
    filesystem, path = storage.arrow_filesystem(storage.join(cfg.output, "ray"))
    return ray.train.RunConfig(
        name=time.strftime("%Y%m%dT%H%M%S"),
        storage_filesystem=filesystem,
        storage_path=path,
        failure_config=ray.train.FailureConfig(max_failures=cfg.max_failures),
        logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]  # of Train v2
    )


def _plain(error: TrainingFailedError) -> Exception:
    """The sentence a worker raised for the user, if that is what ended the run; else the failure as it is."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else [error]
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, ValueError):
                return ValueError(str(cause))
            cause = cause.__cause__ or getattr(cause, "cause", None) or getattr(cause, "_base_exc", None)
    return error
