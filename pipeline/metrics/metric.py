"""The interface of a metric: count single images, compute scores from summed counts, and say how scores are shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.labels import LabelSpace


@dataclass(frozen=True)
class LabelledImage:
    """One image to count: (H, W) arrays, None if no metric of the run needs them."""

    space: LabelSpace
    label: np.ndarray  # uint8 train ids, 255 = ignore
    mask: np.ndarray  # uint8 train ids
    raw: np.ndarray | None = None  # the mask before the CRF
    instances: np.ndarray | None = None  # instanceIds
    confidence: np.ndarray | None = None  # float32, the probability of the predicted class


@dataclass(frozen=True)
class Card:
    """A number at the top of the report; `id` is its HTML anchor, as for a section."""

    id: str
    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """What the report shows of a metric: cards at the top of the page, and under a title a table, a picture, or both."""

    cards: tuple[Card, ...] = ()
    id: str = ""
    title: str = ""  # "" = cards alone
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()  # the first cell of a row is its name
    picture: str = ""  # inline SVG: charts.py
    note: str = ""  # a sentence on how to read it


class Metric:
    """A metric with count columns of its own in the mask rows of runs whose config asks for it. To add one, write a subclass
    in a file of its own, and add an instance to `registry.METRICS`."""

    key: ClassVar[str]  # in the config section `metrics`; a false value there = not counted
    declaration: ClassVar[tuple[Any, Any]]  # type and default of that key, for pydantic
    doc: ClassVar[str]  # what the key means; begins with its unit in brackets where it has one
    columns: ClassVar[tuple[str, ...]]  # list columns of int64; the second, if there is one, is from before the CRF
    needs: ClassVar[frozenset[str]] = frozenset()  # which of `instances`, `confidence` of LabelledImage
    in_every_part: ClassVar[bool] = False  # whether parts have the columns, as nulls, even if the metric is off

    def check(self, space: LabelSpace) -> None:
        """Raise UserError if the metric does not support the label space; called before a cluster starts."""

    def metadata(self, setting: Any) -> dict[str, str] | None:
        """Return what explains the columns, as metadata of their Arrow fields; None = nothing."""
        return None

    def cells(self, setting: Any, num_classes: int) -> int:
        """Return how many numbers one row of a column holds."""
        raise NotImplementedError

    def count(self, image: LabelledImage, setting: Any) -> Mapping[str, np.ndarray]:
        """Return column -> int64 counts of one image, of any shape with `cells` numbers; a column that is left out is null."""
        raise NotImplementedError

    def scores(self, summed: Callable[[str], np.ndarray], setting: Any, space: LabelSpace, raw: bool = False) -> Any:
        """Compute the scores from summed counts.

        Args:
            summed: returns the flat int64 sums of a count column of the run, also of `confusion`.
            raw: use the counts from before the CRF.
        """
        raise NotImplementedError

    def headline(self, scores: Any) -> Mapping[str, float]:
        """Return name -> fraction of 1, for rows of the headline table in the terminal."""
        return {}

    def section(self, scores: Any, raw: Any | None, space: LabelSpace) -> Section:
        """Return what the report shows.

        Args:
            raw: the scores from before the CRF, if the run has one and the metric counts them.
        """
        return Section()


def percent(value: float | None, sign: str = "") -> str:
    """Format a fraction of 1 in percent with two digits; a dash if there is none."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:{sign}.2f}"


def points(value: float) -> str:
    """Format a difference of two fractions in percentage points, with its sign."""
    return percent(value, "+").replace("-", "\u2212")
