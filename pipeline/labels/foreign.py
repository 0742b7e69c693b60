"""Label values that the label space lacks: which ones, on how many pixels, in which files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import Reject

SHOWN = 5  # most values, and most files per value, that one message lists
_MANY = 300  # more colours than this come from compression or scaling, not from an annotator


class Outside(Reject):
    """A label holds values that its space lacks."""

    def __init__(self, message: str, found: Mapping[str, int], stage: str = "label") -> None:
        super().__init__(stage, "label_out_of_range", message)
        self.found = found  # value as text -> pixels

    def __reduce__(self):  # type: ignore[no-untyped-def]  # its arguments differ from a Reject's
        return type(self), (str(self), self.found, self.stage)

    def at(self, stage: str) -> "Outside":
        return Outside(str(self), self.found, stage)

    @classmethod
    def of(
        cls, where: str, space: str, kind: str, counts: Mapping[int, int], legal: Sequence[int], num_colours: int
    ) -> "Outside":
        """Build the reject of one label.

        Args:
            kind: `id` or `colour`.
            counts: stored id, or colour as the number RRGGBB -> pixels.
            legal: the ids of the space.
        """
        if kind == "colour":
            counts = Counter({_colour(number): pixels for number, pixels in counts.items()})  # type: ignore[misc]
            meant = f"whose label pictures have {num_colours} colours"
            advice = "add it to a class's stored_colours or to ignore_colours, or re-encode the label"
            if len(counts) > _MANY:
                advice = "so many colours come from JPEG or from smooth scaling: store the label as PNG, unscaled"
        else:
            meant = f"whose stored ids are {ranges(legal)}" if legal else "whose label pictures hold colours, not ids"
            advice = "re-encode the label, or choose the label space it was drawn in"
        found = {str(value): pixels for value, pixels in counts.items()}
        first, pixels = next(iter(found.items()))
        more = f"found {_list(found)}; " if len(found) > 1 else f"it is on {_pixels(pixels)}; "
        return cls(f"{where}: label {kind} {first} is outside {space}, {meant}; {more}{advice}", found)


@dataclass
class ForeignValues:
    """Values that the label space lacks, collected over the labels of a corpus."""

    pixels: Counter[str] = field(default_factory=Counter)  # value -> pixels
    files: dict[str, list[str]] = field(default_factory=dict)  # value -> the images whose labels have it

    def add(self, image_id: str, found: Mapping[str, int]) -> None:
        """Add the values that were found in the label of one image."""
        for value, pixels in found.items():
            self.pixels[value] += pixels
            self.files.setdefault(value, []).append(image_id)

    def update(self, other: "ForeignValues") -> None:
        self.pixels.update(other.pixels)
        for value, ids in other.files.items():
            self.files.setdefault(value, []).extend(ids)

    def sentence(self, space: str) -> str:
        """Describe the most frequent values, with their pixels and files."""
        shown = self.pixels.most_common(SHOWN)
        words = [f"{value} on {_pixels(pixels)} in {_files(self.files[value])}" for value, pixels in shown]
        if (more := len(self.pixels) - len(shown)) > 0:
            words.append(f"and {more} more values")
        return (
            f"labels hold values that label space {space} lacks: {'; '.join(words)}; add them to the label space, to the "
            "values of a class or to those it ignores, or re-encode the labels"
        )


def ranges(ids: Sequence[int]) -> str:
    """Format ids as ranges: '0..11, 255' for [0, 1, ..., 11, 255]."""
    known = set(ids)
    starts, ends = ([i for i in ids if i + step not in known] for step in (-1, 1))
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))


def _list(found: Mapping[str, int]) -> str:
    shown = [f"{value} on {_pixels(pixels)}" for value, pixels in list(found.items())[:SHOWN]]
    more = len(found) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _pixels(number: int) -> str:
    return f"{number} pixel{'' if number == 1 else 's'}"


def _files(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
    return f"{len(ids)} file{'' if len(ids) == 1 else 's'} ({shown})"


def _colour(number: int) -> str:
    return str((number >> 16, number >> 8 & 255, number & 255))
