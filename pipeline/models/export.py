"""Export of a checkpoint to one file for other programs, `torch.export` or ONNX, checked against the checkpoint's own logits.

The file takes pixels, not normalised values: uint8 RGB (N, 3, H, W) with any N, and H and W as given at the export. For a
checkpoint with declared bands it takes these as float32 levels, 0 = low end of the declared range, 255 = high end. It returns
float32 logits (N, C, H, W).
"""

import contextlib
import importlib.util
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from pipeline import storage
from pipeline.errors import UserError
from pipeline.models import Network, checkpoint

Format = Literal["onnx", "torch_export"]
TOLERANCE = 1e-3  # allowed difference of a logit, relative to the largest one


@dataclass(frozen=True)
class Exported:
    uri: str
    bytes: int
    takes: str  # type and shape of its input
    difference: float  # largest difference over the logits of two images, relative to the largest logit


class Pixels(nn.Module):
    """A network with its normalisation, from uint8 pixels to the logits of the prediction."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(self.network.normalise(image))[-1]
        return logits.float()


class Ending(nn.Module):
    """A network from x to `coarse(x)` if its last step only enlarges, else to the logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        end: torch.Tensor = self.network.coarse(x) if self.network.enlarges else self.network(x)[-1]
        return end


def to_onnx(network: Network) -> bytes:
    """Return a network's `Ending` as ONNX, with an input "x" of any batch size and any legal size.

    Raises:
        UserError: the network has an operator that cannot be exported.
    """
    step = network.multiple_of
    height, width = network.legal_size(4 * step, 6 * step)
    width += step if height == width else 0  # equal sizes would be treated as one symbol
    x = torch.zeros(2, len(network.mean), height, width)
    any_size = torch.export.Dim.DYNAMIC
    with _quiet():
        try:
            program = torch.onnx.export(
                Ending(network).eval(), (x,), input_names=["x"], output_names=["end"], dynamo=True, verbose=False,
                dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},),
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                f"{type(network).__name__} does not export to ONNX: {_cause(error)}; set engine: torch or compile"
            ) from error
    assert program is not None
    return program.model_proto.SerializeToString()


def _cause(error: Exception) -> str:
    """Return what stopped an export: the operator if the exporter names one, else the first line of its message."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    operator = re.search(r"(?:aten|prims|torchvision)[.:]+\w+", str(root))
    if operator:
        return f"ONNX has no form of the operator {operator[0]}"
    return next(iter(str(root).strip().splitlines()), type(root).__name__)[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's log messages about its internals; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export(uri: str, form: Format, out: str, height: int, width: int, code: str | None = None) -> Exported:
    """Write the checkpoint at `uri` for images of height x width pixels; `code` as in `checkpoint.load`.

    Raises:
        UserError: there is no checkpoint, its network does not accept that size or cannot be exported, a package is missing,
            or the file's logits differ from the checkpoint's.
    """
    if form == "onnx":
        _require_onnx()
    ready = checkpoint.load(uri, code)
    if ready.model_config.name == "exported":
        raise UserError(
            f"checkpoint {uri}: its network is an exported file already, which lies in that folder; copy it from there"
        )
    pixels = Pixels(ready.model).eval()
    generator = torch.Generator().manual_seed(0)
    bands = 3 if ready.image is None else len(ready.image.bands)
    image = torch.randint(0, 256, (2, bands, height, width), dtype=torch.uint8, generator=generator)
    image = image if ready.image is None else image.float()
    with torch.no_grad():
        expected = pixels(image)
        try:
            with _quiet():
                data, found = _to_onnx(pixels, image) if form == "onnx" else _to_torch_export(pixels, image)
        except Exception as error:  # torch's exporters raise errors of many kinds
            if isinstance(error, MemoryError):
                raise
            raise UserError(
                f"{uri}: its network does not export to {form}: {_cause(error)}; nothing was written: try the other format, or "
                "let its forward not branch on values of the image"
            ) from error
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{uri}: the exported network's logits differ by {difference:.2g} of the largest, allowed is {TOLERANCE}; "
            "nothing was written: try the other format, or another version of torch"
        )
    storage.put(out, data)
    takes = f"{'uint8' if ready.image is None else 'float32'} (N, {bands}, {height}, {width})"
    return Exported(out, len(data), takes, difference)


def _to_torch_export(pixels: Pixels, image: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Return the file, and the logits that it gives."""
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(pixels, (image,), dynamic_shapes=(batch,))
    file = io.BytesIO()
    torch.export.save(program, file)
    module = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), torch.cat([module(one) for one in image.split(1)])  # another batch size than at the export


def _to_onnx(pixels: Pixels, image: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            pixels, (image,), path, input_names=["image"], output_names=["logits"], dynamo=True, external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
        data = path.read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"image": one.numpy()})[0] for one in image.split(1)]
    return data, torch.from_numpy(np.concatenate(parts))


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format onnx needs {', '.join(missing)}, not installed; pip install 'maskmill[export]', or choose torch_export"
        )
