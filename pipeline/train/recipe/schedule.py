"""The learning rate at each step."""

import math

import torch

from pipeline.config import OptimizerConfig

# One-cycle, arXiv:1708.07120, with the constants of its authors' library: up over 30 % of the run from 1/25 of the top,
# then down to 1e-4 of the initial rate, both along a cosine. Deviation: momentum is constant instead of falling and rising.
_CYCLE_UP, _CYCLE_START, _CYCLE_END = 0.3, 1 / 25, 1 / 25 * 1e-4


def rate(cfg: OptimizerConfig, step: int, total: int) -> float:
    """Return the rate of step 0..total-1 for a group with factor 1: linear warm-up times the schedule."""
    done = step / total
    match cfg.schedule:
        case "poly":
            assert cfg.poly_power is not None
            factor = (1 - done) ** cfg.poly_power
        case "cosine":
            assert cfg.final_factor is not None
            factor = _cosine(1, cfg.final_factor, done)  # arXiv:1608.03983, eq. 5, one period
        case "step":
            assert cfg.milestones is not None and cfg.step_factor is not None
            factor = cfg.step_factor ** sum(done >= milestone for milestone in cfg.milestones)
        case "one_cycle":
            up = done < _CYCLE_UP
            factor = (
                _cosine(_CYCLE_START, 1, done / _CYCLE_UP)
                if up
                else _cosine(1, _CYCLE_END, (done - _CYCLE_UP) / (1 - _CYCLE_UP))
            )
    return cfg.lr * min(1.0, (step + 1) / (cfg.warmup_steps + 1)) * factor


def set_lr(optimizer: torch.optim.Optimizer, cfg: OptimizerConfig, step: int, total: int) -> float:
    """Set the rate of each group for this step; return the rate for factor 1."""
    lr = rate(cfg, step, total)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    return lr


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
