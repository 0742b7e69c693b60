"""An image too large to be decoded whole: strips of tiles through the model, the mask's PNG and all counts row by row."""

import time

import numpy as np

from pipeline.config import SegmentConfig
from pipeline.corpus.samples import wrong_size
from pipeline.errors import Reject
from pipeline.imaging.decode import open_header
from pipeline.imaging.mask_png import MaskWriter
from pipeline.imaging.strips import Strips
from pipeline.labels import LabelSpace
from pipeline.metrics.confusion import count_confusion
from pipeline.predict import Predictor
from pipeline.predict.tiles import Grid
from pipeline.segment.loading import NO_MEMORY, NOT_FINITE, Streamed
from pipeline.segment.rows import Row, confusion_columns, identity_columns


def _holds_ids(label: bytes, cfg: SegmentConfig, space: LabelSpace) -> bool:
    """Whether a label picture holds ids rather than colours."""
    coloured = space.has_colours and (open_header(label, cfg.max_pixels).mode != "L" or not space.has_ids)
    return not coloured


def streamed_row(streamed: Streamed, predictor: Predictor, cfg: SegmentConfig, space: LabelSpace) -> Row:
    """The row of one streamed image.

    In memory at once: the encoded image, label and mask, two strips of the image a tile high, and scores of C x overlap x W.

    Raises:
        Reject: as a whole image's; a fault in the last row is found after all others were predicted.
    """
    item, started = streamed.item, time.perf_counter()
    stage = "decode"
    try:
        picture = Strips(streamed.image, cfg.max_pixels)
        size = (picture.height, picture.width)
        stage, label = "label", None
        if streamed.label is not None:
            label = Strips(streamed.label, cfg.max_pixels, ids=_holds_ids(streamed.label, cfg, space))
            if (label.height, label.width) != size:
                raise wrong_size(f"label of {item.image_id}", (label.height, label.width), size)
        stage = "decode"
        num_classes, top = space.num_classes, 0
        pixels = np.zeros(num_classes, np.int64)
        confusion = np.zeros((num_classes, num_classes), np.int64)
        writer = MaskWriter(*size)
        grid = Grid.over(size, cfg.predict.tile, cfg.predict.overlap)
        for assembly, band in predictor.strips(grid, picture.rows):
            if not np.isfinite(assembly.entropy):
                raise NOT_FINITE
            writer.add(band)
            pixels += np.bincount(band.ravel(), minlength=num_classes)
            if label is not None:
                stage = "label"
                ids = space.to_train(label.rows(top, top + len(band)), f"label of {item.image_id}")
                confusion += count_confusion(ids, band, num_classes)
                stage = "decode"
            top += len(band)
    except Reject as error:
        raise (error.at(stage) if error.stage == "decode" else error) from error
    except MemoryError as error:
        raise NO_MEMORY from error
    return {
        **identity_columns(item),
        "height": size[0],
        "width": size[1],
        "mask": {"bytes": writer.finish(), "path": f"{item.image_id}.png"},
        "pixels": pixels.tolist(),
        **({} if label is None else confusion_columns(confusion)),
        "confidence": assembly.confidence,
        "entropy": assembly.entropy,
        **streamed.seconds,
        "seconds_forward": time.perf_counter() - started,  # decoding and encoding, which go with it, too
    }
