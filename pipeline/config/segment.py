"""A segmentation run."""

from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from pipeline.config.base import EngineName, Key, PredictPrecision, Section, Size, Uri, added_later
from pipeline.config.corpus import CorpusConfig
from pipeline.config.user_code import Folder
from pipeline.errors import UserError
from pipeline.metrics.registry import METRICS


class CrfConfig(Section):
    """Dense CRF weights and widths: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), eq. 3."""

    iterations: int = Field(10, ge=0)
    """[steps] Mean-field steps; 0 leaves the probabilities as they are. 10: DeepLab, arXiv:1606.00915 section 4.2."""
    smooth_weight: float = Field(3, ge=0)
    """Weight of the smoothness term, which joins neighbours whatever their colour. This and the four defaults below are
    those of DeepLab v2's release; `maskmill tune-crf` finds better ones for a corpus."""
    smooth_px: float = Field(1, gt=0)
    """[pixels] Standard deviation of the distance, in the smoothness term."""
    colour_weight: float = Field(4, ge=0)
    """Weight of the appearance term, which joins pixels that are near and alike."""
    colour_px: float = Field(67, gt=0)
    """[pixels] Standard deviation of the distance, in the appearance term."""
    colour_levels: float = Field(3, gt=0)
    """[8-bit levels] Standard deviation of the colour, in the appearance term."""
    class_weights: dict[str, Annotated[float, Field(ge=0)]] = added_later({})
    """Factors of what both terms say for a class, by its name, such as `{pole: 1.5}`: above 1 a class is kept and grows,
    which thin ones may need; below 1 it gives way to its neighbours; with 0 nothing but the network speaks for it. Classes that
    are not named have 1."""
    mode: Literal["exact", "fast"] = added_later("exact")
    """`exact`: every pixel in every step. `fast`, on the CPU alone: pixels that are alike are worked on together, and those
    that have settled rest. Photographs of 1024x2048 took less than half the time, and 99.9 % of the labels were the same."""

    def __hash__(self) -> int:  # pydantic's own cannot hash a dict
        numbers = self.model_dump(exclude={"class_weights"}).values()
        return hash((*numbers, frozenset(self.class_weights.items())))


