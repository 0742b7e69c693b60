"""What a metric is: it counts single images, turns summed counts into scores, and says how scores are shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.labels import LabelSpace


@dataclass(frozen=True)
class LabelledImage:
    """One image to count: (H, W) each; what no metric of the run needs is None."""

    space: LabelSpace
    label: np.ndarray  # uint8 train ids, 255 = ignore
    mask: np.ndarray  # uint8 train ids
    raw: np.ndarray | None = None  # the mask before the CRF
    instances: np.ndarray | None = None  # instanceIds
    confidence: np.ndarray | None = None  # float32, the probability of the predicted class


@dataclass(frozen=True)
class Card:
    """A number at the top of the report; `id` is its anchor, as that of a section."""

    id: str
    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """What the report shows of a metric: cards at its top, and under a title a table, a picture, or both."""

    cards: tuple[Card, ...] = ()
    id: str = ""
    title: str = ""  # "" = cards alone
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()  # the first cell of a row is its name
    picture: str = ""  # inline SVG: charts.py
    note: str = ""  # a sentence on how to read it


class Metric:
    """Counts of their own columns in the mask rows of a run whose config asks for them; a new metric is a subclass in its
    own file, and its object in `registry.METRICS`."""

    key: ClassVar[str]  # of config section `metrics`; a false value there = not counted
    declaration: ClassVar[tuple[Any, Any]]  # type and default of that key, for pydantic
    doc: ClassVar[str]  # what the key means; begins with its unit in brackets where it has one
    columns: ClassVar[tuple[str, ...]]  # list columns of int64; the second, where there is one, is from before the CRF
    needs: ClassVar[frozenset[str]] = frozenset()  # `instances`, `confidence` of LabelledImage
    in_every_part: ClassVar[bool] = (
        False  # whether the columns are in parts, as nulls, even where nobody asked for them
    )

    def check(self, space: LabelSpace) -> None:
        """UserError if the label space has no such metric: asked before a cluster starts."""

    def metadata(self, setting: Any) -> dict[str, str] | None:
        """What explains the columns, as metadata of their fields; None = nothing."""
        return None

    def cells(self, setting: Any, num_classes: int) -> int:
        """Numbers in one row of a column."""
        raise NotImplementedError

    def count(self, image: LabelledImage, setting: Any) -> Mapping[str, np.ndarray]:
        """Column -> int64 counts of one image, of any shape with that many cells; a column left out is null."""
        raise NotImplementedError

    def scores(self, summed: Callable[[str], np.ndarray], setting: Any, space: LabelSpace, raw: bool = False) -> Any:
        """Scores of summed counts.

        Args:
            summed: count column of the run, `confusion` among them -> its flat int64 sums.
            raw: those from before the CRF.
        """
        raise NotImplementedError

    def headline(self, scores: Any) -> Mapping[str, float]:
        """Name -> share of 1: rows of the terminal's headline."""
        return {}

    def section(self, scores: Any, raw: Any | None, space: LabelSpace) -> Section:
        """What the report shows.

        Args:
            raw: the scores from before the CRF, where the run has one and the metric counts them.
        """
        return Section()


def percent(value: float | None, sign: str = "") -> str:
    """A share of 1 in percent, two digits; a dash where there is none."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:{sign}.2f}"


def points(value: float) -> str:
    """A difference of two shares in percentage points, signed."""
    return percent(value, "+").replace("-", "\u2212")
