"""Synchronisation of the workers' networks: each has a whole copy (DDP), or shards of the parameters (FSDP)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import TrainConfig
from pipeline.models import Network

_WHOLE = StateDictOptions(full_state_dict=True)
_WHOLE_ON_RANK_0 = StateDictOptions(full_state_dict=True, cpu_offload=True)


def spread(network: Network, cfg: TrainConfig, device: torch.device, world_size: int) -> nn.Module:
    """Return the module to call in training, whose gradients are averaged over the workers.

    `ddp`: DistributedDataParallel over gloo (CPU) or NCCL (GPU). `fsdp`: FSDP2, which stores each parameter once across all
    workers and gathers a block when it is needed (`fully_shard` on `network.shards()` and on the whole network). FSDP2 is meant
    for networks that do not fit on one GPU; it has been run here only on CPU workers.
    """
    if cfg.norm == "sync":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    model: nn.Module = network
    if world_size > 1:
        match cfg.parallel:
            case "ddp":
                model = DistributedDataParallel(
                    network,
                    device_ids=[device] if device.type == "cuda" else None,
                    # Auxiliary heads get no gradient if their weight is 0; in external networks any part may get none.
                    find_unused_parameters=cfg.loss.aux_weight == 0 or not network.every_parameter_learns,
                )
            case "fsdp":
                network.to(memory_format=torch.contiguous_format)  # FSDP2 can shard no other format
                for part in network.shards():
                    fully_shard(part)
                fully_shard(network)  # in place
    return torch.compile(model) if cfg.compile else model  # type: ignore[return-value]


@contextmanager
def gradients_shared(model: nn.Module, now: bool) -> Iterator[None]:
    """In this context a backward pass shares gradients between workers only if `now`: once per step when accumulating."""
    model = getattr(model, "_orig_mod", model)  # below torch.compile
    if isinstance(model, DistributedDataParallel) and not now:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
    yield


def sum_over_workers(values: torch.Tensor, world_size: int) -> torch.Tensor:
    """Return the elementwise sum over all workers, in the same shape."""
    if world_size > 1:
        torch.distributed.all_reduce(values)
    return values


def whole_weights(network: Network) -> dict[str, torch.Tensor]:
    """Return the complete `state_dict` on every worker; all workers must call it."""
    if isinstance(network, FSDPModule):
        return cast(dict[str, torch.Tensor], get_model_state_dict(network, options=_WHOLE))
    return network.state_dict()


def load_weights(network: Network, state: dict[str, torch.Tensor]) -> None:
    """Take a whole `state_dict`."""
    if isinstance(network, FSDPModule):
        ordered = {name: state[name] for name in sorted(state)}  # distributed in turn, so in one order
        set_model_state_dict(network, cast(dict[str, Any], ordered), options=_WHOLE)
    else:
        network.load_state_dict(state)


def whole_optimizer(network: Network, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimiser's state, complete only on rank 0; all workers must call it."""
    if isinstance(network, FSDPModule):
        return get_optimizer_state_dict(network, optimizer, options=_WHOLE_ON_RANK_0)
    return optimizer.state_dict()


def load_optimizer(network: Network, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    if isinstance(network, FSDPModule):
        set_optimizer_state_dict(network, optimizer, state, options=_WHOLE)
    else:
        optimizer.load_state_dict(state)
