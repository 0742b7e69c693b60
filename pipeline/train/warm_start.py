"""Weights of another checkpoint, taken over where they fit: the next stage, another head, another label space."""

from collections.abc import Mapping

import torch

from pipeline import checkpoint
from pipeline.models import Network


def read_weights(uri: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint; ValueError where there is none or it is damaged."""
    return checkpoint.load(uri).model.state_dict()


def start_from(network: Network, weights: Mapping[str, torch.Tensor], where: str) -> tuple[list[str], list[str]]:
    """Copy every tensor whose name and shape match; the names taken over, and those left as they were.

    Raises:
        ValueError: not one tensor of the backbone matches: these are the weights of another network.
    """
    own = network.state_dict()
    taken = [name for name, value in own.items() if name in weights and weights[name].shape == value.shape]
    if not any(name.startswith("backbone.") for name in taken):
        raise ValueError(
            f"start_from {where}: no tensor of the backbone has the name and shape of one there; start from a checkpoint "
            "whose model has the same backbone, or leave start_from out"
        )
    network.load_state_dict({name: weights[name] for name in taken}, strict=False)
    return taken, [name for name in own if name not in set(taken)]
