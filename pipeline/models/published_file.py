"""Reading a file of published weights as a dict of tensors, without running code in it."""

import argparse
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from pipeline import storage
from pipeline.errors import UserError

State = dict[str, torch.Tensor]
# Keys below which training scripts save a network: torchvision's references have `model`, and `model_ema` beside it.
_BELOW = ("state_dict", "model_state", "model_state_dict", "model")

_OF_TENSORFLOW = r"(\.ckpt(-\d+)?(\.index|\.meta|\.data-\d+-of-\d+)?|\.pb)$"
_TO_NPZ = (
    "python -c \"import numpy, tensorflow as tf; r = tf.train.load_checkpoint('model.ckpt'); numpy.savez('variables.npz', "
    '**{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})"'
)


def read(source: str) -> tuple[State, str]:
    """Return the tensors of a file by name, without the prefix `module.` of a parallel network, and the file's sha256.

    Raises:
        UserError: the file does not exist, or does not hold tensors.
    """
    if re.search(_OF_TENSORFLOW, source):
        raise UserError(
            f"weights {source}: a checkpoint or graph of TensorFlow, which only TensorFlow reads; where it is installed, write "
            f"the checkpoint's variables with `{_TO_NPZ}` and give variables.npz"
        )
    try:
        data = storage.read(source)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"weights {source}: no such file; give a downloaded .pth") from None
    if source.endswith(".npz"):
        found = _npz(source, data)
    else:
        found = _safetensors(source, data) if source.endswith(".safetensors") else _torch(source, data)
    for key in _BELOW:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"weights {source}: expected a dict of tensors, found {_kind(found)}")
    return {name.removeprefix("module."): value for name, value in found.items()}, hashlib.sha256(data).hexdigest()


def _torch(source: str, data: bytes) -> Any:
    try:
        # torchvision's references save the training options beside the network, as plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of any kind for other files
        # The rest of torch's message advises what our message refuses.
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


def _npz(source: str, data: bytes) -> Any:
    """Read the arrays of an .npz file by name; pickles in it are refused."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    except (ValueError, TypeError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"weights {source}: not a readable file of arrays ({error}); write it with numpy.savez again"
        ) from None


def _kind(found: Any) -> str:
    if isinstance(found, Mapping) and found:
        strange = next(name for name, value in found.items() if not isinstance(value, torch.Tensor))
        return f"a dict whose '{strange}' is {type(found[strange]).__name__}"
    return type(found).__name__
