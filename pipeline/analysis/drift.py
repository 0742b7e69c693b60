"""What changed in the newest run against earlier ones, without labels: areas of classes, confidence, entropy, rejects.

The sampling unit is an image, or a group of similar images such as the frames of one drive. The usual variation from run to
run is taken into account; pipeline/metrics/change.py has the statistic. A run is called a night there and here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.analysis.intervals import MAX_IMAGES, num_rows
from pipeline.analysis.run_counts import RunCounts
from pipeline.analysis.sums import batches, over_parts, rows_at_once
from pipeline.errors import UserError, nearest
from pipeline.metrics.change import LEVEL, Ratios, changes, holm
from pipeline.metrics.metric import percent

MEANS = ("confidence", "entropy", "rejects")  # measures in addition to the areas of the classes
ALIKE = ("city", "sequence")  # as the default of `maskmill next`
LAST = 7
LEAST = 0.1
CHANGED, SMALL, NOISE, UNKNOWN = "changed", "small", "within noise", "unknown"
_NAMES = {"unit", "images", "pixels", "has confidence", "has entropy", "rejects", "measure", "class", "before", "after",
          "change", "low", "high", "p", "verdict"}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """The settings of a comparison.

    Args:
        last: the newest run is compared with at most this many runs before it.
        by: group columns; each group is compared with the same group in the earlier runs.
        alike: columns whose values together say which images are similar; an image without a value in the last is its own unit.
        least: a change below this fraction of the earlier value (for confidence, of its distance to 1) does not count, however
            certain.
    """

    last: int = LAST
    by: tuple[str, ...] = ()
    alike: tuple[str, ...] = ALIKE
    least: float = LEAST

    def check(self, groups: Sequence[str]) -> None:
        """Raise UserError if the settings do not suit runs with these group columns."""
        if self.last < 1:
            raise UserError(f"drift: cannot compare with the last {self.last} runs; give 1 or more")
        if not self.least >= 0:
            raise UserError(f"drift: the least change is {self.least}; give a fraction of the earlier value, 0 or more")
        for name in (*self.by, *self.alike):
            if name not in groups:
                known = f"the group columns are {', '.join(groups)}{nearest(name, groups)}"
                raise UserError(f"cannot group by '{name}'; {known}")
        for name in self.by:
            if name in _NAMES:
                raise UserError(f"drift cannot group by '{name}': its table has a column of that name")


@dataclass(frozen=True, repr=False)
class Drift:
    """The result of a comparison.

    table: one row per group, measure and class: the group columns, `measure` (`area`, `confidence`, `entropy`, `rejects`),
        `class` (of an area), `before`, `after`, `change`, `low`, `high` (its 95 % interval), `p` (adjusted for all comparisons
        of the table) and `verdict`: `changed`, `small` (certain, but below `least`), `within noise`, or `unknown` if there are
        too few units to tell.
    nights: one row per run, measure and class, over the whole run, with the interval of that run alone: `run`, `measure`,
        `class`, `value`, `low`, `high`.
    units: number of sampling units of each run.
    only_newest, only_earlier: names of the groups that only the newest run, or only earlier runs have.
    """

    table: pd.DataFrame
    nights: pd.DataFrame
    newest: str
    earlier: tuple[str, ...]
    units: dict[str, int]
    asked: Asked
    only_newest: tuple[str, ...]
    only_earlier: tuple[str, ...]

    @property
    def comparisons(self) -> int:
        """Number of comparisons that were tested together."""
        return int((self.table["verdict"] != UNKNOWN).sum())

    @property
    def changed(self) -> pd.DataFrame:
        """The rows of the table whose verdict is `changed`."""
        return self.table[self.table["verdict"] == CHANGED]

    def __repr__(self) -> str:
        return "\n".join([f"{self.newest} against {', '.join(self.earlier)}: {self.summary()}", *self.sentences()])

    def summary(self) -> str:
        """Return `3 of 14 changed`, and how many more comparisons had too few units."""
        unknown = int((self.table["verdict"] == UNKNOWN).sum())
        more = f"; {unknown} more had too few images to tell" if unknown else ""
        return f"{len(self.changed)} of {self.comparisons} changed{more}"

    def sentences(self) -> list[str]:
        """Return a line per change, such as `road 31.20 % -> 24.80 % (95 % interval of the change -7.90 to -4.90)`."""
        return [sentence(row, self.asked.by) for row in self.changed.to_dict("records")]


def sentence(row: Mapping[str, Any], by: Sequence[str]) -> str:
    """Describe a row of a drift's table in words."""
    group = f"{group_name([row[name] for name in by])}: " if by else ""
    name, before, after, _, interval, *_ = cells(row)
    unit = " nats" if row["measure"] == "entropy" else " %"
    return f"{group}{name} {before}{unit} -> {after}{unit} (95 % interval of the change {interval})"


