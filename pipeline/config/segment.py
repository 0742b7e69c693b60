"""A segmentation run."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.corpus import CorpusConfig
from pipeline.config.section import Precision, Section, Uri


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


class MetricsConfig(Section):
    """Counts kept beside the confusion matrix, each a column of its own; all of them need labels."""

    boundary_px: tuple[
        Annotated[int, Field(ge=1, le=254)], ...
    ] = ()  # band widths of boundary IoU, F and trimap; () = off
    instances: bool = False  # iIoU, from the instanceIds beside Cityscapes' labelIds
    calibration_bins: int = Field(0, ge=0, le=1000)  # of the confidence histogram; 0 = off


class SegmentConfig(Section):
    """One segmentation run: corpus in, masks and counts out."""

    corpus: CorpusConfig
    split: str | None = None  # absent = the whole corpus
    checkpoint: Uri  # carries network, label space, preprocessing and weights: never repeated here
    output: Uri
    predict: PredictConfig = PredictConfig()
    crf: CrfConfig | None = None  # absent = off
    crf_on: Literal["device", "cpu"] = "device"  # where it runs: where the network's scores are, or on the CPU
    metrics: MetricsConfig = MetricsConfig()
    images_per_shard: int = Field(16, ge=1)
    bytes_per_shard: int = Field(256_000_000, ge=1)  # of images and labels as stored: a shard of large ones holds fewer
    max_pixels: int = Field(50_000_000, ge=1)  # of one image; larger ones become rejects
    max_reject_rate: float = Field(ge=0, le=1)  # over it the run fails
    batch_size: int = Field(1, ge=1)  # images of equal size a forward pass
    actors: int = Field(ge=1)
    cpus_per_actor: int = Field(ge=1)
    gpus_per_actor: float = Field(0, ge=0)  # 0 = predict on the CPU
