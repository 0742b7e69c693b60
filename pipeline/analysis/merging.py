"""Merge classes of a run by summing its counts, which stay exact integers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.analysis.derived import Columns, Derived, confusion_columns, derive
from pipeline.analysis.run_counts import RunCounts
from pipeline.analysis.sums import rows_at_once
from pipeline.errors import UserError, nearest
from pipeline.labels import LabelSpace
from pipeline.runs import Part


@dataclass(frozen=True)
class Merging:
    """A coarser label space, and the index of its class that each original class becomes."""

    space: LabelSpace
    becomes: tuple[int, ...]

    @classmethod
    def of(cls, space: LabelSpace, groups: Mapping[str, Sequence[str]]) -> "Merging":
        """Merge each group into one class, with the place and the colour of its first member.

        Raises:
            UserError: a group has an unknown class, no class, a class of another group, or the name of a class outside it.
        """
        group_of = _group_of(space, groups)
        names = [group_of.get(name, name) for name in space.classes]
        merged = list(dict.fromkeys(names))
        for name in merged:
            if name in groups and name in space.classes and name not in groups[name]:
                raise UserError(
                    f"merge {name}: there is a class '{name}' that is not merged; give the group another name"
                )
        first = {name: names.index(name) for name in reversed(merged)}
        members = {name: [index for index, other in enumerate(names) if other == name] for name in merged}
        return cls(_merged_space(space, merged, first, members), tuple(merged.index(name) for name in names))

    def matrix(self) -> np.ndarray:
        """Return (C, K) int64: 1 where a class becomes that merged class."""
        matrix = np.zeros((len(self.becomes), self.space.num_classes), np.int64)
        matrix[np.arange(len(self.becomes)), self.becomes] = 1
        return matrix


def merged_counts(view: RunCounts, merging: Merging) -> Derived:
    """Write the run's counts with classes merged."""
    rows, size = merging.matrix(), len(merging.becomes)
    columns = rows
    if view.unmapped:  # keep the extra last column
        columns = np.zeros((size + 1, rows.shape[1] + 1), np.int64)
        columns[:size, :-1], columns[size, -1] = rows, 1

    def fold(values: object) -> np.ndarray | None:
        return None if values is None else rows.T @ np.asarray(values, np.int64).reshape(size, -1) @ columns

    def recount(part: Part, batch: pa.RecordBatch) -> Columns:
        found = {name: [fold(row) for row in _lists(batch, name)] for name in ("confusion", "confusion_raw")}
        return {
            **confusion_columns(found["confusion"]),
            "confusion_raw": [None if matrix is None else matrix.ravel() for matrix in found["confusion_raw"]],
            "pixels": [np.asarray(row, np.int64) @ rows for row in _lists(batch, "pixels")],
        }

    return derive(
        view,
        ["pixels", "confusion", "confusion_raw"],
        recount,
        merging.space.num_classes,
        rows=rows_at_once(2 * size * (size + 1)),
    )


def _lists(batch: pa.RecordBatch, name: str) -> list[object]:
    return [value.values.to_numpy(zero_copy_only=False) if value.is_valid else None for value in batch.column(name)]


def parse_merges(texts: Sequence[str]) -> dict[str, list[str]]:
    """Parse the options of a command line, such as `vehicle=car+truck+bus`."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, separator, members = text.partition("=")
        if not separator or not name.strip() or not members.strip():
            raise UserError(f"--merge {text}: expected NAME=CLASS+CLASS, e.g. vehicle=car+truck+bus")
        if name.strip() in groups:
            raise UserError(f"--merge {text}: '{name.strip()}' is given twice; give all of its classes at once")
        groups[name.strip()] = [member.strip() for member in members.split("+")]
    return groups


def _group_of(space: LabelSpace, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    group_of: dict[str, str] = {}
    for name, members in groups.items():
        if not members:
            raise UserError(f"merge {name}: it has no class; name those that it is made of")
        for member in members:
            if member not in space.classes:
                raise UserError(
                    f"merge {name}: '{member}' is not a class of {space.name}: {', '.join(space.classes)}"
                    f"{nearest(member, space.classes)}"
                )
            if member in group_of:
                raise UserError(
                    f"merge {name}: '{member}' is in '{group_of[member]}' too; a class goes into one group, once"
                )
            group_of[member] = name
    return group_of


def _merged_space(
    space: LabelSpace, merged: list[str], first: Mapping[str, int], members: Mapping[str, list[int]]
) -> LabelSpace:
    category_of = {index: name for name, indices in space.categories.items() for index in indices}
    categories: dict[str, tuple[int, ...]] = {}
    if all(len(indices) == 1 for indices in space.categories.values()):
        categories = {name: (index,) for index, name in enumerate(merged)}
    else:
        for index, name in enumerate(merged):
            category = category_of.get(first[name])
            if category is not None:
                categories[category] = (*categories.get(category, ()), index)
    return LabelSpace(
        name=f"{space.name}, merged",
        classes=tuple(merged),
        colours=tuple(space.colours[first[name]] for name in merged),
        values=tuple(tuple(value for index in members[name] for value in space.values[index]) for name in merged),
        stored_colours=tuple(
            tuple(c for index in members[name] for c in space.stored_colours[index]) for name in merged
        ),
        ignored_ids=space.ignored_ids,
        ignored_colours=space.ignored_colours,
        categories=categories,
    )
