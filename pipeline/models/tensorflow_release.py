"""Import of DeepLab's TensorFlow releases on MobileNetV2 and Xception-65: their variables under our names and axes.

Names, batch norms' epsilons and the order of branches: github.com/tensorflow/models, research/deeplab (model.py,
core/feature_extractor.py, core/xception.py) and research/slim/nets/mobilenet.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.config.models import DeepLabV3PlusConfig
from pipeline.errors import UserError

State = dict[str, torch.Tensor]

MEAN = STD = (0.5, 0.5, 0.5)  # both backbones take level / 127.5 - 1
LOGITS = "logits/semantic/biases"
_SCOPES = {"MobilenetV2/": "mobilenet_v2", "xception_65/": "xception65"}
_NO_WEIGHTS = re.compile(r"^global_step$|/(Momentum|ExponentialMovingAverage)$")  # training state
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_SLIM_EPSILON, _TORCH_EPSILON = 1e-3, 1e-5  # of MobileNetV2's batch norms in the release, and in torchvision
_POOL = "image_pooling/"
# A unit of convolution and batch norm -> ours, up to the two layers' numbers: (theirs, ours, convolution, batch norm).
_UNITS = (
    (r"MobilenetV2/Conv", "backbone.0", "0", "1"),
    (r"MobilenetV2/expanded_conv_(\d+)/expand", r"backbone.<\1>.conv.0", "0", "1"),
    (r"MobilenetV2/expanded_conv_(\d+)/depthwise", r"backbone.<\1>.conv.1", "0", "1"),
    (r"MobilenetV2/expanded_conv_(\d+)/project", r"backbone.<\1>.conv", "2", "3"),
    (r"MobilenetV2/expanded_conv/depthwise", "backbone.1.conv.0", "0", "1"),
    (r"MobilenetV2/expanded_conv/project", "backbone.1.conv", "1", "2"),
    (r"xception_65/entry_flow/conv1_1", "backbone.stem", "0", "1"),
    (r"xception_65/entry_flow/conv1_2", "backbone.stem", "3", "4"),
    *(
        (rf"xception_65/{flow}/xception_module/{theirs}", f"backbone.{block}.{ours}", *numbers)
        for flow, block, last in (
            ("entry_flow/block1/unit_1", "first", False), ("entry_flow/block2/unit_1", "second", False),
            ("entry_flow/block3/unit_1", "third", False), (r"middle_flow/block1/unit_(\d+)", r"middle.[\1]", False),
            ("exit_flow/block1/unit_1", "exit.0", False), ("exit_flow/block2/unit_1", "exit.1", True),
        )
        for theirs, ours, numbers in (
            *(
                (f"separable_conv{n}_{kind}", f"convs.{n - 1}", (str(place), str(place + 1)))
                for n in (1, 2, 3)
                for kind, place in (("depthwise", 0 if last else 1), ("pointwise", 3))
            ),
            ("shortcut", "shortcut", ("0", "1")),
        )
    ),
    (r"aspp0", "pyramid.branches.0", "0", "1"),
    (r"aspp(\d+)", r"pyramid.branches.\1", "0", "1"),
    (r"aspp(\d+)_depthwise", r"pyramid.branches.\1", "0", "1"),
    (r"aspp(\d+)_pointwise", r"pyramid.branches.\1", "3", "4"),
    (r"concat_projection", "pyramid.project", "0", "1"),
    (r"decoder/feature_projection0", "low_level", "0", "1"),
    *(
        (rf"decoder/decoder_conv{n}_{kind}", f"decoder.{n}", first, second)
        for n in (0, 1)
        for kind, first, second in (("depthwise", "0", "1"), ("pointwise", "3", "4"))
    ),
)  # fmt: skip


def is_release(source: Mapping[str, torch.Tensor]) -> bool:
    """Whether a file holds the variables of such a network."""
    return LOGITS in source and any(name.startswith(tuple(_SCOPES)) for name in source)


def num_classes(source: Mapping[str, torch.Tensor]) -> int:
    """Return the number of classes of a release."""
    return len(source[LOGITS])


def fitted(source: Mapping[str, torch.Tensor], cfg: DeepLabV3PlusConfig) -> DeepLabV3PlusConfig:
    """Return `cfg` completed with what a release's variables show of their network.

    Raises:
        UserError: `cfg` contradicts the variables.
    """
    found = settings(source)
    for key in found.keys() & cfg.model_fields_set:
        given = getattr(cfg, key)
        if key == "aspp_rates" and len(given) == len(found[key]):
            found[key] = given  # the file shows only their number
        elif given != found[key]:
            raise UserError(
                f"these weights are a TensorFlow release's with {key}={found[key]}, found {key}={given}: leave it out"
            )
    return cfg.model_copy(update=found)


def settings(source: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return what a release's variables show of its network, as keys of the deeplabv3plus section.

    The variables show only the number of rates, not their values; releases with rates use (6, 12, 18).
    """
    backbone = next(name for scope, name in _SCOPES.items() if any(key.startswith(scope) for key in source))
    branches = {match[1] for key in source if (match := re.match(r"aspp(\d+)[_/]", key)) and match[1] != "0"}
    return {
        "backbone": backbone,
        "decoder": any(key.startswith("decoder/") for key in source),
        "aspp_rates": tuple(6 * n for n in range(1, len(branches) + 1)),
        "separable": not any(re.match(r"aspp[1-9]\d*/weights", key) for key in source),
        "align_corners": True,
    }


