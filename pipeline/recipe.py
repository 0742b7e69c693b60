"""How a network learns: loss, parameter groups, learning rate."""

import math

import torch
import torch.nn.functional as F

from pipeline.config import OptimizerConfig
from pipeline.labels import IGNORE
from pipeline.models import Network

AUX_WEIGHT = 0.5  # of each of the logits before the last: auxiliary heads and deep supervision


def cross_entropy(logits: list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
    """Cross entropy over the pixels that are not ignored, 0 where a batch has none.

    Of the last logits, and AUX_WEIGHT times that of each of the others.
    """
    labelled = (label != IGNORE).sum().clamp(min=1)
    losses = [F.cross_entropy(x.float(), label, ignore_index=IGNORE, reduction="sum") / labelled for x in logits]
    return losses[-1] + AUX_WEIGHT * sum(losses[:-1], start=torch.zeros_like(losses[-1]))


def build_optimizer(network: Network, cfg: OptimizerConfig) -> torch.optim.Optimizer:
    """Two rates (backbone, head); no weight decay on biases and normalisation (arXiv:1812.01187, section 3.1)."""
    backbone = {id(p) for p in network.backbone.parameters()}
    groups = []
    for factor, in_backbone in ((cfg.backbone_lr_factor, True), (1.0, False)):
        for decay, is_matrix in ((cfg.weight_decay, True), (0.0, False)):
            params = [p for p in network.parameters() if (id(p) in backbone, p.ndim > 1) == (in_backbone, is_matrix)]
            groups.append({"params": params, "lr_factor": factor, "weight_decay": decay})
    match cfg.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=cfg.lr)
        case "sgd":
            return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum)


def set_lr(optimizer: torch.optim.Optimizer, cfg: OptimizerConfig, step: int, total: int) -> float:
    """Linear warm-up, then poly decay: lr * (1 - step / total) ** power (arXiv:1606.00915, section 4.1)."""
    warmup = min(1.0, (step + 1) / (cfg.warmup_steps + 1))
    lr = cfg.lr * warmup * (1 - step / total) ** cfg.poly_power
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    return lr


def finite(loss: torch.Tensor, step: int, epoch: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ValueError(
            f"the loss is {value} at step {step + 1} (epoch {epoch + 1}); lower optimizer.lr, lengthen "
            "optimizer.warmup_steps, or set precision to fp32; <output>/last holds the newest good checkpoint"
        )
    return value
