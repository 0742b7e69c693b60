"""The whole config schema: one YAML file is one run, complete, without inheritance, includes or environment look-ups."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline import storage

Uri = Annotated[str, Field(min_length=1), AfterValidator(storage.absolute)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]  # (height, width), pixels
Precision = Literal["fp32", "bf16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusConfig(Section):
    """Where images and labels lie: each a prefix of files or one zip, read in place."""

    images: Uri
    labels: Uri | None = None  # absent: the same place as the images, or no labels at all
    layout: Literal["cityscapes", "camvid", "pairs"]
    image_glob: str | None = None  # layout `pairs` only, e.g. "images/**/*.jpg"
    label_glob: str | None = None

    @model_validator(mode="after")
    def _globs_belong_to_pairs(self) -> "CorpusConfig":
        if self.layout == "pairs" and self.image_glob is None:
            raise ValueError(
                "layout 'pairs' needs image_glob, e.g. 'images/**/*.jpg' (and label_glob where there are labels)"
            )
        if self.layout != "pairs" and (self.image_glob or self.label_glob):
            raise ValueError(f"image_glob and label_glob belong to layout 'pairs', found layout '{self.layout}'")
        return self


class CrfConfig(Section):
    """Dense CRF weights and widths: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), eq. 3."""

    iterations: int = Field(ge=0)  # mean-field steps; 0 = leave probs alone
    smooth_weight: float = Field(ge=0)
    smooth_px: float = Field(gt=0)  # std, pixels
    colour_weight: float = Field(ge=0)
    colour_px: float = Field(gt=0)  # std, pixels
    colour_levels: float = Field(gt=0)  # std, 8-bit levels


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


class PredictConfig(Section):
    """How scores of one image come about: averaged over scales and, if asked for, mirror images."""

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    flip: bool = False
    precision: Precision = "fp32"


class SegmentConfig(Section):
    """One segmentation run: corpus in, masks and counts out."""

    corpus: CorpusConfig
    split: str | None = None  # absent = the whole corpus
    checkpoint: Uri  # carries network, label space, preprocessing and weights: never repeated here
    output: Uri
    predict: PredictConfig = PredictConfig()
    crf: CrfConfig | None = None  # absent = off
    images_per_shard: int = Field(16, ge=1)
    max_pixels: int = Field(50_000_000, ge=1)  # of one image; larger ones become rejects
    max_reject_rate: float = Field(ge=0, le=1)  # over it the run fails
    batch_size: int = Field(1, ge=1)  # images of equal size a forward pass
    actors: int = Field(ge=1)
    cpus_per_actor: int = Field(ge=1)
    gpus_per_actor: float = Field(0, ge=0)  # 0 = predict on the CPU


S = TypeVar("S", bound=Section)


def load(schema: type[S], path: str, overrides: list[str] | None = None) -> S:
    """Read one YAML file into its schema, with `key.path=value` overrides applied on top.

    Raises:
        ValueError: no such file, not YAML, or a key or value that the schema does not allow (all of them listed).
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"config {path} does not exist; the ready ones lie in configs/")
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: expected keys and values, found {type(values).__name__}; see the examples in configs/camvid/"
        )
    for override in overrides or []:
        _set(values, override)
    return parse(schema, values, where=path)


def parse(schema: type[S], values: dict[str, Any], where: str) -> S:
    """The section of these values; ValueError names `where`, each wrong key, what was found and what is allowed."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(schema, dict(problem)) for problem in error.errors())
        raise ValueError(f"{where}: {problems}") from None


def canonical(value: Any) -> str:
    """One text for equal values: JSON with sorted keys and no spaces, the form that is hashed and compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def differences(before: dict[str, Any], after: dict[str, Any], path: str = "") -> list[str]:
    """One sentence for each key whose value differs between two nested configs, e.g. 'crf.iterations: 10, now 5'."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new, name = before.get(key), after.get(key), f"{path}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name}: {json.dumps(old)}, now {json.dumps(new)}")
    return found


def _set(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {override}: expected key.path=value, e.g. crf.iterations=5")
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        if not isinstance(values[parent], dict):
            raise ValueError(f"--set {override}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        values = values[parent]
    values[leaf] = yaml.safe_load(text)


def _explain(schema: type[BaseModel], problem: dict[str, Any]) -> str:
    path = tuple(str(part) for part in problem["loc"])
    key = ".".join(path)
    found = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            known = _keys_at(schema, path[:-1])
            return f"{key}: unknown key" + (f"; known keys here: {', '.join(known)}" if known else "")
        case "missing":
            return f"{key}: missing; the config must set it"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
        case _:
            text = str(problem["msg"])
            return f"{key}: found {found!r}; {text[0].lower()}{text[1:]}"


def _keys_at(schema: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """Keys of the section at a path below `schema`; empty if the path is no section."""
    for part in path:
        field = schema.model_fields.get(part)
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not sections:
            return []
        schema = sections[0]
    return list(schema.model_fields)
