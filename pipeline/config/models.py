"""One section a network family: the keywords of its class in pipeline/models/. Defaults are the papers'."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config.base import Section

UpsamplingName = Literal[
    "nearest", "bed_of_nails", "bilinear", "bicubic", "transposed", "transposed_fixed", "max_unpooling"
]
Interpolation = Literal["nearest", "bed_of_nails", "bilinear", "bicubic", "transposed", "transposed_fixed"]
Channels = Annotated[int, Field(ge=1)]
Rates = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _added_later(default: Any) -> Any:
    """A key added later. At its default it is left out of the config's text, so that older runs keep their fingerprints."""
    return Field(default, exclude_if=lambda value: value == default)


class ClassifierConfig(Section):
    """An image classifier at every place of the image: fully-connected layers as convolutions (arXiv:1411.4038, 3.1)."""

    name: Literal["classifier"]
    backbone: Literal["alexnet", "vgg16", "googlenet", "resnet18", "resnet50"] = "vgg16"
    padding: Literal["same", "valid"] = "same"  # valid: scores equal those of a slid window
    dropout: Share = 0.5
    fc_channels: Channels = 4096


class FcnConfig(Section):
    """FCN-32s, -16s, -8s (arXiv:1411.4038)."""

    name: Literal["fcn"]
    backbone: Literal["vgg16", "alexnet", "googlenet"] = "vgg16"
    stride: Literal[32, 16, 8] = 8  # 16 and 8: VGG16 only
    upsampling: Interpolation = "transposed"
    # Of the last step alone; absent: as `upsampling`. The paper fixes it to bilinear interpolation: transposed_fixed.
    last_upsampling: Interpolation | None = _added_later(None)
    at_once: bool = False  # trained in one stage: skips are scaled down
    fc_channels: Channels = 4096
    dropout: Share = 0.5


class FcnResNetConfig(Section):
    """torchvision's FCN on a dilated ResNet."""

    name: Literal["fcn_resnet"]
    backbone: Literal["resnet50", "resnet101"] = "resnet50"
    output_stride: Literal[8, 16, 32] = 8
    aux: bool = True


class DeepLabV1Config(Section):
    """DeepLab-LargeFOV (arXiv:1412.7062)."""

    name: Literal["deeplabv1"]
    rate: int = Field(12, ge=1)
    fc_channels: Channels = 1024
    dropout: Share = 0.5


class DeepLabV2Config(Section):
    """DeepLab v2 (arXiv:1606.00915): atrous spatial pyramid."""

    name: Literal["deeplabv2"]
    backbone: Literal["vgg16", "resnet50", "resnet101"] = "resnet101"
    # ResNets only: torchvision's, whose ImageNet weights fit, or the released network's (`import-weights` sets it).
    resnet: Literal["torchvision", "caffe"] = _added_later("torchvision")
    rates: Rates = (6, 12, 18, 24)  # ASPP-L; ASPP-S is 2, 4, 8, 12
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=2)], ...], Field(min_length=1)] = (1.0,)  # input pyramid
    fc_channels: Channels = 1024  # VGG16 only
    dropout: Share = 0.5  # VGG16 only


def deeplabv3_rates(backbone: str, output_stride: int) -> tuple[int, ...]:
    """The pyramid's rates where a config names none: (6, 12, 18) at output stride 16, twice as much at 8.

    torchvision's network on MobileNetV3 has (12, 24, 36) at 16, and its published weights are of these.
    """
    doubled = output_stride == 8 or backbone == "mobilenet_v3_large"
    return (12, 24, 36) if doubled else (6, 12, 18)


class DeepLabV3Config(Section):
    """DeepLabv3 (arXiv:1706.05587); at output stride 8, and on MobileNetV3, the defaults are torchvision's networks."""

    name: Literal["deeplabv3"]
    backbone: Literal["resnet50", "resnet101", "mobilenet_v3_large"] = "resnet50"
    output_stride: Literal[8, 16] = 8
    multi_grid: Annotated[tuple[int, int, int], Field()] | None = None
    # Absent: 12, 24, 36 at output stride 8 and 6, 12, 18 at 16 (section 3.3); MobileNetV3 has torchvision's 12, 24, 36 at 16.
    rates: Rates = Field(default_factory=lambda before: deeplabv3_rates(before["backbone"], before["output_stride"]))
    aux: bool = True


class DeepLabV3PlusConfig(Section):
    """DeepLabv3+ (arXiv:1802.02611): atrous pyramid and decoder."""

    name: Literal["deeplabv3plus"]
    backbone: Literal[
        "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenet_v3_large", "resnet50", "resnet101",
        "xception65",
    ]  # fmt: skip
    output_stride: Literal[8, 16, 32] = 16
    aspp_channels: int = Field(256, ge=8)
    aspp_rates: Rates = (6, 12, 18)  # at output stride 16; doubled at 8, halved at 32
    low_level_channels: int = Field(48, ge=8)
    decoder_channels: int = Field(256, ge=8)
    separable: bool = True  # depthwise separable convolutions in pyramid and decoder, section 3.2
    dropout: Share = 0.1
    upsampling: Interpolation = "bilinear"


class LrasppConfig(Section):
    """Lite R-ASPP on MobileNetV3 (arXiv:1905.02244)."""

    name: Literal["lraspp"]
    inter_channels: Channels = 128


class SegNetConfig(Section):
    """SegNet and SegNet-Basic (arXiv:1511.00561)."""

    name: Literal["segnet"]
    variant: Literal["vgg16", "basic"] = "vgg16"
    upsampling: UpsamplingName = "max_unpooling"


class DeconvNetConfig(Section):
    """DeconvNet (arXiv:1505.04366)."""

    name: Literal["deconvnet"]
    upsampling: UpsamplingName = "max_unpooling"
    fc_channels: Channels = 4096


class UNetConfig(Section):
    """U-Net (arXiv:1505.04597)."""

    name: Literal["unet"]
    channels: Channels = 64
    depth: int = Field(4, ge=1, le=6)
    padding: Literal["same", "valid"] = "same"
    batch_norm: bool = False
    upsampling: Interpolation = "transposed"


class HourglassConfig(Section):
    """Stacked hourglass (arXiv:1603.06937)."""

    name: Literal["hourglass"]
    stacks: int = Field(2, ge=1)
    channels: int = Field(256, ge=4, multiple_of=4)
    depth: int = Field(4, ge=1, le=6)
    upsampling: Interpolation = "nearest"


ModelConfig = Annotated[
    ClassifierConfig
    | FcnConfig
    | FcnResNetConfig
    | DeepLabV1Config
    | DeepLabV2Config
    | DeepLabV3Config
    | DeepLabV3PlusConfig
    | LrasppConfig
    | SegNetConfig
    | DeconvNetConfig
    | UNetConfig
    | HourglassConfig,
    Field(discriminator="name"),
]
