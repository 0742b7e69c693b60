"""How a network learns: views, optimiser, learning rate, losses."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Section, Size, added_later
from pipeline.errors import UserError

ClassWeights = Literal["none", "median_frequency", "inverse", "sqrt_inverse"]
_OF_SCHEDULE = {  # the keys that belong to one schedule alone, and are needed by it
    "poly_power": "poly",
    "milestones": "step",
    "step_factor": "step",
    "final_factor": "cosine",
}


def _of_name(before: dict[str, Any], **defaults: Any) -> Any:
    """The default that goes with the optimiser's name; any where that is wrong, which is an error of its own."""
    return defaults.get(before.get("name", ""), next(iter(defaults.values())))


def _of_schedule(before: dict[str, Any], other: Any = None, **defaults: Any) -> Any:
    """The default that goes with the schedule."""
    return defaults.get(before.get("schedule", ""), other)


class AugmentConfig(Section):
    """What one training view is: scale, crop, flip, colour."""

    crop: Size = (256, 256)
    """[pixels] (height, width) of a view: what the network sees at once; smaller images are padded. The default suits a CPU;
    on a GPU 512 or more shows more of each scene and trains better."""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    """Lowest and highest factor of the random resizing. Wider, such as 0.5 to 2, for long trainings on many images."""
    flip: bool = True
    """Mirror half of the views left to right. Set it to false where left and right mean different classes."""
    colour: float = Field(0.3, ge=0, le=1)
    """Strength of random changes of brightness, contrast and saturation; 0 = off. At 0.3 each changes by up to 15 %."""
    class_uniform: float = Field(0, ge=0, le=1)
    """Share of the views that are drawn by class: a class at random, an image that holds it, a crop with a pixel of it
    (class-uniform sampling, arXiv:1812.01593). 0 = off; 0.5 helps rare classes."""


class OptimizerConfig(Section):
    """Optimiser, the rates of its parameter groups, and how the rate runs over the steps."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`adamw` learns well without tuning; `sgd` is what the papers used, for long trainings."""
    lr: float = Field(default_factory=lambda before: _of_name(before, adamw=0.002, sgd=0.01), gt=0)
    """Learning rate of the head, whose layers are new. Absent: 0.002 with adamw, 0.01 with sgd."""
    backbone_lr_factor: float = Field(0.25, gt=0)
    """The encoder learns at lr times this, since it starts from weights that are good already: 0.1 = "head 10x". So do
    VGG16's fc6 and fc7 in fcn, deeplabv1 and deeplabv2. Set it to 1 with random weights."""
    bias_lr_factor: float = Field(1, gt=0)
    """Biases learn at this times their group's rate, those of normalisation excepted; 2 in FCN and DeepLab."""
    weight_decay: float = Field(default_factory=lambda before: _of_name(before, adamw=0.01, sgd=0.0005), ge=0)
    """Pull of the weights towards zero, against overfitting. Absent: 0.01 with adamw, 0.0005 with sgd."""
    decay_all: bool = False
    """Apply weight_decay to biases and normalisation too."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last step's direction that is kept; sgd only."""
    clip_norm: float | None = Field(None, gt=0)
    """Gradients are scaled down to this L2 norm, against steps that are too large. Absent: never."""
    schedule: Literal["poly", "cosine", "step", "one_cycle"] = "poly"
    """How the rate falls over the run: as a power of what is left, as a cosine, in steps, or up and down."""
    warmup_steps: int = Field(default_factory=lambda before: _of_schedule(before, one_cycle=0, other=20), ge=0)
    """[steps] The rate grows linearly to its schedule's over these, while the optimiser's averages are not settled yet.
    Absent: 20, and 0 with one_cycle, which has a warm-up of its own."""
    poly_power: float | None = Field(default_factory=lambda before: _of_schedule(before, poly=0.9), gt=0)
    """poly: the rate is lr * (1 - step / steps) ** power. Absent: 0.9, arXiv:1606.00915 section 4.1."""
    final_factor: float | None = Field(default_factory=lambda before: _of_schedule(before, cosine=0.0), ge=0, lt=1)
    """cosine: the rate at the end, as a part of lr. Absent: 0."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = Field(
        default_factory=lambda before: _of_schedule(before, step=(0.6, 0.9))
    )
    """step: where the rate falls, as shares of the run. Absent: 0.6 and 0.9."""
    step_factor: float | None = Field(default_factory=lambda before: _of_schedule(before, step=0.1), gt=0, lt=1)
    """step: the rate is multiplied by this at each milestone. Absent: 0.1."""

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
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""
    class_weights: ClassWeights = "none"
    """How rare classes count for more, from the frequencies in the training labels: arXiv:1511.00561, section 3.2."""
    label_smoothing: float = added_later(0.0, ge=0, lt=1)
    """Share of each pixel's target that is spread evenly over all classes (arXiv:1512.00567, section 7): networks are then less
    sure. 0 = off; 0.1 is the paper's."""


class FocalConfig(Section):
    """Cross entropy times (1 - p) ** gamma: arXiv:1708.02002, eq. 4."""

    name: Literal["focal"]
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""
    class_weights: ClassWeights = "none"
    """How rare classes count for more, from the frequencies in the training labels: arXiv:1511.00561, section 3.2."""
    gamma: float = Field(2, ge=0)
    """How much less the pixels count that are right already; 0 = cross entropy. 2 is the paper's best (table 1b)."""


class OhemConfig(Section):
    """Cross entropy of the hard pixels alone: those below `threshold`, and at least `min_kept` (arXiv:1604.03540)."""

    name: Literal["ohem"]
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""
    class_weights: ClassWeights = "none"
    """How rare classes count for more, from the frequencies in the training labels: arXiv:1511.00561, section 3.2."""
    threshold: float = Field(0.7, gt=0, le=1)
    """Probability of the true class below which a pixel is hard."""
    min_kept: int = Field(4096, ge=1)
    """[pixels] The hardest pixels of an image that count in any case. 4096 is a sixteenth of the default crop."""


class DiceConfig(Section):
    """One minus the soft Dice coefficient, a mean over the classes in the image: arXiv:1606.04797, section 3."""

    name: Literal["dice"]
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""


class LovaszConfig(Section):
    """Lovasz-softmax, a mean over the classes in the image: arXiv:1705.08790, algorithm 1."""

    name: Literal["lovasz"]
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""


LossTerm = Annotated[
    CrossEntropyConfig | FocalConfig | OhemConfig | DiceConfig | LovaszConfig, Field(discriminator="name")
]


class LossConfig(Section):
    """A sum of terms on the last logits, and `aux_weight` times the same sum on each of the others."""

    terms: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (CrossEntropyConfig(name="cross_entropy"),)
    """The losses that are added up."""
    aux_weight: float = Field(0.4, ge=0)
    """Weight of auxiliary heads (deep supervision), where the network has some; 0.4 is PSPNet's, arXiv:1612.01105 fig. 4."""
    sample: float = Field(1, gt=0, le=1)
    """Share of the cells of an image that count; 1 = whole images. FCN section 4.3."""
    sample_px: int = Field(1, ge=1)
    """[pixels] Side of a cell; FCN's is 32, one pixel of its coarsest layer."""

    @property
    def class_weights(self) -> frozenset[str]:
        """The kinds of class weights that some term asks for."""
        return frozenset(getattr(term, "class_weights", "none") for term in self.terms) - {"none"}
