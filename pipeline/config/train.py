"""A training run."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline import labels, storage
from pipeline.config.base import Key, Precision, Section, Uri
from pipeline.config.corpus import CorpusConfig
from pipeline.config.loading import parse
from pipeline.config.models import ModelConfig
from pipeline.config.recipe import AugmentConfig, LossConfig, OptimizerConfig
from pipeline.config.segment import CrfConfig
from pipeline.errors import UserError

# What a stage may set for itself; all else is one for the whole run.
STAGE_KEYS = (
    "model", "weights", "start_from", "freeze_backbone", "freeze_all_but_head", "norm", "corpus", "train_split", "epochs",
    "batch_size", "accumulate", "augment", "optimizer", "loss", "ema", "validate_every", "validate_crf",
)  # fmt: skip
PREVIOUS = "previous"  # start_from: the best checkpoint of the stage before
# What one validation is judged by, of the whole split; `iou.<class>` beside these.
FIGURES = ("miou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou", "mean_dice")


class TrainConfig(Section):
    """One training run: data, network, recipe, machines."""

    corpus: CorpusConfig
    train_split: str
    val_split: str
    label_space: Literal["cityscapes19", "voc21", "camvid11"]
    model: ModelConfig
    weights: Literal["imagenet", "random"]  # where the backbone starts
    start_from: Uri | None = None  # a checkpoint whose tensors are taken over where name and shape match
    freeze_backbone: bool = False  # the encoder holds still
    # Only the head learns: the layers whose rate is optimizer.lr. With fcn these are the score layers and the upsampling
    # (fixed, with `upsampling: transposed_fixed`, it is the paper's FCN-32s-fixed).
    freeze_all_but_head: bool = Field(False, exclude_if=lambda value: not value)
    # Batch statistics: of each worker, of all (GPUs), or the stored ones.
    norm: Literal["batch", "sync", "frozen"] = "batch"
    output: Uri
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # of all workers together, a step
    accumulate: int = Field(1, ge=1)  # parts in which a worker takes its share of a batch: less memory, same gradient
    augment: AugmentConfig
    optimizer: OptimizerConfig
    loss: LossConfig = LossConfig()
    ema: float | None = Field(None, gt=0, lt=1)  # decay of averaged weights, which are what is validated and saved
    validate_every: int = Field(ge=1)  # epochs
    validate_crf: CrfConfig | None = None  # absent = off; validation then counts what `segment` with it would write
    best_by: str = "miou"  # which checkpoint is `best`: another of FIGURES, or iou.<class>
    # Steps between two snapshots; absent = at the end of each epoch alone.
    save_every: Annotated[int | None, Key("machine")] = Field(None, ge=1)
    precision: Precision
    compile: bool = False  # torch.compile: minutes at the start, faster steps; workers need a C++ compiler
    parallel: Literal["ddp", "fsdp"] = "ddp"  # how workers share: a whole network each, or its parameters in shards
    deterministic: bool = False  # slower kernels on GPUs that give the same bits each time; CPUs do so anyway
    seed: int = Field(ge=0)
    max_pixels: int = Field(50_000_000, ge=1)  # of one image; larger ones are refused before they are decoded
    workers: Annotated[int, Key("machine")] = Field(ge=1)
    cpus_per_worker: Annotated[int, Key("machine")] = Field(ge=1)
    gpus_per_worker: Annotated[float, Key("machine")] = Field(0, ge=0)  # 0 = train on the CPU
    # Of a worker: read, decode and augment ahead of the network.
    read_threads: Annotated[int, Key("machine")] = Field(1, ge=1)
    max_failures: Annotated[int, Key("machine")] = Field(1, ge=0)  # restarts from the newest snapshot after a death
    tensorboard: Annotated[bool, Key("machine")] = False  # scalars, four validation pictures: <output>/tensorboard
    mlflow: Annotated[str | None, Key("machine")] = None  # tracking URI of an MLflow server; absent = off
    stages: tuple[dict[str, Any], ...] = ()  # each: keys laid over those above, see `stage_configs`

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainConfig":
        if self.batch_size % self.workers:
            raise UserError(
                f"batch_size {self.batch_size} is shared by all workers: make it a multiple of workers ({self.workers})"
            )
        if self.batch_size // self.workers % self.accumulate:
            raise UserError(
                f"a worker's share of a batch, {self.batch_size // self.workers} images, is taken in accumulate = "
                f"{self.accumulate} parts: make the share a multiple of it"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainConfig":
        if self.norm == "sync" and not self.gpus_per_worker:
            raise UserError("norm 'sync' exists on GPUs alone: set gpus_per_worker, or choose 'batch' or 'frozen'")
        known = [*FIGURES, *(f"iou.{name}" for name in labels.space(self.label_space).classes)]
        if self.best_by not in known:
            raise UserError(f"best_by: found '{self.best_by}'; choose one of {', '.join(known)}")
        if self.ema is not None and self.parallel == "fsdp":
            raise UserError("ema needs the whole network on each worker: set parallel to ddp, or leave ema out")
        if self.start_from == storage.absolute(PREVIOUS):
            raise UserError(f"start_from '{PREVIOUS}' belongs into a stage after the first; give a checkpoint's URI")
        return self

    @model_validator(mode="after")
    def _stages_are_configs(self) -> "TrainConfig":
        stage_configs(self)
        return self


def stage_configs(cfg: TrainConfig) -> list[TrainConfig]:
    """The stages of a run as configs of their own, in order; a config without `stages` is its only stage.

    A stage's keys are laid over the run's. A section that carries `name` (a network, an optimiser) or a list replaces the
    whole; one without is laid over key by key, so `augment: {crop: [512, 512]}` keeps the other keys. A stage after the
    first starts from the one before unless it says otherwise. Stage N writes below <output>/stage-N.

    Raises:
        UserError: a stage sets a key that is the run's, or its config is not legal.
    """
    if not cfg.stages:
        return [cfg]
    run = open_tree(cfg)
    del run["stages"]
    configs: list[TrainConfig] = []
    for number, stage in enumerate(cfg.stages, start=1):
        unknown = sorted(stage.keys() - set(STAGE_KEYS))
        if unknown:
            raise UserError(
                f"stages.{number}: {unknown[0]}: not a stage's key; a stage may set {', '.join(STAGE_KEYS)}"
            )
        values = _laid_over(run, stage) | {"output": storage.join(cfg.output, f"stage-{number}")}
        if number > 1 and stage.get("start_from", PREVIOUS) == PREVIOUS:
            values["start_from"] = storage.join(configs[-1].output, "best")
        configs.append(parse(TrainConfig, values, where=f"stages.{number}"))
    return configs


def open_tree(cfg: TrainConfig) -> dict[str, Any]:
    """The config as a tree to lay other values over: a network's rates that follow from its stride are left out."""
    tree = cfg.model_dump(mode="json")
    if "rates" not in cfg.model.model_fields_set:
        tree["model"].pop("rates", None)
    return tree


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _laid_over(old, value) if both and "name" not in value else value  # type: ignore[arg-type]
    return merged
