"""A training run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.corpus import CorpusConfig
from pipeline.config.networks import ModelConfig
from pipeline.config.section import Precision, Section, Size, Uri


class AugmentConfig(Section):
    """What one training view is: scale, crop, flip, colour."""

    crop: Size
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # range of the random resize factor
    flip: bool
    colour: float = Field(ge=0, le=1)  # strength of random brightness, contrast and saturation; 0 = off


class OptimizerConfig(Section):
    name: Literal["adamw", "sgd"]
    lr: float = Field(gt=0)  # of the head
    backbone_lr_factor: float = Field(gt=0)  # the backbone learns at lr times this
    weight_decay: float = Field(ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # SGD only
    warmup_steps: int = Field(ge=0)
    poly_power: float = Field(gt=0)  # lr * (1 - step / steps) ** power, DeepLab arXiv:1606.00915 section 4.1


class TrainConfig(Section):
    """One training run: data, network, recipe, machines."""

    corpus: CorpusConfig
    train_split: str
    val_split: str
    label_space: Literal["cityscapes19", "voc21", "camvid11"]
    model: ModelConfig
    weights: Literal["imagenet", "random"]  # where the backbone starts
    output: Uri
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # of all workers together
    augment: AugmentConfig
    optimizer: OptimizerConfig
    validate_every: int = Field(ge=1)  # epochs
    precision: Precision
    seed: int = Field(ge=0)
    max_pixels: int = Field(50_000_000, ge=1)  # of one image; larger ones are refused before they are decoded
    workers: int = Field(ge=1)
    cpus_per_worker: int = Field(ge=1)
    gpus_per_worker: float = Field(0, ge=0)  # 0 = train on the CPU
    max_failures: int = Field(1, ge=0)  # restarts from the last checkpoint after a worker died

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainConfig":
        if self.batch_size % self.workers:
            raise ValueError(
                f"batch_size {self.batch_size} is shared by all workers: make it a multiple of workers ({self.workers})"
            )
        return self
