"""A network's settings at another output stride than it was trained at."""

from pipeline.config import ModelConfig, parse_model
from pipeline.config.models import NETWORK_SECTIONS, DeepLabV3Config
from pipeline.errors import UserError


def with_output_stride(cfg: ModelConfig, output_stride: int, where: str) -> ModelConfig:
    """The section with another output stride; the weights of the one fit the other, since strides become rates.

    Rates that are pixels of the encoder's last map are scaled, so that they span the same part of the image: at 8 they are
    twice those at 16 (arXiv:1706.05587, section 3.3). Other families' sections have rates that hold at any stride.

    Raises:
        UserError: the network has no such setting, or not this value.
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
