"""Post-training quantisation of a network to 8-bit integers as ONNX, with ranges measured on images.

Source: arXiv:2004.09602, sections 3 and 4.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ["Conv", "MatMul", "Gemm"]  # the expensive operators; all others stay in float32


def quantise(onnx: bytes, inputs: Sequence[np.ndarray]) -> bytes:
    """Quantise convolutions and matrix products to int8, with weights per channel; the last layer stays in float32.

    Args:
        onnx: as returned by `engines.onnx_of`.
        inputs: x (N, D, H, W) float32 of legal sizes, from which ranges are measured.
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
        logging.disable(logging.WARNING)  # it advises to prepare the graph, which the exporter has done
        try:
            quantize_static(
                model, str(made), Inputs(), quant_format=QuantFormat.QDQ, op_types_to_quantize=LAYERS,
                per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                nodes_to_exclude=layers[-1:],
            )  # fmt: skip
        finally:
            logging.disable(before)
        return made.read_bytes()
