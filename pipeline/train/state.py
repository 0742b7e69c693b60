"""The progress of a run, saved for a restart."""

import io
from dataclasses import asdict, dataclass

import safetensors.torch
import torch

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.models import Network, checkpoint
from pipeline.train import parallel, snapshots
from pipeline.train.learner import Learner
from pipeline.train.metrics_log import Record, figure

_AVERAGED = "averaged."  # prefix of the averaged weights in a snapshot


@dataclass
class Position:
    """The progress of a run. A restart derives everything else from this and the config, or reads it from the snapshot."""

    step: int = 0  # steps done
    best: float | None = None  # best value so far of the score that best_by names
    miou: float | None = None  # of the newest validation


def snapshot_folder(cfg: TrainConfig) -> str:
    return storage.join(cfg.output, "snapshots")


def restore(cfg: TrainConfig, learner: Learner) -> Position:
    """Load the newest complete snapshot into the learner and return its position; the start if there is none."""
    snapshot = snapshots.newest(snapshot_folder(cfg))
    if snapshot is None:
        return Position()
    weights = safetensors.torch.load(snapshot.parts["weights.safetensors"])
    parallel.load_weights(learner.network, {k: v for k, v in weights.items() if not k.startswith(_AVERAGED)})
    if learner.ema is not None:
        averaged = {k.removeprefix(_AVERAGED): v for k, v in weights.items() if k.startswith(_AVERAGED)}
        learner.ema.network.load_state_dict(averaged)
    state = torch.load(io.BytesIO(snapshot.parts["optimizer.pt"]), map_location="cpu", weights_only=True)
    try:
        parallel.load_optimizer(learner.network, learner.optimizer, state)
    except ValueError:  # from torch, if the parameter groups do not match
        raise UserError(
            f"{cfg.output}: its snapshot groups the parameters for the optimiser as an earlier version did; "
            "choose another output and set start_from to a checkpoint of this run, or use its version"
        ) from None
    return Position(**snapshot.position)


def save_snapshot(cfg: TrainConfig, learner: Learner, position: Position, rank: int) -> None:
    """Write weights, averaged weights, optimiser and position from rank 0; all workers must call it."""
    weights = dict(parallel.whole_weights(learner.network))
    optimizer = parallel.whole_optimizer(learner.network, learner.optimizer)
    if rank > 0:
        return
    if learner.ema is not None:
        weights |= {_AVERAGED + name: value for name, value in learner.ema.network.state_dict().items()}
    file = io.BytesIO()
    torch.save(optimizer, file)
    parts = {
        "weights.safetensors": safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in weights.items()}),
        "optimizer.pt": file.getvalue(),
    }
    snapshots.save(snapshot_folder(cfg), position.step, parts, asdict(position))


def save_checkpoint(
    cfg: TrainConfig,
    network: Network,
    position: Position,
    validation: Record,
    started_from: dict[str, str] | None = None,
) -> None:
    """Write the checkpoint `last`, and `best` if this validation is the best so far; only rank 0 calls it.

    Args:
        started_from: the file of weights from which the backbone started, and its sha256.
    """
    space = cfg.label_space.space
    info = {
        "epoch": validation["epoch"],
        "miou": validation["miou"],
        "corpus": cfg.corpus.model_dump(),
        "split": cfg.train_split,
        **(started_from or {}),
    }
    checkpoint.save(storage.join(cfg.output, "last"), network, cfg.model, space, info, cfg.image)
    value = figure(validation, cfg.best_by)
    if position.best is None or value > position.best:
        position.best = value
        checkpoint.save(storage.join(cfg.output, "best"), network, cfg.model, space, info, cfg.image)


def good_state(cfg: TrainConfig) -> str:
    """Return where the last good state of a run is, in words for a message."""
    snapshot = snapshots.newest(snapshot_folder(cfg))
    if snapshot is None:
        return "there is no good state yet"
    last = storage.join(cfg.output, "last")
    words = f"the last good state is of step {snapshot.step}: {snapshot.uri}"
    return words + (
        f", the last good checkpoint {last}" if storage.exists(storage.join(last, "checkpoint.json")) else ""
    )
