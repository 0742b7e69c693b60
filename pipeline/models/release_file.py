"""A trained network in one file: safetensors, with the checkpoint's description and a card in the header's metadata.

Header and data are as described at https://github.com/huggingface/safetensors: 8 bytes of length, JSON, tensors. Without its
metadata the file is byte for byte the checkpoint's model.safetensors, so both have the same sha256. Reading it runs no code.
"""

import json
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from pipeline import storage
from pipeline.errors import UserError

ENDING = ".safetensors"
FORMAT = 1
_METADATA = "__metadata__"
_KEY = "maskmill"  # our key in the metadata, whose values are all text
_LENGTH = 8  # bytes of the header's length, little-endian
_MOST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


@dataclass(frozen=True)
class Head:
    """The header of a release file."""

    description: dict[str, Any]  # as in checkpoint.json
    card: dict[str, Any]  # values of a `ReleaseCard`
    header: dict[str, Any]  # entries of the tensors, in the file's order
    data_at: int  # offset of the tensors


def is_release(uri: str) -> bool:
    """Whether a checkpoint's URI is that of a release file."""
    return uri.endswith(ENDING)


def write(description: dict[str, Any], card: dict[str, Any], weights: bytes) -> bytes:
    """Return a release file: the safetensors file `weights` with a description and a card in its header."""
    header, start = _header(weights)
    header.pop(_METADATA, None)
    said = {"release": FORMAT, "checkpoint": description, "card": card}
    return _joined({_METADATA: {"format": "pt", _KEY: json.dumps(said)}, **header}, weights[start:])


def without_metadata(data: bytes) -> bytes:
    """Return a safetensors file with only its tensors, as safetensors.torch.save writes it."""
    header, start = _header(data)
    header.pop(_METADATA, None)
    return _joined(header, data[start:])


def read_head(uri: str) -> Head:
    """Read the header of a release file, without the tensors.

    Raises:
        UserError: there is no such file, it is damaged or not a release file, or a newer version wrote it.
    """
    try:
        first = storage.read_range(uri, 0, _LENGTH)
        length = int.from_bytes(first, "little")
        text = storage.read_range(uri, _LENGTH, length) if len(first) == _LENGTH and length <= _MOST_HEADER else b""
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"checkpoint {uri}: no such file; give what `maskmill release` wrote, or the folder of a checkpoint"
        ) from None
    except IsADirectoryError:
        raise UserError(
            f"checkpoint {uri}: a folder with the name of a release file; give its folder another name"
        ) from None
    return _head(uri, first + text)


def read_weights(uri: str) -> bytes:
    """Read the tensors of a release file, as a safetensors file without metadata.

    Raises:
        UserError: as in `read_head`, or the file is longer or shorter than its header says.
    """
    data = storage.read(uri)
    head = _head(uri, data)
    ends = [entry["data_offsets"][1] for entry in head.header.values()]
    if len(data) != (expected := head.data_at + max(ends, default=0)):
        raise UserError(
            f"checkpoint {uri}: {len(data)} bytes, and its header says {expected}; the copy was broken off: copy it again"
        )
    return _joined(head.header, data[head.data_at :])


def _head(uri: str, data: bytes) -> Head:
    try:
        header, start = _header(data)
        metadata = header.pop(_METADATA, {})
        text = metadata.get(_KEY)
        said = None if text is None else json.loads(text)
        if said is not None and said["release"] == FORMAT:
            said["checkpoint"]["format"]
            return Head(said["checkpoint"], said["card"], header, start)
        found = None if said is None else said["release"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"checkpoint {uri}: not a readable safetensors file; copy it again") from None
    if found is None:
        raise UserError(
            f"checkpoint {uri}: a file of weights alone, without network and classes; turn published weights into a checkpoint "
            f"with `maskmill import-weights {uri} --model NAME --output FOLDER`, or give a file that `maskmill release` wrote"
        )
    raise UserError(
        f"checkpoint {uri}: release format {found}, this version reads {FORMAT}; use the version of maskmill that wrote it"
    )


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the JSON of a safetensors file's header, and the offset of its tensors; ValueError if it is not such a file."""
    start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if len(data) < start or start == _LENGTH:
        raise ValueError("no header")
    header = json.loads(data[_LENGTH:start])
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header, start


def _joined(header: dict[str, Any], tensors: bytes) -> bytes:
    """Join a header, padded with spaces to a multiple of 8 bytes, and the tensors to a file."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH, "little") + text + tensors


def halved(weights: bytes) -> bytes:
    """Return the weights with matrices and kernels as float16. Vectors, such as statistics, integers, and tensors with values
    that float16 cannot represent keep their precision."""
    state = safetensors.torch.load(weights)
    for name, tensor in state.items():
        if tensor.ndim < 2 or not tensor.is_floating_point() or tensor.dtype.itemsize <= torch.half.itemsize:
            continue
        half = tensor.half()
        if half.isfinite().all():
            state[name] = half
    return safetensors.torch.save(state)
