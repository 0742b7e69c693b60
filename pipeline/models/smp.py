"""Networks of segmentation_models_pytorch (github.com/qubvel-org/segmentation_models.pytorch)."""

from typing import Any

import torch
from torch import nn

from pipeline.config.models import SmpConfig
from pipeline.errors import UserError
from pipeline.models.outside import Outside, package, words


class Smp(Outside):
    """A network of `create_model`, without pretrained weights until `start_pretrained` is called."""

    row = ("arch: unet|fpn|deeplabv3plus|..., encoder: resnet18|...", "segmentation_models_pytorch")

    def make(self, cfg: SmpConfig) -> nn.Module:
        self.cfg = cfg
        network = self._create(None)
        if "multiple_of" not in cfg.model_fields_set and getattr(network, "requires_divisible_input_shape", True):
            step = network.encoder.output_stride
            self.multiple_of, self.min_size = step, -(-cfg.min_size // step) * step
        return network

    def start_pretrained(self) -> None:
        """Load the encoder's ImageNet weights, and set the mean and std that they were trained with."""
        smp = package("segmentation_models_pytorch", "smp")
        try:
            weights = self._create("imagenet").encoder.state_dict()
            seen = smp.encoders.get_preprocessing_params(self.cfg.encoder, "imagenet")
        except Exception as error:  # the hub's client raises many kinds
            raise UserError(
                f"weights: imagenet of encoder {self.cfg.encoder} come from the Hugging Face hub through "
                f"segmentation_models_pytorch, which failed ({words(error)}); set weights: random, or let a machine with a "
                "network fill the hub's cache first"
            ) from error
        if seen["input_space"] != "RGB" or list(seen["input_range"]) != [0, 1]:
            raise UserError(
                f"weights: imagenet of encoder {self.cfg.encoder} were trained on {seen['input_space']} of range "
                f"{seen['input_range']}, not on RGB of 0..1; choose another encoder, or set weights: random"
            )
        self.backbone.load_state_dict(weights)
        self.mean, self.std = self.cfg.mean or tuple(seen["mean"]), self.cfg.std or tuple(seen["std"])

    def _create(self, weights: str | None) -> Any:
        smp, cfg = package("segmentation_models_pytorch", "smp"), self.cfg
        try:
            with torch.device("cpu"):
                return smp.create_model(
                    cfg.arch, cfg.encoder, encoder_weights=weights, classes=self.num_classes, **cfg.arguments
                )
        except Exception as error:
            if weights is not None:
                raise
            # A KeyError's message is in quotation marks, and lists all allowed values.
            raise UserError(
                f"model smp: segmentation_models_pytorch makes no arch {cfg.arch} with encoder {cfg.encoder}"
                f"{' and these arguments' if cfg.arguments else ''} ({words(error)})"
            ) from error
