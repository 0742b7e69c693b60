"""A file of published weights as a dict of tensors, whatever it is wrapped in; nothing in it is run."""

import argparse
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from pipeline import storage
from pipeline.errors import UserError

State = dict[str, torch.Tensor]
# Keys below which training scripts save a network: torchvision's references have `model`, and `model_ema` beside it.
_BELOW = ("state_dict", "model_state", "model_state_dict", "model")


def read(source: str) -> tuple[State, str]:
    """The tensors of a file by name, without the `module.` of a parallel network; the file's sha256.

    Raises:
        UserError: the file is not there, or not one of tensors.
    """
    try:
        data = storage.read(source)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"weights {source}: no such file; give a downloaded .pth") from None
    found = _safetensors(source, data) if source.endswith(".safetensors") else _torch(source, data)
    for key in _BELOW:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"weights {source}: expected a dict of tensors, found {_kind(found)}")
    return {name.removeprefix("module."): value for name, value in found.items()}, hashlib.sha256(data).hexdigest()


def _torch(source: str, data: bytes) -> Any:
    try:
        # torchvision's references save the options of their training beside the network: plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load answers bytes that are none of its own with errors of any kind
        # Torch goes on to advise what the next words refuse.
        first_line = next(iter(str(error).splitlines()), type(error).__name__).split(". ")[0]
        raise UserError(
            f"weights {source}: not a file of tensors alone ({first_line}); files that run code on loading "
            "are refused: save its state_dict with torch.save first"
        ) from None


def _safetensors(source: str, data: bytes) -> Any:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"weights {source}: not a readable safetensors file ({error}); copy it again") from None


def _kind(found: Any) -> str:
    if isinstance(found, Mapping) and found:
        strange = next(name for name, value in found.items() if not isinstance(value, torch.Tensor))
        return f"a dict whose '{strange}' is {type(found[strange]).__name__}"
    return type(found).__name__
