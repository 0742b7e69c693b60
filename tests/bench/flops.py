"""Operations of a network on an input, as torch counts them: two for a multiplication and an addition."""

import torch
from torch.utils.flop_counter import FlopCounterMode


@torch.inference_mode()
def operations(network: torch.nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(x)
    return int(counter.get_total_flops())
