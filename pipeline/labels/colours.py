"""Choose colours for classes that have none."""

from collections.abc import Sequence

from pipeline.labels.label_space import Colour


def with_fresh(colours: Sequence[Colour | None]) -> list[Colour]:
    """Fill in the missing colours, each with the first of VOC's colours that no class has yet."""
    taken = {colour for colour in colours if colour is not None}
    fresh = (colour for colour in map(_voc_colour, range(1 << 24)) if colour not in taken)
    return [next(fresh) if colour is None else colour for colour in colours]


def _voc_colour(index: int) -> Colour:
    """Return VOC's colour for an index: its bits 0, 1, 2 go to the high bits of red, green, blue, then bits 3, 4, 5, ...

    Source: The PASCAL VOC development kit, VOClabelcolormap.m.
    """
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