class PredictConfig(Section):
    """How the scores of an image are computed."""

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Factors by which an image is resized for prediction; the scores are averaged. More scales are slower and better."""
    reduced_decode: bool = added_later(False)
    """Decode and predict large pictures at reduced size; needs one scale below 1. JPEGs are decoded at 1/2, 1/4 or 1/8 of their
    size, the smallest that is not below the scale, and the mask is made from the network's scores in one step. Masks keep the
    picture's size. Several times as fast; a few labels at edges change. Not with tiles or a CRF."""
    flip: bool = False
    """Predict the mirror image too, and average the scores: twice the work."""
    mode: Literal["whole", "shift_and_stitch", "sliding_window", "sub_windows"] = "whole"
    """`whole`: one pass over the image. `shift_and_stitch`: stride^2 passes instead of upsampling. `sliding_window`: a
    classifier on each window separately. `sub_windows`: DeconvNet on parts of the image, with the largest score per class."""
    windows: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = added_later(
        (1, 0.5, 0.25)
    )
    """Side lengths of the sub-windows, as shares of the image's; windows of one size overlap by half. 1, 0.5, 0.25 give 59
    windows, about the paper's 50 proposals. Only with `mode: sub_windows`."""
    output_stride: Literal[8, 16, 32] | None = Field(None, exclude_if=lambda value: value is None)
    """[pixels] Stride of the encoder's last feature map, in place of the one in training: DeepLab v3 trains at 16 and is
    evaluated at 8, which is finer and slower (arXiv:1706.05587, section 4.1). The weights stay valid, and the pyramid's rates
    are adapted. Only for fcn_resnet, deeplabv3 and deeplabv3plus. Absent: the checkpoint's."""
    precision: PredictPrecision = "fp32"
    """Number format of the forward pass. `bf16` is about twice as fast on GPUs that support it, and rounds scores; on a CPU it
    needs `engine: openvino` and a processor with bfloat16. `int8` needs `engine: openvino` or `onnxruntime` and quantises the
    network with ranges measured on the run's first images. `--dry-run` prints the share of labels that equal fp32's."""
    tile: Size | None = None
    """[pixels] (height, width) of the tiles in which larger images are predicted, which bounds memory. Absent: no tiles."""
    overlap: int = Field(0, ge=0)
    """[pixels] Least overlap of neighbouring tiles; the scores are blended there."""
    pad_multiple: int = Field(1, ge=1)
    """[pixels] Images are padded to multiples of this number and of the network's own. Images with the same padded size share
    batches: 1 pads least, larger numbers let images of more sizes share."""
    temperature: Annotated[float, Field(ge=0.01, le=100)] = added_later(1.0)
    """Divisor of the network's logits before the softmax, so that confidences agree with accuracy (arXiv:1706.04599, section
    4.2); above 1 confidences become lower. `maskmill calibrate` fits it. The logits of each scale, mirror image and network of
    an ensemble are divided before their mean is taken. With one pass and no CRF, masks do not change."""

    @model_validator(mode="after")
    def _decode_fits(self) -> "PredictConfig":
        if self.reduced_decode and (len(self.scales) > 1 or self.scales[0] >= 1):
            raise UserError(
                f"predict.reduced_decode needs one scale below 1, found predict.scales {list(self.scales)}: larger ones see "
                "all pixels; leave it out"
            )
        if self.reduced_decode and self.tile is not None:
            raise UserError(
                "predict.reduced_decode and predict.tile cannot be combined: tiles are of the picture's own pixels; leave one "
                "of them out"
            )
        return self

    @model_validator(mode="after")
    def _tiles_advance(self) -> "PredictConfig":
        if self.tile is None and self.overlap:
            raise UserError(
                f"predict.overlap is {self.overlap} px, and there are no tiles; set predict.tile, or drop it"
            )
        if self.tile is not None and self.overlap >= min(self.tile):
            raise UserError(
                f"predict.overlap is {self.overlap} px, the shorter side of predict.tile {min(self.tile)} px: tiles would not "
                "advance; lower the overlap"
            )
        return self


_metric_keys: dict[str, Any] = {
    metric.key: (kind, Field(default, description=metric.doc))
    for metric in METRICS
    for kind, default in [metric.declaration]
}


class MetricsConfig(create_model("_MetricsConfig", __base__=Section, **_metric_keys)):  # type: ignore[misc]
    """Counts stored in addition to the confusion matrix; all need labels. Each file of `pipeline/metrics/` declares a key."""


class RegionsConfig(Section):
    """A second table with one row per connected region of a mask: class, area, box, centroid, confidence, edges touched."""

    min_area: int = Field(1, ge=1)
    """[pixels] Smaller regions have no row. With 1 all have one, so the areas of an image's regions sum to its `pixels`."""
    polygons: float | None = Field(None, ge=0, exclude_if=lambda value: value is None)
    """[pixels] Also write each region's outline with its holes, as WKB, simplified with this tolerance; 0 keeps every corner.
    In map coordinates if the image has a georeference, else in pixels. Needs maskmill[geo]. Absent: no outlines."""


# The precisions of each engine; `auto` compares engines with torch's float32.
_PRECISIONS: dict[str, tuple[PredictPrecision, ...]] = {
    "torch": ("fp32", "bf16"), "compile": ("fp32",), "onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "bf16"), "auto": ("fp32",),
}  # fmt: skip


