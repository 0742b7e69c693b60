"""A segmentation run."""

from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from pipeline.config.base import Key, Precision, Section, Size, Uri
from pipeline.config.corpus import CorpusConfig
from pipeline.errors import UserError
from pipeline.metrics.registry import METRICS


class CrfConfig(Section):
    """Dense CRF weights and widths: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), eq. 3."""

    iterations: int = Field(ge=0)  # mean-field steps; 0 = leave probs alone
    smooth_weight: float = Field(ge=0)
    smooth_px: float = Field(gt=0)  # std, pixels
    colour_weight: float = Field(ge=0)
    colour_px: float = Field(gt=0)  # std, pixels
    colour_levels: float = Field(gt=0)  # std, 8-bit levels


class PredictConfig(Section):
    """How scores of one image come about: averaged over scales and, if asked for, mirror images."""

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    flip: bool = False
    # whole: one pass. shift_and_stitch: stride^2 passes instead of upsampling. sliding_window: a classifier, window by window
    mode: Literal["whole", "shift_and_stitch", "sliding_window"] = "whole"
    precision: Precision = "fp32"
    tile: Size | None = None  # (height, width), pixels: larger images are predicted a tile at a time; absent = at once
    overlap: int = Field(0, ge=0)  # pixels that neighbouring tiles share at least, blended from one to the other
    # Images are padded to multiples of it, and to the network's. Those of one padded size share batches: 1 pads least,
    # a larger one lets more sizes share.
    pad_multiple: int = Field(1, ge=1)

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


_metric_keys: dict[str, Any] = {metric.key: metric.declaration for metric in METRICS}


class MetricsConfig(create_model("_MetricsConfig", __base__=Section, **_metric_keys)):  # type: ignore[misc]
    """Counts kept beside the confusion matrix, columns of their own; all of them need labels. Keys: `metrics/`, one a file."""


class SegmentConfig(Section):
    """One segmentation run: corpus in, masks and counts out."""

    corpus: CorpusConfig
    split: str | None = None  # absent = the whole corpus
    # It carries network, label space, preprocessing and weights: never repeated here.
    checkpoint: Annotated[Uri, Key("address", pace=True)]
    output: Annotated[Uri, Key("address")]
    predict: Annotated[PredictConfig, Key(pace=True)] = PredictConfig()
    crf: Annotated[CrfConfig | None, Key(pace=True)] = None  # absent = off
    # Where it runs: where the network's scores are, or on the CPU.
    crf_on: Annotated[Literal["device", "cpu"], Key("machine", pace=True)] = "device"
    metrics: Annotated[MetricsConfig, Key(pace=True)] = MetricsConfig()
    images_per_shard: int = Field(16, ge=1)
    bytes_per_shard: int = Field(256_000_000, ge=1)  # of images and labels as stored: a shard of large ones holds fewer
    max_pixels: int = Field(50_000_000, ge=1)  # of one image; larger ones become rejects
    # Images of more pixels are read, predicted and written a strip of tiles at a time, never whole; absent = none are.
    stream_above_pixels: Annotated[int | None, Key(pace=True)] = Field(None, ge=1)
    max_reject_rate: Annotated[float, Key("machine")] = Field(ge=0, le=1)  # over it the run fails
    # Images, or tiles, of one padded size a forward pass.
    batch_size: Annotated[int, Key("machine", pace=True)] = Field(1, ge=1)
    # Where pictures are decoded: in the actor's own threads, or in Ray tasks on any node, which suits a cluster whose GPU
    # nodes have too few cores to feed their GPUs.
    decode: Annotated[Literal["actor", "tasks"], Key("machine", pace=True)] = "actor"
    actors: Annotated[int, Key("machine")] = Field(ge=1)
    cpus_per_actor: Annotated[int, Key("machine", pace=True)] = Field(ge=1)
    gpus_per_actor: Annotated[float, Key("machine", pace=True)] = Field(0, ge=0)  # 0 = predict on the CPU

    @model_validator(mode="after")
    def _streams_fit(self) -> "SegmentConfig":
        if self.stream_above_pixels is None:
            return self
        if self.stream_above_pixels >= self.max_pixels:
            raise UserError(
                f"stream_above_pixels {self.stream_above_pixels} is not below max_pixels {self.max_pixels}, over which "
                "an image is rejected: none would be streamed; raise max_pixels"
            )
        if self.predict.tile is None:
            raise UserError("stream_above_pixels needs predict.tile: a streamed image is predicted tile by tile")
        for name, on in (("crf", self.crf), ("metrics", self.metrics != MetricsConfig())):
            if on:
                raise UserError(
                    f"stream_above_pixels and {name} do not go together, which needs all pixels of an image at once; "
                    "leave one of them out"
                )
        return self
