"""Label spaces: what the ids of a data set mean, and how its stored ids map to train ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.errors import Reject, UserError

IGNORE = 255  # train id of pixels that train and count nowhere
_UNKNOWN = 254  # never a train id: marks stored ids that a space does not define

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of the train ids 0..C-1, and the stored id behind each of them."""

    name: str
    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    stored_ids: tuple[int, ...]  # stored id of each train id
    ignored_ids: frozenset[int]  # stored ids that are legal and mean "ignore"
    categories: Mapping[str, tuple[int, ...]]  # category -> its train ids

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.colours) == len(self.stored_ids)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def _to_train(self) -> np.ndarray:
        table = np.full(256, _UNKNOWN, np.uint8)
        table[list(self.ignored_ids)] = IGNORE
        table[list(self.stored_ids)] = np.arange(self.num_classes, dtype=np.uint8)
        return table

    def to_train(self, stored: np.ndarray, where: str) -> np.ndarray:
        """Train ids of a label as the data set stores it.

        Args:
            stored: (H, W) integer ids; for Cityscapes these are labelIds.
            where: name of the label, for the message.
        Returns:
            (H, W) uint8 train ids, 255 = ignore.
        Raises:
            Reject: `label_out_of_range`, an id is outside the space.
        """
        if stored.size and (stored.min() < 0 or stored.max() > 255):
            found = stored[(stored < 0) | (stored > 255)].flat[0]
            raise self._outside(int(found), where)
        label: np.ndarray = self._to_train[stored]
        unknown = label == _UNKNOWN
        if unknown.any():
            raise self._outside(int(stored[unknown].flat[0]), where)
        return label

    def to_stored(self, mask: np.ndarray) -> np.ndarray:
        """Ids as the data set stores them, for a mask of train ids: (H, W) uint8 in and out; ignore stays 255."""
        table = np.full(256, IGNORE, np.uint8)
        table[: self.num_classes] = self.stored_ids
        stored: np.ndarray = table[mask]
        return stored

    def _outside(self, found: int, where: str) -> Reject:
        legal = sorted({*self.stored_ids, *self.ignored_ids})
        return Reject(
            "label",
            "label_out_of_range",
            f"{where}: label id {found} is outside {self.name}, whose stored ids are {_ranges(legal)}; "
            "re-encode the label, or choose the label space it was drawn in",
        )


def space(name: str) -> LabelSpace:
    """The label space of that name; UserError lists the known ones."""
    if name not in SPACES:
        raise UserError(f"label space '{name}' is unknown; choose one of {', '.join(SPACES)}")
    return SPACES[name]


def _ranges(ids: list[int]) -> str:
    """'0..11, 255' for [0, 1, ..., 11, 255]."""
    starts = [i for i in ids if i - 1 not in ids]
    ends = [i for i in ids if i + 1 not in ids]
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))


# Cityscapes, arXiv:1604.01685, table 1 and cityscapesscripts/helpers/labels.py: (name, labelId, colour, category).
_CITYSCAPES: tuple[tuple[str, int, Colour, str], ...] = (
    ("road", 7, (128, 64, 128), "flat"),
    ("sidewalk", 8, (244, 35, 232), "flat"),
    ("building", 11, (70, 70, 70), "construction"),
    ("wall", 12, (102, 102, 156), "construction"),
    ("fence", 13, (190, 153, 153), "construction"),
    ("pole", 17, (153, 153, 153), "object"),
    ("traffic light", 19, (250, 170, 30), "object"),
    ("traffic sign", 20, (220, 220, 0), "object"),
    ("vegetation", 21, (107, 142, 35), "nature"),
    ("terrain", 22, (152, 251, 152), "nature"),
    ("sky", 23, (70, 130, 180), "sky"),
    ("person", 24, (220, 20, 60), "human"),
    ("rider", 25, (255, 0, 0), "human"),
    ("car", 26, (0, 0, 142), "vehicle"),
    ("truck", 27, (0, 0, 70), "vehicle"),
    ("bus", 28, (0, 60, 100), "vehicle"),
    ("train", 31, (0, 80, 100), "vehicle"),
    ("motorcycle", 32, (0, 0, 230), "vehicle"),
    ("bicycle", 33, (119, 11, 32), "vehicle"),
)

# Pascal VOC: the 20 object classes in alphabetical order after the background.
_VOC = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def _voc_colour(index: int) -> Colour:
    """Colour of a VOC class: bits 0, 1, 2 of the id go to the high bits of red, green, blue, then bits 3, 4, 5, ..."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


# CamVid in the 11-class form of the SegNet tutorial (arXiv:1511.00561, table 3).
_CAMVID: tuple[tuple[str, Colour, str], ...] = (
    ("sky", (128, 128, 128), "sky"),
    ("building", (128, 0, 0), "construction"),
    ("pole", (192, 192, 128), "object"),
    ("road", (128, 64, 128), "flat"),
    ("pavement", (60, 40, 222), "flat"),
    ("tree", (128, 128, 0), "nature"),
    ("sign symbol", (192, 128, 128), "object"),
    ("fence", (64, 64, 128), "construction"),
    ("car", (64, 0, 128), "vehicle"),
    ("pedestrian", (64, 64, 0), "human"),
    ("bicyclist", (0, 128, 192), "human"),
)


def _group(categories: list[str]) -> dict[str, tuple[int, ...]]:
    return {c: tuple(i for i, other in enumerate(categories) if other == c) for c in dict.fromkeys(categories)}


SPACES: dict[str, LabelSpace] = {
    s.name: s
    for s in (
        LabelSpace(
            name="cityscapes19",
            classes=tuple(name for name, *_ in _CITYSCAPES),
            colours=tuple(colour for _, _, colour, _ in _CITYSCAPES),
            stored_ids=tuple(label_id for _, label_id, _, _ in _CITYSCAPES),
            # labelIds 0..33; licence plate is -1, which 8-bit files store as 255.
            ignored_ids=frozenset({*range(34), 255} - {label_id for _, label_id, _, _ in _CITYSCAPES}),
            categories=_group([category for *_, category in _CITYSCAPES]),
        ),
        LabelSpace(
            name="voc21",
            classes=tuple(_VOC),
            colours=tuple(_voc_colour(i) for i in range(21)),
            stored_ids=tuple(range(21)),
            ignored_ids=frozenset({255}),
            categories=_group(list(_VOC)),
        ),
        LabelSpace(
            name="camvid11",
            classes=tuple(name for name, *_ in _CAMVID),
            colours=tuple(colour for _, colour, _ in _CAMVID),
            stored_ids=tuple(range(11)),
            ignored_ids=frozenset({11, 255}),
            categories=_group([category for *_, category in _CAMVID]),
        ),
    )
}
