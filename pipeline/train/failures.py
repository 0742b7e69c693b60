"""Messages about what ended a training run, and what to do about it."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from ray.exceptions import OutOfMemoryError, RayError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from pipeline.config import TrainConfig
from pipeline.errors import UserError

_MAX_IDS = 8
_NODE_USE = re.compile(r"was (\S+) used / (\S+) limit")  # in Ray's message about a node whose memory is full


def check_finite(
    loss: float, gradient_norm: float, *, step: int, epoch: int, image_ids: Sequence[str], good: str
) -> None:
    """Raise UserError if the loss or the gradient of a step is NaN or infinite.

    Args:
        step, epoch: counted from 1.
        image_ids: images of the step's batch, of all workers.
        good: the place of the last good state, in words.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {gradient_norm}"
    ids = ", ".join(image_ids[:_MAX_IDS]) + (f" and {len(image_ids) - _MAX_IDS} more" * (len(image_ids) > _MAX_IDS))
    raise UserError(
        f"{what} at step {step} (epoch {epoch}), images {ids}; look at these labels, lower optimizer.lr, set "
        f"optimizer.clip_norm, lengthen optimizer.warmup_steps, or set precision to fp32; {good}"
    )


def out_of_memory(cfg: TrainConfig, whose: str) -> str:
    """Return the message for full memory, with the keys to change; first the one that does not change the result."""
    share = cfg.batch_size // cfg.workers
    part = share // cfg.accumulate
    knobs = []
    if part > 1:
        more = next(n for n in range(cfg.accumulate + 1, share + 1) if share % n == 0)
        same = "the gradient stays the same" if cfg.norm == "frozen" else "only batch statistics change"
        knobs.append(f"raise accumulate to {more} ({same})")
    if cfg.precision == "fp32" and cfg.gpus_per_worker:
        knobs.append("set precision to bf16")
    if cfg.parallel == "ddp" and cfg.gpus_per_worker and cfg.workers > 1:
        knobs.append("set parallel to fsdp")
    knobs += [f"shrink augment.crop ({cfg.augment.crop[0]}x{cfg.augment.crop[1]})", "choose a smaller model"]
    return (
        f"{whose} is full, at {part} crops of {cfg.augment.crop[0]}x{cfg.augment.crop[1]} at once in a worker (batch_size "
        f"{cfg.batch_size} / workers {cfg.workers} / accumulate {cfg.accumulate}); {', or '.join(knobs)}; "
        "start the run again under another output, or unchanged to go on if something else had filled it"
    )


@contextmanager
def memory_explained(cfg: TrainConfig) -> Iterator[None]:
    """Turn a failed allocation into a UserError that says which key to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(out_of_memory(cfg, "the GPU's memory")) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise UserError(out_of_memory(cfg, "the machine's memory")) from error
        raise


def explained(cfg: TrainConfig, error: TrainingFailedError) -> Exception:
    """Return a UserError if a worker raised one, or if store, memory or machines failed; else the failure itself."""
    failures: list[Exception] = [error]
    if isinstance(error, WorkerGroupError):
        failures = list(error.worker_failures.values())
    elif isinstance(error, ControllerError):  # on a full node Ray also kills the run's controller
        failures = [error.controller_failure]
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError):
                return UserError(str(cause))
            if isinstance(cause, OutOfMemoryError):
                use = _NODE_USE.search(str(cause))
                told = f" ({use[1]} of {use[2]}, other programs included)" if use else ""
                return UserError(out_of_memory(cfg, f"a node's memory{told}"))
            if isinstance(cause, OSError) and not isinstance(cause, RayError):
                again = "run the same command again, which goes on from the newest snapshot"
                return UserError(f"{cfg.output}: a worker could not read or write ({cause}); {again}")
            cause = cause.__cause__ or getattr(cause, "cause", None) or getattr(cause, "_base_exc", None)
    if all(_is_rays(failure) for failure in failures):
        words = " ".join(str(failures[0]).split())
        return UserError(
            f"{cfg.output}: lost the workers or the machines that trained it ({type(failures[0]).__name__}: {words}); "
            "run the same command again, which goes on from the newest snapshot"
        )
    return error


def _is_rays(failure: BaseException) -> bool:
    """Whether a failure concerns Ray's processes and machines rather than an error that our code raised there."""
    return type(failure).__module__.startswith("ray.") and not hasattr(failure, "_base_exc")