def cells(row: Mapping[str, Any]) -> list[str]:
    """Format a row of a drift's table for people: its name, before, after, change, interval, p and verdict."""

    def show(name: str, sign: str = "") -> str:
        value = float(row[name])
        if row["measure"] != "entropy":
            return str(percent(value, sign=sign))
        return "–" if math.isnan(value) else f"{value:{sign}.3f}"

    name = row["class"] if row["measure"] == "area" else row["measure"]
    interval = f"{show('low', '+')} to {show('high', '+')}"
    p = "–" if math.isnan(row["p"]) else "<0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"
    return [name, show("before"), show("after"), show("change", "+"), interval, p, row["verdict"]]


def find_drift(names: Sequence[str], members: Sequence[RunCounts], asked: Asked) -> Drift:
    """See `RunsView.drift`.

    Args:
        names: names of the members, oldest first.
    """
    names, members = names[-asked.last - 1 :], members[-asked.last - 1 :]
    if len(members) < 2:
        raise UserError("drift compares a run with earlier ones: name two runs or more, the oldest first")
    classes = members[-1].space.classes
    units = [_units(member, asked) for member in members]
    frames, keys = [], [_keys(one, asked.by) for one in units]
    for key in sorted(keys[-1], key=_order):
        earlier = [
            _ratios(one, asked.by, key, len(classes)) for one, has in zip(units, keys, strict=True) if key in has
        ]
        if len(earlier) > 1:
            frames.append(_rows(earlier, classes, dict(zip(asked.by, key, strict=True))))
    table = pd.concat(frames, ignore_index=True) if frames else _rows([], classes, dict.fromkeys(asked.by))
    before = set().union(*keys[:-1])
    return Drift(
        _judged(table, asked.least),
        _nights(names, [_ratios(one, (), (), len(classes)) for one in units], classes),
        names[-1],
        tuple(names[:-1]),
        {name: len(one[["unit"]].drop_duplicates()) for name, one in zip(names, units, strict=True)},
        asked,
        tuple(group_name(key) for key in sorted(keys[-1] - before, key=_order)),
        tuple(group_name(key) for key in sorted(before - keys[-1], key=_order)),
    )


def group_name(key: Sequence[object]) -> str:
    return " / ".join("none" if value is None else str(value) for value in key)


def _order(key: tuple[object, ...]) -> list[tuple[bool, str, object]]:
    return [(value is None, type(value).__name__, value) for value in key]


def _units(view: RunCounts, asked: Asked) -> pd.DataFrame:
    """Return one row per group and unit: the groups, `unit`, and the sums that `_sums` names."""
    bundled = num_rows(view) > MAX_IMAGES
    cells = view.cells("pixels")
    columns = list(dict.fromkeys(["image_id", *asked.by, *asked.alike]))

    def ask(uris: list[str]) -> pd.DataFrame:
        frames = [
            _folded(_measured(batch, columns, asked, bundled, cells), asked.by)
            for batch in batches(uris, [*columns, "confidence", "entropy", "pixels"], rows_at_once(cells))
            if batch.num_rows
        ]
        return pd.concat(frames, ignore_index=True) if frames else empty

    empty = pd.DataFrame(
        {name: pd.Series(dtype=object) for name in (*asked.by, "unit")} | dict.fromkeys(_sums(cells), 0.0)
    )
    frames = over_parts(view.parts("masks"), ask)
    rejected = _rejected(view, columns, asked, bundled)
    found = pd.concat([*frames, *([rejected] if rejected is not None else [])], ignore_index=True)
    return _folded(found.fillna(dict.fromkeys(_sums(cells), 0.0)), asked.by)