def rename(source: Mapping[str, torch.Tensor]) -> State:
    """Convert variables to parameters of `DeepLabV3Plus` that are equivalent at inference.

    What our layers do not have is folded: the image pooling's batch norm into its convolution, and the different epsilon of
    MobileNetV2's batch norms into their variances. The pooled branch is last in our concatenation, but first in the release.

    Raises:
        UserError: a variable belongs to no known layer, or one is missing.
    """
    try:
        return _renamed(source)
    except KeyError as missing:
        raise UserError(f"the weights are of another network: a TensorFlow release without {missing}") from None


def _renamed(source: Mapping[str, torch.Tensor]) -> State:
    variables = {name: value for name, value in source.items() if not _NO_WEIGHTS.search(name)}
    state = {
        "classifier.weight": _kernel(variables.pop("logits/semantic/weights")),
        "classifier.bias": variables.pop(LOGITS),
        **_pooling({name: variables.pop(name) for name in list(variables) if name.startswith(_POOL)}),
    }
    for name, value in variables.items():
        unit, _, leaf = name.partition("/BatchNorm/") if "/BatchNorm/" in name else name.rpartition("/")
        base, conv, norm = _ours(name, unit)
        if leaf in _NORM:
            state[f"{base}.{norm}.{_NORM[leaf]}"] = value
        else:
            state[f"{base}.{conv}.weight"] = _kernel(value, depthwise=leaf == "depthwise_weights")
    for name in state:
        if name.startswith("backbone.") and name.endswith("running_var") and "MobilenetV2/Conv/weights" in source:
            state[name] = state[name] + (_SLIM_EPSILON - _TORCH_EPSILON)
    joined = state["pyramid.project.0.weight"]
    pooled = len(state["pyramid.pool.1.bias"])
    state["pyramid.project.0.weight"] = torch.cat([joined[:, pooled:], joined[:, :pooled]], dim=1)
    return state


def _ours(name: str, unit: str) -> tuple[str, str, str]:
    """Return the prefix of our names, and the numbers of convolution and batch norm below it."""
    for theirs, ours, conv, norm in _UNITS:
        match = re.fullmatch(theirs, unit)
        if match:
            base = match.expand(ours)
            base = re.sub(r"<(\d+)>", lambda found: str(int(found[1]) + 1), base)  # expanded_conv is the first layer
            return re.sub(r"\[(\d+)\]", lambda found: str(int(found[1]) - 1), base), conv, norm
    raise UserError(
        f"the weights are of another network: {name} is of no layer of DeepLab on MobileNetV2 (width 1.0) or Xception-65 as "
        "TensorFlow's releases name them"
    )


def _kernel(value: torch.Tensor, depthwise: bool = False) -> torch.Tensor:
    """Transpose a kernel (H, W, in, out) to (out, in, H, W), a depthwise one (H, W, in, 1) to (in, 1, H, W)."""
    return value.permute(*((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))).contiguous()


def _pooling(variables: Mapping[str, torch.Tensor]) -> State:
    """Return the pooled branch's 1x1 convolution with its batch norm (epsilon 1e-5) folded in."""
    norm = {leaf: variables[f"{_POOL}BatchNorm/{leaf}"] for leaf in _NORM}
    factor = norm["gamma"] / (norm["moving_variance"] + _TORCH_EPSILON).sqrt()
    weight = _kernel(variables[f"{_POOL}weights"]) * factor[:, None, None, None]
    return {"pyramid.pool.1.weight": weight, "pyramid.pool.1.bias": norm["beta"] - norm["moving_mean"] * factor}
