"""Segment an image too large to be decoded whole: in strips of tiles, with the mask's PNG and all counts made row by row."""

import time
from contextlib import ExitStack

import numpy as np

from pipeline.config import ImageConfig, SegmentConfig
from pipeline.corpus import Item, open_file
from pipeline.corpus.samples import wrong_size
from pipeline.errors import Reject
from pipeline.imaging.bands import Windows
from pipeline.imaging.decode import open_header
from pipeline.imaging.mask_png import MaskWriter
from pipeline.imaging.regions import RegionFinder
from pipeline.imaging.strips import Strips
from pipeline.labels import LabelSpace
from pipeline.metrics.confusion import count_confusion, count_ids
from pipeline.predict import Predictor
from pipeline.predict.tiles import Grid
from pipeline.runs import CONFIDENCE_MAP, REGIONS, region_array
from pipeline.segment.loading import NO_MEMORY, NOT_FINITE, Streamed
from pipeline.segment.rows import (
    Kept,
    Row,
    confidence_picture,
    confusion_columns,
    identity_columns,
    unknown_columns,
    without_void,
)


def streamed_row(
    streamed: Streamed,
    predictor: Predictor,
    cfg: SegmentConfig,
    space: LabelSpace,
    declared: ImageConfig | None = None,
) -> Row:
    """Return the row of one streamed image.

    In memory at once: the encoded label and mask, the encoded image if it lies in an archive or has no declared bands, two
    strips of the image as stored, each a tile high, and scores of C x overlap x W.

    Args:
        declared: bands and range of the image; None = an 8-bit picture.
    Raises:
        Reject: as for a whole image; a fault in the last row is found only after all others were predicted.
    """
    item, started = streamed.item, time.perf_counter()
    stage = "decode"
    try:
        with ExitStack() as stack:
            picture = _picture(streamed, cfg, declared)
            stack.enter_context(picture)
            size = (picture.height, picture.width)
            stage, label = "label", None
            if streamed.label is not None:
                label = _ids(streamed.label, cfg, space, declared)
                stack.enter_context(label)
                if (label.height, label.width) != size:
                    raise wrong_size(f"label of {item.image_id}", (label.height, label.width), size)
            stage = "decode"
            tally = _Tally(size, space.num_classes, cfg)
            grid = Grid.over(size, cfg.predict.tile, cfg.predict.overlap)
            for assembly, (band, confidence) in predictor.strips(grid, picture.rows, picture.levels):
                if not np.isfinite(assembly.entropy):
                    raise NOT_FINITE
                top, bottom = tally.next_rows(len(band))
                void, ids = picture.void(top, bottom), None
                if label is not None:
                    stage = "label"
                    ids = without_void(space.to_train(label.rows(top, bottom), f"label of {item.image_id}"), void)
                    stage = "decode"
                tally.add(band, Kept.of(band, confidence, void, cfg.unknown_below), ids)
            georeference = picture.georeference
            regions = {} if tally.regions is None else {REGIONS: region_array(tally.regions.finish())}
    except Reject as error:
        raise (error.at(stage) if error.stage == "decode" else error) from error
    except MemoryError as error:
        raise NO_MEMORY from error
    return {
        **identity_columns(item),
        "height": size[0],
        "width": size[1],
        "georeference": georeference,
        **regions,
        "mask": {"bytes": tally.writer.finish(), "path": f"{item.image_id}.png"},
        **tally.confidence_columns(item, labelled=label is not None),
        "pixels": tally.pixels.tolist(),
        **({} if label is None else confusion_columns(tally.confusion)),
        "confidence": assembly.confidence,
        "entropy": assembly.entropy,
        **streamed.seconds,
        "seconds_forward": time.perf_counter() - started,  # includes decoding and encoding, which are interleaved
    }


class _Tally:
    """Builds the PNGs of mask and confidence, and all counts, as rows of the mask come in."""

    def __init__(self, size: tuple[int, int], num_classes: int, cfg: SegmentConfig) -> None:
        self._num_classes, self._top = num_classes, 0
        self._confidence = MaskWriter(*size) if cfg.confidence_map else None
        self._unknown = cfg.unknown_below is not None
        self._unknown_pixels, self._unknown_labelled = 0, np.zeros(num_classes, np.int64)
        self.pixels = np.zeros(num_classes, np.int64)
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.writer = MaskWriter(*size)
        self.regions = None if cfg.regions is None else RegionFinder(size[1], cfg.regions.min_area)

    def next_rows(self, count: int) -> tuple[int, int]:
        return self._top, self._top + count

    def add(self, band: np.ndarray, kept: Kept, ids: np.ndarray | None) -> None:
        """Add the next rows: (h, W) predicted train ids, what is kept of them, and the true ids if there is a label."""
        self.writer.add(kept.mask)
        if self.regions is not None:
            self.regions.add(kept.mask, kept.probability)
        if self._confidence is not None:
            assert kept.confidence is not None
            self._confidence.add(kept.confidence)
        self.pixels += count_ids(kept.mask)[: self._num_classes]
        if self._unknown:
            pixels, labelled = kept.count_unknown(ids, self._num_classes)
            self._unknown_pixels += pixels
            self._unknown_labelled += 0 if labelled is None else labelled
        if ids is not None:
            self.confusion += count_confusion(kept.known(ids), band, self._num_classes)
        self._top += len(band)

    def confidence_columns(self, item: Item, labelled: bool) -> Row:
        """Return the confidence map and the counts of unknown pixels, as far as asked for, once all rows are added."""
        columns: Row = {}
        if self._confidence is not None:
            columns[CONFIDENCE_MAP] = confidence_picture(self._confidence.finish(), item)
        if self._unknown:
            columns |= unknown_columns(self._unknown_pixels, self._unknown_labelled if labelled else None)
        return columns


def _picture(streamed: Streamed, cfg: SegmentConfig, declared: ImageConfig | None) -> Strips | Windows:
    if declared is not None:
        source = open_file(streamed.item.image) if streamed.image is None else streamed.image
        return Windows(source, cfg.max_pixels, declared)
    assert streamed.image is not None
    return Strips(streamed.image, cfg.max_pixels)


def _ids(label: bytes, cfg: SegmentConfig, space: LabelSpace, declared: ImageConfig | None) -> Strips | Windows:
    """Open a label: ids with the library that reads the image, so that one extra is enough; colours with libvips."""
    ids = _holds_ids(label, cfg, space)
    return Windows(label, cfg.max_pixels, None) if ids and declared is not None else Strips(label, cfg.max_pixels, ids)


def _holds_ids(label: bytes, cfg: SegmentConfig, space: LabelSpace) -> bool:
    """Return whether a label picture holds ids, not colours, as in `decode_label`; `Strips` refuses those with a palette."""
    if not space.has_colours:
        return True
    return space.has_ids and open_header(label, cfg.max_pixels).mode in ("L", "P", "1", "I", "I;16")
