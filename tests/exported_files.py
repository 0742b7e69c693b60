"""Small ONNX files, built node by node as other programs write them, and their results by ONNX's reference evaluator."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

CLASSES = 11


def weights(classes: int = CLASSES, channels: int = 3, kernel: int = 1, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(classes, channels, kernel, kernel))
    return (drawn - drawn.mean(axis=1, keepdims=True)).astype(
        np.float32
    )  # grey says nothing: every class has its colour


def write(
    path: Path,
    *,
    shape: tuple[object, ...] | None = ("n", 3, "h", "w"),
    dtype: str = "FLOAT",
    layout: str = "NCHW",
    stride: int = 1,
    end: str = "logits",
    classes: int = CLASSES,
    channels: int = 3,
    two: bool = False,
    operator: tuple[str, str] | None = None,
    bias: float = 0.0,
) -> str:
    """A convolution with a window of `stride`, and what follows it by `end`: logits, probs, ids, ids_nchw.

    Args:
        shape: of the input, names for what is open; None: not even their number is said.
        two: a second output.
        operator: domain and name of a further node.
    """
    weight = numpy_helper.from_array(weights(classes, channels, stride), "weight")
    drawn = np.random.default_rng(1).normal(size=classes) * 0.05  # no ties, whatever the colour
    offset = numpy_helper.from_array((drawn + bias).astype(np.float32), "bias")
    nodes, x = [], "image"
    if dtype != "FLOAT":
        nodes.append(helper.make_node("Cast", [x], ["cast"], to=TensorProto.FLOAT))
        x = "cast"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [x], ["nchw"], perm=[0, 3, 1, 2]))
        x = "nchw"
    nodes.append(helper.make_node("Conv", [x, "weight", "bias"], ["conv"], strides=[stride, stride]))
    last, kind = "conv", TensorProto.FLOAT
    for op, name, attributes in {
        "logits": [],
        "probs": [("Softmax", "probs", {"axis": 1})],
        "ids": [("ArgMax", "ids", {"axis": 1, "keepdims": 0})],
        "ids_nchw": [("ArgMax", "ids", {"axis": 1, "keepdims": 1})],
    }[end]:
        nodes.append(helper.make_node(op, [last], [name], **attributes))
        last, kind = name, TensorProto.INT64 if op == "ArgMax" else TensorProto.FLOAT
    if layout == "NHWC" and end in ("logits", "probs"):
        nodes.append(helper.make_node("Transpose", [last], ["nhwc"], perm=[0, 2, 3, 1]))
        last = "nhwc"
    if operator is not None:
        nodes.append(helper.make_node(operator[1], [last], ["strange"], domain=operator[0]))
        last = "strange"
    outputs = [helper.make_tensor_value_info(last, kind, None)]
    if two:
        nodes.append(helper.make_node("Neg", ["conv"], ["other"]))
        outputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    image = helper.make_tensor_value_info("image", getattr(TensorProto, dtype), shape)
    graph = helper.make_graph(nodes, "net", [image], outputs, [weight, offset])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(operator[0], 1)] if operator else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return str(path)


def reference(path: str, x: np.ndarray) -> np.ndarray:
    """The first output for an input, by onnx.reference, which is not ONNX Runtime."""
    return ReferenceEvaluator(path).run(None, {"image": x})[0]
