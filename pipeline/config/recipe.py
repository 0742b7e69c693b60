"""The training recipe: views, optimiser, learning rate, losses."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Section, Size, added_later
from pipeline.errors import UserError

ClassWeights = Literal["none", "median_frequency", "inverse", "sqrt_inverse"]
_OF_SCHEDULE = {  # keys that only one schedule has, and that it needs
    "poly_power": "poly",
    "milestones": "step",
    "step_factor": "step",
    "final_factor": "cosine",
}


def _of_name(before: dict[str, Any], **defaults: Any) -> Any:
    """Return the default for the chosen optimiser; any default for an unknown name, which is reported separately."""
    return defaults.get(before.get("name", ""), next(iter(defaults.values())))


def _of_schedule(before: dict[str, Any], other: Any = None, **defaults: Any) -> Any:
    """Return the default for the chosen schedule."""
    return defaults.get(before.get("schedule", ""), other)


class AugmentConfig(Section):
    """How a training view is made from an image: scale, crop, flip, colour."""

    crop: Size = (256, 256)
    """[pixels] (height, width) of a view; smaller images are padded. The default suits a CPU; on a GPU 512 or more shows more
    of each scene and trains better."""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    """Lowest and highest factor of the random resizing. Use a wider range, such as 0.5 to 2, for long trainings on many
    images."""
    flip: bool = True
    """Mirror half of the views left to right. Set it to false if mirroring changes the class of an object."""
    colour: float = Field(0.3, ge=0, le=1)
    """Strength of random changes of brightness, contrast and saturation; 0 = off. At 0.3 each changes by up to 15 %."""
    class_uniform: float = Field(0, ge=0, le=1)
    """Share of the views that are drawn by class: first a random class, then an image that contains it, then a crop with a
    pixel of it (class-uniform sampling, arXiv:1812.01593). 0 = off; 0.5 helps rare classes."""


class OptimizerConfig(Section):
    """Optimiser, the learning rates of its parameter groups, and the schedule of the rate over the steps."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`adamw` works well without tuning; `sgd` is what the papers used, for long trainings."""
    lr: float = Field(default_factory=lambda before: _of_name(before, adamw=0.002, sgd=0.01), gt=0)
    """Learning rate of the head, whose layers are new. Absent: 0.002 with adamw, 0.01 with sgd."""
    backbone_lr_factor: float = Field(0.25, gt=0)
    """The encoder learns at lr times this factor, because it starts from pretrained weights; 0.1 is the "head 10x" of papers.
    It also applies to VGG16's fc6 and fc7 in fcn, deeplabv1 and deeplabv2. Set it to 1 with random weights."""
    bias_lr_factor: float = Field(1, gt=0)
    """Biases, except those of normalisation layers, learn at their group's rate times this factor; 2 in FCN and DeepLab."""
    weight_decay: float = Field(default_factory=lambda before: _of_name(before, adamw=0.01, sgd=0.0005), ge=0)
    """Weight decay, against overfitting. Absent: 0.01 with adamw, 0.0005 with sgd."""
    decay_all: bool = False
    """Apply weight_decay to biases and normalisation too."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd; adamw does not use it."""
    clip_norm: float | None = Field(None, gt=0)
    """Gradients with a larger L2 norm are scaled down to it, which prevents steps that are too large. Absent: no clipping."""
    schedule: Literal["poly", "cosine", "step", "one_cycle"] = "poly"
    """How the rate changes over the run: `poly`, as a power of the remaining share of steps; `cosine`; `step`, at milestones;
    `one_cycle`, first up, then down."""
    warmup_steps: int = Field(default_factory=lambda before: _of_schedule(before, one_cycle=0, other=20), ge=0)
    """[steps] Over these first steps the rate grows linearly to that of the schedule, until the optimiser's running averages
    have settled. Absent: 20, or 0 with one_cycle, which has its own warm-up."""
    poly_power: float | None = Field(default_factory=lambda before: _of_schedule(before, poly=0.9), gt=0)
    """poly: the rate is lr * (1 - step / steps) ** power. Absent: 0.9, arXiv:1606.00915 section 4.1."""
    final_factor: float | None = Field(default_factory=lambda before: _of_schedule(before, cosine=0.0), ge=0, lt=1)
    """cosine: the final rate, as a fraction of lr. Absent: 0."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = Field(
        default_factory=lambda before: _of_schedule(before, step=(0.6, 0.9))
    )
    """step: when the rate drops, as shares of the run. Absent: 0.6 and 0.9."""
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
    """Cross entropy: the mean over the labelled pixels, each weighted by its class."""

    name: Literal["cross_entropy"]
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""
    class_weights: ClassWeights = "none"
    """How rare classes are weighted up, from the frequencies in the training labels: arXiv:1511.00561, section 3.2."""
    label_smoothing: float = added_later(0.0, ge=0, lt=1)
    """Share of each pixel's target that is spread evenly over all classes (arXiv:1512.00567, section 7), which makes networks
    less overconfident. 0 = off; the paper uses 0.1."""


class FocalConfig(Section):
    """Cross entropy times (1 - p) ** gamma: arXiv:1708.02002, eq. 4."""

    name: Literal["focal"]
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""
    class_weights: ClassWeights = "none"
    """How rare classes are weighted up, from the frequencies in the training labels: arXiv:1511.00561, section 3.2."""
    gamma: float = Field(2, ge=0)
    """How strongly pixels that are already classified well are down-weighted; 0 = cross entropy. 2 is the paper's best value
    (table 1b)."""


class OhemConfig(Section):
    """Cross entropy of only the hard pixels: those below `threshold`, and at least `min_kept` (arXiv:1604.03540)."""

    name: Literal["ohem"]
    """Kind of the term."""
    weight: float = Field(1, gt=0)
    """Weight of this term in the sum."""
    class_weights: ClassWeights = "none"
    """How rare classes are weighted up, from the frequencies in the training labels: arXiv:1511.00561, section 3.2."""
    threshold: float = Field(0.7, gt=0, le=1)
    """Probability of the true class below which a pixel is hard."""
    min_kept: int = Field(4096, ge=1)
    """[pixels] Number of the hardest pixels of an image that always count. 4096 is a sixteenth of the default crop."""


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
    """A sum of terms for the final logits, plus `aux_weight` times the same sum for the logits of each auxiliary head."""

    terms: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (CrossEntropyConfig(name="cross_entropy"),)
    """The losses that are added up."""
    aux_weight: float = Field(0.4, ge=0)
    """Weight of auxiliary heads (deep supervision), if the network has any; 0.4 is PSPNet's, arXiv:1612.01105 fig. 4."""
    sample: float = Field(1, gt=0, le=1)
    """Share of the square cells of an image, chosen at random, that count in the loss; 1 = whole images. FCN section 4.3."""
    sample_px: int = Field(1, ge=1)
    """[pixels] Side of a cell; FCN uses 32, one pixel of its coarsest layer."""

    @property
    def class_weights(self) -> frozenset[str]:
        """The kinds of class weights that at least one term uses."""
        return frozenset(getattr(term, "class_weights", "none") for term in self.terms) - {"none"}
