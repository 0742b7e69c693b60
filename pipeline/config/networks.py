"""One section a network family."""

from typing import Literal

from pydantic import Field

from pipeline.config.section import Section


class DeepLabV3PlusConfig(Section):
    """DeepLabv3+ (arXiv:1802.02611): atrous pyramid and decoder over a classification backbone."""

    name: Literal["deeplabv3plus"]
    backbone: Literal["efficientnet_lite0", "mobilenet_v3_large"]
    output_stride: Literal[8, 16, 32] = 16
    aspp_channels: int = Field(256, ge=8)
    aspp_rates: tuple[int, ...] = (6, 12, 18)  # at output stride 16; doubled at 8, halved at 32
    low_level_channels: int = Field(48, ge=8)
    decoder_channels: int = Field(256, ge=8)
    separable: bool = True  # depthwise separable convolutions in pyramid and decoder, section 3.2
    dropout: float = Field(0.1, ge=0, lt=1)


ModelConfig = DeepLabV3PlusConfig