class SegmentConfig(Section):
    """One segmentation run: corpus in, masks and counts out."""

    corpus: CorpusConfig
    """Where the images are, and the labels to score against, if there are any."""
    split: str | None = None
    """The split to segment, such as `val`. Absent: the whole corpus."""
    checkpoint: Annotated[Uri, Key("address", pace=True)]
    """URI of a trained network, such as <output of a training>/best, or of a release file (.safetensors). It holds network,
    label space, preprocessing and weights, so none of them is repeated here."""
    ensemble: Annotated[tuple[Uri, ...], Key("address", pace=True)] = Field((), exclude_if=lambda value: not value)
    """URIs of further checkpoints with the same classes and bands. Their probabilities and those of `checkpoint` are averaged,
    which is better, and takes the time and memory of all networks together. Absent: only `checkpoint`."""
    code: Annotated[Folder | None, Key("address")] = Field(None, exclude_if=lambda value: value is None)
    """Permission to run code that a network needs. A folder: the code of your own network (`model.path` of its training), which
    `maskmill submit` uploads with the job. `installed`: its module is installed, and you trust the maker of the checkpoint.
    `trusted`: you trust a checkpoint of `import-model --trust`, whose file runs code when it is loaded. Absent: none runs."""
    output: Annotated[Uri, Key("address")]
    """URI of the folder or prefix to which the run is written: masks, counts, rejects."""
    predict: Annotated[PredictConfig, Key(pace=True)] = PredictConfig()
    """How the scores of an image are computed."""
    engine: Annotated[EngineName | Literal["auto"], Key(pace=True)] = added_later("torch")
    """Library that runs the network. `torch`: PyTorch, layer by layer; the default, since it needs nothing else and runs every
    network. `compile`: torch.compile, which needs a C++ compiler and about a minute in each actor. `onnxruntime`, `openvino`:
    the network as ONNX on the CPU; each needs the extra of its name. `tensorrt`: ONNX Runtime with TensorRT, on a GPU. `auto`:
    the fastest of torch, onnxruntime and openvino whose labels on the first images equal torch's on at least 99.99 % of the
    pixels. Engines round differently, so a run keeps the engine that it was begun with. `tune-crf` uses torch."""
    crf: Annotated[CrfConfig | None, Key(pace=True)] = None
    """Dense CRF that sharpens the masks' edges. Absent: off; `crf: {}` has DeepLab v2's settings."""
    crf_on: Annotated[Literal["device", "cpu"], Key("machine", pace=True)] = "device"
    """Where the CRF runs: on the device that holds the network's scores, or on the CPU."""
    metrics: Annotated[MetricsConfig, Key(pace=True)] = MetricsConfig()
    """Counts stored in addition to the confusion matrix; all need labels."""
    regions: Annotated[RegionsConfig | None, Key(pace=True)] = added_later(None)
    """Write the connected regions of the masks to a separate table. Absent: off; `regions: {}` writes all regions."""
    confidence_map: Annotated[bool, Key(pace=True)] = added_later(False)
    """Also store the confidence of each pixel: its largest class probability in steps of 1/255, as a grey PNG of the mask's
    size in a separate column. With tiles, scales, mirror images or an ensemble it comes from the mean probabilities from which
    the mask is made; with a CRF from its marginals. It is many times as large as the mask."""
    unknown_below: Annotated[float | None, Field(gt=0, le=1), Key(pace=True)] = added_later(None)
    """Pixels whose largest class probability is lower, such as below 0.4, become 255 (unknown) in the mask. They are counted in
    a separate column; the confusion and all metrics leave them out. Absent: every pixel has a class."""
    images_per_shard: int = Field(16, ge=1)
    """[images] Most images in a shard, the unit of work and of retries; a shard becomes one Parquet file."""
    bytes_per_shard: int = Field(256_000_000, ge=1)
    """[bytes] Most bytes of stored images and labels in a shard; a shard of large images has fewer than `images_per_shard`."""
    max_pixels: int = Field(50_000_000, ge=1)
    """[pixels] Larger images are rejected before they are decoded, which bounds memory."""
    stream_above_pixels: Annotated[int | None, Key(pace=True)] = Field(None, ge=1)
    """[pixels] Larger images are read, predicted and written one strip of tiles at a time, never whole. PNG, JPEG and TIFF need
    maskmill[stream]. Images with declared bands need maskmill[geo], which reads windows of them from a disk or a store without
    a copy. Absent: no image is streamed."""
    max_reject_rate: Annotated[float, Key("machine")] = Field(0.1, ge=0, le=1)
    """Share of the images that may be rejected; above it the run fails. The default of 0.1 tolerates a few broken files; more
    mean that the config or the corpus is wrong."""
    batch_size: Annotated[int, Key("machine", pace=True)] = Field(1, ge=1)
    """[images] Images or tiles of one padded size in a forward pass. 1 is right for CPUs, 8 or more for GPUs."""
    decode: Annotated[Literal["actor", "tasks"], Key("machine", pace=True)] = "actor"
    """Where pictures are decoded: `actor`, in the actor's own threads; `tasks`, in Ray tasks on any node, which suits a cluster
    whose GPU nodes have too few cores to feed their GPUs."""
    actors: Annotated[int, Key("machine")] = Field(1, ge=1)
    """[processes] Processes that segment in parallel, each with its own copy of the network. Set it to the number of GPUs."""
    cpus_per_actor: Annotated[int, Key("machine", pace=True)] = Field(2, ge=1)
    """[cores] CPU cores of each actor; on a CPU the network uses all of them. Every laptop has the default of 2."""
    gpus_per_actor: Annotated[float, Key("machine", pace=True)] = Field(0, ge=0)
    """[GPUs] GPUs of each actor, or a share of one. 0 predicts on the CPU, which works on every machine."""

    @model_validator(mode="after")
    def _engine_fits(self) -> "SegmentConfig":
        precisions, precision = _PRECISIONS[self.engine], self.predict.precision
        if precision not in precisions:
            able = " or ".join(name for name, those in _PRECISIONS.items() if precision in those)
            raise UserError(
                f"engine {self.engine} needs predict.precision {' or '.join(precisions)}, found {precision}; change it, or set "
                f"engine: {able}"
            )
        if self.engine == "torch":
            return self
        if (self.gpus_per_actor > 0) != (self.engine == "tensorrt"):
            needed, device = ("above 0", "a GPU") if self.engine == "tensorrt" else ("0", "the CPU")
            raise UserError(
                f"engine {self.engine} needs gpus_per_actor {needed}, found {self.gpus_per_actor:g}: it computes on {device}; "
                "change it, or set engine: torch"
            )
        if self.predict.mode != "whole":
            raise UserError(
                f"engine {self.engine} needs predict.mode whole, found {self.predict.mode}: the other modes run parts of the "
                "network; change it, or set engine: torch"
            )
        return self

    @model_validator(mode="after")
    def _reduced_fits(self) -> "SegmentConfig":
        if self.predict.reduced_decode and self.crf is not None:
            raise UserError(
                "predict.reduced_decode and crf cannot be combined: the CRF compares the colours of all pixels, which are not "
                "decoded; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _crf_fits(self) -> "SegmentConfig":
        if self.crf is not None and self.crf.mode == "fast" and self.gpus_per_actor > 0 and self.crf_on == "device":
            raise UserError(
                f"crf.mode fast is for the CPU, and with gpus_per_actor {self.gpus_per_actor:g} and crf_on device the CRF runs "
                "on the GPU; set crf_on: cpu, or crf.mode: exact"
            )
        return self

    @model_validator(mode="after")
    def _streams_fit(self) -> "SegmentConfig":
        if self.stream_above_pixels is None:
            return self
        if self.stream_above_pixels >= self.max_pixels:
            raise UserError(
                f"stream_above_pixels {self.stream_above_pixels} must be below max_pixels {self.max_pixels}: larger "
                "images are rejected, so none would be streamed; raise max_pixels"
            )
        if self.predict.tile is None:
            raise UserError("stream_above_pixels needs predict.tile: a streamed image is predicted tile by tile")
        polygons = self.regions is not None and self.regions.polygons is not None
        for name, on in (
            ("crf", self.crf),
            ("metrics", self.metrics != MetricsConfig()),
            ("regions.polygons", polygons),
        ):
            if on:
                raise UserError(
                    f"stream_above_pixels cannot be combined with {name}, which needs all pixels of an image at once; "
                    "remove one of them"
                )
        return self
