"""`<run>/engine/`: the network of a run as ONNX, exported once by the driver and read by all its actors.

A float32 run can do without the file: an actor that finds none exports the network itself. An int8 network is part of the run's
identity: its file is named by its hash, and nothing can replace it.
"""

import hashlib

from pipeline import storage
from pipeline.errors import UserError

_FP32 = "fp32"


def keep_network(uri: str, onnx: bytes, sha256: str | None = None) -> None:
    """Write the network of the run at a URI; `sha256` is given if the network is part of the run's identity."""
    storage.put(_place(uri, sha256), onnx)


def kept_network(uri: str, sha256: str | None = None) -> bytes | None:
    """Return the network that was kept for a run; None if there is none.

    Raises:
        UserError: the network with this hash is gone, or its file was replaced.
    """
    try:
        onnx = storage.read(_place(uri, sha256))
    except FileNotFoundError:
        onnx = None
    if sha256 is not None and (onnx is None or hashlib.sha256(onnx).hexdigest() != sha256):
        raise UserError(
            f"run {uri}: {_name(sha256)}, the int8 network that it was begun with, is "
            f"{'gone' if onnx is None else 'another file now'}; put the first one back, or choose another output"
        )
    return onnx


def _place(uri: str, sha256: str | None) -> str:
    return storage.join(uri, _name(sha256))


def _name(sha256: str | None) -> str:
    return f"engine/{_FP32 if sha256 is None else f'int8-{sha256[:16]}'}.onnx"
