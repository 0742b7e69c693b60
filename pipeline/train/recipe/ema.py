"""Exponential moving average of the weights."""

import copy

import torch

from pipeline.models import Network


class Ema:
    """A second network whose parameters follow the first's: average = decay * average + (1 - decay) * parameter.

    In the first steps the decay is (1 + step) / (10 + step), so that the average forgets the initial weights
    (arXiv:1905.11946's reference code). Buffers, such as batch statistics, are copied, since they are averages already.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, state: dict[str, torch.Tensor], step: int) -> None:
        """Update the average with the network's `state_dict` after step 0, 1, ..."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(self.network.named_parameters())
        for name, value in self.network.state_dict().items():
            if name in parameters:
                value.lerp_(state[name].to(value.device), 1 - decay)
            else:
                value.copy_(state[name])