def _folded(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    return frame.groupby([*by, "unit"], dropna=False, sort=False, observed=True).sum().reset_index()


def _measured(batch: pa.RecordBatch, columns: Sequence[str], asked: Asked, bundled: bool, cells: int) -> pd.DataFrame:
    """Return one row per image."""
    frame = _with_units(pa.Table.from_batches([batch]).select(list(columns)), asked, bundled)
    for name in ("confidence", "entropy"):
        values = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
        frame[name], frame[f"has {name}"] = np.nan_to_num(values), (~np.isnan(values)).astype(np.float64)
    pixels = batch.column("pixels").flatten().to_numpy(zero_copy_only=False).reshape(-1, cells)
    counted = pd.DataFrame(pixels.astype(np.float64), index=frame.index)
    return pd.concat([frame.assign(images=1.0, rejects=0.0, pixels=counted.sum(axis=1)), counted], axis=1)


def _rejected(view: RunCounts, columns: Sequence[str], asked: Asked, bundled: bool) -> pd.DataFrame | None:
    """Return one row per rejected image, with its groups from the plan; None if there is none."""
    ids = view.rejects()["image_id"].tolist()
    if not ids:
        return None
    rows = view.plan().rows_of(ids)
    return _with_units(rows.select(list(columns)), asked, bundled).assign(images=1.0, rejects=1.0)


def _with_units(table: pa.Table, asked: Asked, bundled: bool) -> pd.DataFrame:
    """Return each row's groups and the number of its unit; `bundled`: units are hashed into MAX_IMAGES bundles."""
    units = units_of(table, asked)
    groups = {name: pd.Series(table[name].to_pylist(), dtype=object) for name in asked.by}
    return pd.DataFrame({**groups, "unit": units % np.uint64(MAX_IMAGES) if bundled else units})


def units_of(table: pa.Table, asked: Asked) -> np.ndarray:
    """Return (rows,) uint64, equal for similar images; an image without a value in the last column is its own unit."""
    frame = table.select(list(dict.fromkeys(["image_id", *asked.alike]))).to_pandas(integer_object_nulls=True)
    units = _hashes(frame[["image_id"]])
    if asked.alike:
        units = np.where(frame[asked.alike[-1]].isna(), units, _hashes(frame[list(asked.alike)]))
    return units


def _hashes(frame: pd.DataFrame) -> np.ndarray:
    texts = frame.astype(object).astype(str)
    return pd.util.hash_pandas_object(texts, index=False).to_numpy(np.uint64)


def _keys(units: pd.DataFrame, by: Sequence[str]) -> set[tuple[object, ...]]:
    rows = units[list(by)].drop_duplicates().itertuples(index=False, name=None) if by else [()]
    return {tuple(None if pd.isna(value) else value for value in row) for row in rows}


def _ratios(units: pd.DataFrame, by: Sequence[str], key: Sequence[object], num_classes: int) -> Ratios:
    """Return the measures of a group: the areas of the classes, then MEANS."""
    for name, value in zip(by, key, strict=True):
        units = units[units[name].isna() if value is None else units[name] == value]
    sums = units.groupby("unit")[_sums(num_classes)].sum()
    above = sums[[*range(num_classes), *MEANS]].to_numpy(np.float64)
    below = sums[["pixels"] * num_classes + ["has confidence", "has entropy", "images"]].to_numpy(np.float64)
    return Ratios.of(above, below)


def _sums(num_classes: int) -> list[str | int]:
    """Name the summed columns of a unit: pixels of each class, MEANS, all pixels, and the images that have each of MEANS."""
    return [*range(num_classes), *MEANS, "pixels", "has confidence", "has entropy", "images"]


def _measures(classes: Sequence[str]) -> pd.DataFrame:
    names = ["area"] * len(classes) + list(MEANS)
    return pd.DataFrame({"measure": names, "class": pd.Series([*classes, *[None] * len(MEANS)], dtype=object)})


def _rows(nights: Sequence[Ratios], classes: Sequence[str], group: "dict[str, object]") -> pd.DataFrame:
    """Return the rows of one group, without verdicts; classes that are in no run are left out."""
    table = _measures(classes)
    for place, (name, value) in enumerate(group.items()):
        table.insert(place, name, pd.Series([value] * len(table), dtype=object))
    if not nights:
        return table[:0].assign(before=0.0, after=0.0, change=0.0, low=0.0, high=0.0, p=0.0)
    found = changes(nights[-1], nights[:-1])
    table = table.assign(
        before=found.before, after=nights[-1].value, change=found.change, low=found.low, high=found.high, p=found.p
    )
    absent = (table["measure"] == "area") & ~((table["before"] > 0) | (table["after"] > 0))
    return table[~absent & table["change"].notna()]


def _judged(table: pd.DataFrame, least: float) -> pd.DataFrame:
    """Adjust `p` for all rows together, and add the verdict."""
    p = holm(table["p"].to_numpy(np.float64))
    scale = table["before"].where(table["measure"] != "confidence", 1 - table["before"])
    large = table["change"].abs() >= least * scale
    sure = np.where(large, CHANGED, SMALL)
    verdict = np.where(np.isnan(p), UNKNOWN, np.where(p < 1 - LEVEL, sure, NOISE))
    return table.assign(p=p, verdict=verdict)


def _nights(names: Sequence[str], ratios: Sequence[Ratios], classes: Sequence[str]) -> pd.DataFrame:
    frames = []
    for name, night in zip(names, ratios, strict=True):
        low, high = night.interval()
        top = np.array([np.inf if measure == "entropy" else 1.0 for measure in _measures(classes)["measure"]])
        ends = {"low": np.maximum(low, 0), "high": np.minimum(high, top)}  # a share is at most 1
        frames.append(_measures(classes).assign(run=name, value=night.value, **ends))
    table = pd.concat(frames, ignore_index=True)
    return table[["run", "measure", "class", "value", "low", "high"]]
