"""A network's settings at an output stride other than the one in training."""

from pipeline.config import ModelConfig, parse_model
from pipeline.config.models import NETWORK_SECTIONS, DeepLabV3Config
from pipeline.errors import UserError


def with_output_stride(cfg: ModelConfig, output_stride: int, where: str) -> ModelConfig:
    """Return the section with another output stride. The weights still fit, since strides are replaced by dilation.

    Rates in pixels of the encoder's last map are scaled so that they span the same part of the image: at stride 8 they are
    twice those at 16 (arXiv:1706.05587, section 3.3). The rates of other families are valid at any stride.

    Raises:
        UserError: the network has no output stride, or not this one.
    """
    asked = f"predict.output_stride {output_stride}: {where}"
    if "output_stride" not in type(cfg).model_fields:
        able = [name for name, section in NETWORK_SECTIONS.items() if "output_stride" in section.model_fields]
        raise UserError(
            f"{asked} is of {cfg.name}, whose stride is fixed; leave the key out (networks that have it: {', '.join(able)})"
        )
    values = cfg.model_dump(mode="json") | {"output_stride": output_stride}
    if isinstance(cfg, DeepLabV3Config):
        if cfg.backbone == "mobilenet_v3_large" and output_stride != cfg.output_stride:
            raise UserError(
                f"{asked} has backbone mobilenet_v3_large, which deeplabv3 has at 16 alone; leave the key out"
            )
        values["rates"] = [max(1, rate * cfg.output_stride // output_stride) for rate in cfg.rates]
    return parse_model(values, where=asked)
