"""How a network learns: views, optimiser, learning rate, losses."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Section, Size
from pipeline.errors import UserError

ClassWeights = Literal["none", "median_frequency", "inverse", "sqrt_inverse"]
_OF_SCHEDULE = {  # the keys that belong to one schedule alone, and are needed by it
    "poly_power": "poly",
    "milestones": "step",
    "step_factor": "step",
    "final_factor": "cosine",
}


class AugmentConfig(Section):
    """What one training view is: scale, crop, flip, colour."""

    crop: Size
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # range of the random resize factor
    flip: bool
    colour: float = Field(ge=0, le=1)  # strength of random brightness, contrast and saturation; 0 = off
    # Share of the views that are drawn by class: a class at random, an image that holds it, a crop with a pixel of it
    # (class-uniform sampling, arXiv:1812.01593); 0 = off.
    class_uniform: float = Field(0, ge=0, le=1)


class OptimizerConfig(Section):
    """Optimiser, the rates of its parameter groups, and how the rate runs over the steps."""

    name: Literal["adamw", "sgd"]
    lr: float = Field(gt=0)  # of the head
    # The encoder learns at lr times this: 0.1 = "head 10x". So do VGG16's fc6 and fc7 in fcn, deeplabv1 and deeplabv2.
    backbone_lr_factor: float = Field(gt=0)
    # Biases learn at this times their group's rate, those of normalisation excepted; 2 in FCN and DeepLab.
    bias_lr_factor: float = Field(1, gt=0)
    weight_decay: float = Field(ge=0)
    decay_all: bool = False  # decay biases and normalisation too
    momentum: float = Field(0.9, ge=0, lt=1)  # SGD only
    clip_norm: float | None = Field(None, gt=0)  # gradients are scaled down to this L2 norm; absent = never
    schedule: Literal["poly", "cosine", "step", "one_cycle"] = "poly"
    warmup_steps: int = Field(ge=0)  # the rate grows linearly to its schedule's over these
    poly_power: float | None = Field(None, gt=0)  # poly: lr * (1 - step / steps) ** power, arXiv:1606.00915 section 4.1
    final_factor: float | None = Field(None, ge=0, lt=1)  # cosine: the rate at the end, as a part of lr
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None  # step: where, as shares of the run
    step_factor: float | None = Field(None, gt=0, lt=1)  # step: the rate is multiplied by this at each milestone

    @model_validator(mode="after")
    def _keys_fit_the_schedule(self) -> "OptimizerConfig":
        for key, schedule in _OF_SCHEDULE.items():
            given = getattr(self, key) is not None
            if given and schedule != self.schedule:
                raise UserError(
                    f"{key} belongs to schedule '{schedule}', found schedule '{self.schedule}': leave it out"
                )
            if not given and schedule == self.schedule:
                raise UserError(f"schedule '{schedule}' needs {key}")
        if self.schedule == "one_cycle" and self.warmup_steps:
            raise UserError("schedule 'one_cycle' has its own warm-up, a third of the run: set warmup_steps to 0")
        return self


class CrossEntropyConfig(Section):
    """Mean over the labelled pixels, each weighted by its class."""

    name: Literal["cross_entropy"]
    weight: float = Field(1, gt=0)  # of this term in the sum
    class_weights: ClassWeights = "none"  # from the training labels: SegNet arXiv:1511.00561, section 3.2


class FocalConfig(Section):
    """Cross entropy times (1 - p) ** gamma: arXiv:1708.02002, eq. 4."""

    name: Literal["focal"]
    weight: float = Field(1, gt=0)
    class_weights: ClassWeights = "none"
    gamma: float = Field(ge=0)


class OhemConfig(Section):
    """Cross entropy of the hard pixels alone: those below `threshold`, and at least `min_kept` (arXiv:1604.03540)."""

    name: Literal["ohem"]
    weight: float = Field(1, gt=0)
    class_weights: ClassWeights = "none"
    threshold: float = Field(gt=0, le=1)  # a pixel is hard if the true class has less probability
    min_kept: int = Field(ge=1)  # pixels an image


class DiceConfig(Section):
    """One minus the soft Dice coefficient, a mean over the classes in the image: arXiv:1606.04797, section 3."""

    name: Literal["dice"]
    weight: float = Field(1, gt=0)


class LovaszConfig(Section):
    """Lovasz-softmax, a mean over the classes in the image: arXiv:1705.08790, algorithm 1."""

    name: Literal["lovasz"]
    weight: float = Field(1, gt=0)


LossTerm = Annotated[
    CrossEntropyConfig | FocalConfig | OhemConfig | DiceConfig | LovaszConfig, Field(discriminator="name")
]


class LossConfig(Section):
    """A sum of terms on the last logits, and `aux_weight` times the same sum on each of the others."""

    terms: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (CrossEntropyConfig(name="cross_entropy"),)
    aux_weight: float = Field(0.4, ge=0)  # auxiliary heads, deep supervision; 0.4 is PSPNet's, arXiv:1612.01105 fig. 4
    sample: float = Field(1, gt=0, le=1)  # share of the cells that count; 1 = whole images. FCN section 4.3
    sample_px: int = Field(1, ge=1)  # side of a cell; FCN's is 32, one pixel of its coarsest layer

    @property
    def class_weights(self) -> frozenset[str]:
        """The kinds of class weights that some term asks for."""
        return frozenset(getattr(term, "class_weights", "none") for term in self.terms) - {"none"}
