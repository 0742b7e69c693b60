"""Parameter groups, and frozen parts of a network."""

import torch
from torch import nn

from pipeline.config import OptimizerConfig
from pipeline.errors import UserError
from pipeline.models import Network

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(network: Network, cfg: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimiser with groups by (fine-tuned or head) x (weights, biases, normalisation), without frozen parameters.

    Weight decay does not apply to biases and normalisation (arXiv:1812.01187, section 3.1) unless `decay_all`. FCN
    (arXiv:1411.4038, section 4.3) and DeepLab (arXiv:1412.7062, section 4) double the rate of biases. This means biases of
    convolutions: scale and shift of normalisation layers learn at their group's plain rate. DeepLab's head learns 10x faster;
    `fine_tuned` gives the layers that do not belong to the head.
    """
    backbone = {id(p) for part in network.fine_tuned() for p in part.parameters()}
    norms = {
        id(p) for module in network.modules() if isinstance(module, _NORMS) for p in module.parameters(recurse=False)
    }
    groups = []
    for in_backbone in (True, False):
        for kind in ("weight", "bias", "norm"):
            params = [
                p for name, p in network.named_parameters()
                if p.requires_grad and (id(p) in backbone) == in_backbone and _kind(name, p, norms) == kind
            ]  # fmt: skip
            if params:
                factor = (cfg.backbone_lr_factor if in_backbone else 1.0) * (
                    cfg.bias_lr_factor if kind == "bias" else 1.0
                )
                decay = cfg.weight_decay if kind == "weight" or cfg.decay_all else 0.0
                groups.append({"params": params, "lr_factor": factor, "weight_decay": decay})
    if not groups:
        raise UserError("no parameter of the network learns; set freeze_backbone and freeze_all_but_head to false")
    match cfg.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=cfg.lr)
        case "sgd":
            return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum)


def held_still(network: Network, freeze_backbone: bool, freeze_all_but_head: bool) -> list[nn.Module]:
    """Return the frozen parts of a network."""
    if freeze_all_but_head:
        return network.fine_tuned()
    return [network.backbone] if freeze_backbone else []


def set_norm(network: Network, freeze_backbone: bool, freeze_norm: bool, freeze_all_but_head: bool = False) -> None:
    """Set training mode, but evaluation mode for frozen batch normalisation; call this after each `eval()`."""
    network.train()
    for part in [network] if freeze_norm else held_still(network, freeze_backbone, freeze_all_but_head):
        for module in part.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _kind(name: str, parameter: nn.Parameter, norms: set[int]) -> str:
    if id(parameter) in norms:
        return "norm"
    return "bias" if name.endswith("bias") else "weight"
