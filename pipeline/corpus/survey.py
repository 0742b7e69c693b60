"""Survey of a corpus without a config: the number and sizes of its images, and the values in its labels."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.config import CorpusConfig, ImageConfig
from pipeline.corpus import Item, list_items
from pipeline.corpus.samples import fetch, wrong_size
from pipeline.errors import Reject, UserError
from pipeline.imaging.bands import decode_bands
from pipeline.imaging.decode import decode_label, decode_oriented, upright
from pipeline.labels.label_space import MAX_CLASSES, MAX_VALUE
from pipeline.read_ahead import read_ahead

MOST_LOOKED_AT = 1000  # pictures; of a larger corpus this many are chosen, evenly spaced
_THREADS = 2

Size = tuple[int, int]  # (height, width)
Colour = tuple[int, int, int]


@dataclass
class Survey:
    """Result of `survey`; pixel counts cover only the pictures that were read."""

    items: list[Item]
    looked_at: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    ids: Counter[int] = field(default_factory=Counter)  # stored id -> pixels
    colours: Counter[Colour] = field(default_factory=Counter)  # colour in colour labels -> pixels
    bad: dict[str, list[str]] = field(default_factory=dict)  # reason -> sentences

    @property
    def labelled(self) -> list[Item]:
        return [item for item in self.items if item.label is not None]


def survey(
    cfg: CorpusConfig,
    max_pixels: int,
    declared: ImageConfig | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read the images that have a label, or all images if there are no labels; at most `MOST_LOOKED_AT` of them.

    Args:
        declared: bands and range of the images; None = 8-bit pictures.
    Raises:
        UserError: there is no image, none can be read, or the values in the labels cannot be classes.
    """
    found = Survey(list_items(cfg, split=None))
    chosen = _evenly(found.labelled or found.items, MOST_LOOKED_AT)
    for item, look in read_ahead(lambda item: _look(item, max_pixels, declared), chosen, _THREADS):
        outcome = look.result()
        found.looked_at += 1
        if isinstance(outcome, Reject):
            found.bad.setdefault(outcome.reason, []).append(f"{item.image_id}: {outcome}")
        else:
            size, ids, colours = outcome
            found.sizes[size] += 1
            found.ids.update(ids)
            found.colours.update(colours)
        _check_values(cfg, found)
        on_progress(found.looked_at, len(chosen))
    if not found.sizes:
        first = next(iter(found.bad.values()))[0]
        hint = (
            "; for init these are --bands and --range" if "unsupported_mode" in found.bad and declared is None else ""
        )
        raise UserError(f"corpus {cfg.images}: none of {found.looked_at} images can be used, e.g. {first}{hint}")
    if found.ids and found.colours:
        raise UserError(
            f"corpus {cfg.labels or cfg.images}: some labels are pictures of class ids and some are colour pictures; store all "
            "of them in one way"
        )
    return found


def _evenly(items: list[Item], most: int) -> list[Item]:
    return items if len(items) <= most else [items[index * len(items) // most] for index in range(most)]


def _look(
    item: Item, max_pixels: int, declared: ImageConfig | None
) -> tuple[Size, dict[int, int], dict[Colour, int]] | Reject:
    """Return size, pixels of each id and pixels of each colour; or the reject that says why the pair cannot be used."""
    try:
        files = fetch(item)
        if declared is None:
            image, orientation = decode_oriented(files.image, max_pixels)
        else:
            image, orientation = decode_bands(files.image, declared, max_pixels)[0], 1
        size = image.shape[:2]
        if files.label is None:
            return (size[0], size[1]), {}, {}
        label = _label(files.label, max_pixels)
        shape = upright(label, orientation).shape[:2]
        if shape != size:
            return wrong_size("the label", shape, size)
    except Reject as error:
        return error
    if label.ndim == 2:
        values, pixels = np.unique(label, return_counts=True)
        return (size[0], size[1]), dict(zip(values.tolist(), pixels.tolist(), strict=True)), {}
    numbers = label[..., 0].astype(np.int32) << 16 | label[..., 1].astype(np.int32) << 8 | label[..., 2]
    values, pixels = np.unique(numbers, return_counts=True)
    colours = ((value >> 16, value >> 8 & 255, value & 255) for value in values.tolist())
    return (size[0], size[1]), {}, dict(zip(colours, pixels.tolist(), strict=True))


def _label(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        return decode_label(data, max_pixels, colours=True)
    except Reject as error:
        raise error.at("label") from error


def _check_values(cfg: CorpusConfig, found: Survey) -> None:
    """Raise UserError if labels hold more values than there can be classes, as photographs and smoothed labels do."""
    if outside := [value for value in found.ids if not 0 <= value <= MAX_VALUE]:
        raise UserError(
            f"corpus {cfg.labels or cfg.images}: its labels hold id {outside[0]}, and ids are 0..{MAX_VALUE}; store them anew"
        )
    for what, values in (("ids", found.ids), ("colours", found.colours)):
        if len(values) > MAX_CLASSES + 1:
            rare = sum(pixels == 1 for pixels in values.values())
            raise UserError(
                f"corpus {cfg.labels or cfg.images}: its labels contain more than {len(values) - 1} different {what} ({rare} "
                f"of them in a single pixel), but at most {MAX_CLASSES} classes are possible; use label pictures with one "
                "value per class, without smoothing and never saved as JPEG"
            )
