"""Names and colours of the train ids 0..C-1, and the stored ids and colours that stand for each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.labels.foreign import Outside

IGNORE = 255  # train id of pixels that training and metrics leave out
_UNKNOWN = 254  # never a train id: marks stored values that a space does not define
MAX_CLASSES = _UNKNOWN  # train ids are bytes
MAX_VALUE = 65535  # largest id in a label picture: PNG has up to 16 bits

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of the train ids, and what label pictures hold for each: ids, colours, or either."""

    name: str
    classes: tuple[str, ...]
    colours: tuple[Colour, ...]  # in which the classes are shown
    values: tuple[tuple[int, ...], ...]  # stored ids of each class; all empty if label pictures hold only colours
    stored_colours: tuple[tuple[Colour, ...], ...]  # RGB of each class in label pictures
    ignored_ids: frozenset[int]  # stored ids that are legal and mean "ignore"
    ignored_colours: frozenset[Colour]
    categories: Mapping[str, tuple[int, ...]]  # category -> its train ids

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.colours) == len(self.values) == len(self.stored_colours) <= MAX_CLASSES

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: self.__dict__[field.name] for field in fields(self)}  # without the cached lookup tables

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def stored_ids(self) -> tuple[int, ...]:
        """The id that `to_stored` writes for each class: its first value, or its train id if it has none."""
        return tuple(values[0] if values else index for index, values in enumerate(self.values))

    @property
    def has_ids(self) -> bool:
        """Whether label pictures may hold ids."""
        return any(self.values)

    @property
    def has_colours(self) -> bool:
        """Whether label pictures may hold colours."""
        return any(self.stored_colours)

    @cached_property
    def _of_id(self) -> np.ndarray:
        """(65536,) uint8: train id of each stored id."""
        table = np.full(MAX_VALUE + 1, _UNKNOWN, np.uint8)
        table[list(self.ignored_ids)] = IGNORE
        for index, values in enumerate(self.values):
            table[list(values)] = index
        return table

    @cached_property
    def _of_colour(self) -> np.ndarray:
        """(2^24,) uint8: train id of each colour, as the number RRGGBB."""
        table = np.full(1 << 24, _UNKNOWN, np.uint8)
        table[[_number(colour) for colour in self.ignored_colours]] = IGNORE
        for index, colours in enumerate(self.stored_colours):
            table[[_number(colour) for colour in colours]] = index
        return table

    def to_train(self, stored: np.ndarray, where: str) -> np.ndarray:
        """Convert a label from the ids or colours that the data set stores to train ids.

        Args:
            stored: (H, W) integer ids (for Cityscapes these are labelIds), or (H, W, 3) uint8 colours.
            where: name of the label, for error messages.
        Returns:
            (H, W) uint8 train ids, 255 = ignore.
        Raises:
            Outside: ids or colours are not in the space (`label_out_of_range`); it lists them with their pixels.
        """
        if stored.ndim == 3:
            numbers = stored[..., 0].astype(np.int32) << 16 | stored[..., 1].astype(np.int32) << 8 | stored[..., 2]
            return self._known(self._of_colour, numbers, where, "colour")
        if stored.dtype != np.uint8 and stored.size and (stored.min() < 0 or stored.max() > MAX_VALUE):
            raise self._outside(stored[(stored < 0) | (stored > MAX_VALUE)], where, "id")
        return self._known(self._of_id, stored, where, "id")

    def to_stored(self, mask: np.ndarray) -> np.ndarray:
        """Convert a mask (H, W) uint8 of train ids to the ids that the data set stores; ignore stays 255.

        Returns:
            (H, W) uint8, or uint16 where the space has ids over 255.
        """
        table = np.full(256, IGNORE, np.uint8 if max(self.stored_ids) <= 255 else np.uint16)
        table[: self.num_classes] = self.stored_ids
        stored: np.ndarray = table[mask]
        return stored

    def to_section(self) -> dict[str, Any]:
        """Return the whole space as plain JSON, which `from_section` reads."""
        classes: list[dict[str, Any]] = [
            {"name": name, "colour": list(colour), "values": list(values), "stored_colours": [list(c) for c in stored]}
            for name, colour, values, stored in zip(
                self.classes, self.colours, self.values, self.stored_colours, strict=True
            )
        ]
        return {
            "name": self.name,
            "classes": classes,
            "ignore_values": sorted(self.ignored_ids),
            "ignore_colours": [list(colour) for colour in sorted(self.ignored_colours)],
            **({"equal_colours": True} if len(set(self.colours)) < self.num_classes else {}),
            "categories": {name: [self.classes[index] for index in ids] for name, ids in self.categories.items()},
        }

    def _known(self, table: np.ndarray, stored: np.ndarray, where: str, kind: str) -> np.ndarray:
        label: np.ndarray = table[stored]
        unknown = label == _UNKNOWN
        if unknown.any():
            raise self._outside(stored[unknown], where, kind)
        return label

    def _outside(self, found: np.ndarray, where: str, kind: str) -> Outside:
        values, pixels = np.unique(found, return_counts=True)
        counts = dict(zip(values.tolist(), pixels.tolist(), strict=True))
        legal = sorted({*self.ignored_ids, *(value for values in self.values for value in values)})
        return Outside.of(where, self.name, kind, counts, legal, sum(map(len, self.stored_colours)))


def _number(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue
