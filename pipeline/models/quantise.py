"""A network as ONNX in 8-bit integers, quantised after training, with ranges that are measured on images.

Source: arXiv:2004.09602, sections 3 and 4.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ["Conv", "MatMul", "Gemm"]  # where the time goes; all other operators stay in float32


def quantise(onnx: bytes, inputs: Sequence[np.ndarray]) -> bytes:
    """The network with its convolutions and products in int8, weights by channel; the last of them, which decides, in float32.

    Args:
        onnx: as `engines.onnx_of` gives it.
        inputs: x (N, D, H, W) float32, of legal sizes, whose ranges are taken.
    """
    import onnx as onnx_package
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Inputs(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.left, None)
            return None if x is None else {"x": x}

    model = onnx_package.load_from_string(onnx)
    layers = [node.name for node in model.graph.node if node.op_type in LAYERS]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "int8.onnx"
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # its advice to prepare the graph, which the exporter has done
        try:
            quantize_static(
                model, str(made), Inputs(), quant_format=QuantFormat.QDQ, op_types_to_quantize=LAYERS,
                per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                nodes_to_exclude=layers[-1:],
            )  # fmt: skip
        finally:
            logging.disable(before)
        return made.read_bytes()
