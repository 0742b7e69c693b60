"""DeepLabv3+'s encoders, by name: x -> [maps at the strides of the skips, finest first, map at the output stride]."""

from collections.abc import Sequence
from typing import Literal

from pipeline.config.models import TIMM, BackboneName
from pipeline.models.backbones.efficientnet_lite import EfficientNetLite
from pipeline.models.backbones.mobilenet import COARSE, LAYER_AT, MobileNetV2, MobileNetV3Large
from pipeline.models.backbones.resnet import ResNet
from pipeline.models.backbones.timm_encoder import TimmEncoder
from pipeline.models.backbones.xception import Xception65

Backbone = EfficientNetLite | MobileNetV2 | MobileNetV3Large | ResNet | Xception65 | TimmEncoder


def build_backbone(name: BackboneName, output_stride: Literal[8, 16, 32], strides: Sequence[int] = (4,)) -> Backbone:
    """Build the encoder of that name, with random weights; timm/NAME chooses one of timm.

    Args:
        strides: strides of the maps to return in addition to the last, finest first.
    """
    if name.startswith(TIMM):
        return TimmEncoder(name, (*strides, output_stride), output_stride)
    match name:
        case "efficientnet_lite0" | "efficientnet_lite1" | "efficientnet_lite2":
            return EfficientNetLite(name, output_stride, strides)
        case "mobilenet_v2":
            return MobileNetV2(output_stride, strides)
        case "mobilenet_v3_large":
            return MobileNetV3Large((*(LAYER_AT[stride] for stride in strides), COARSE), output_stride)
        case "resnet50" | "resnet101":
            return ResNet(name, output_stride, strides=strides)
        case "xception65":
            return Xception65(output_stride)
