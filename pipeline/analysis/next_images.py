"""Choose images of a run to label next: those that the network is least sure of, with few similar ones among them."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.run_counts import RunCounts
from pipeline.analysis.sums import batches, over_parts
from pipeline.errors import UserError, nearest
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE

WAYS = ("entropy", "confidence", "disagreement")
CANDIDATES = 10_000  # the least certain images, from which some are chosen; at least ten per image asked for
_MASK_ROWS = 64  # rows with masks in memory at a time

Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which images to choose.

    Args:
        n: most images to choose.
        by: the highest mean `entropy`, the lowest mean `confidence`, or the highest `disagreement` with another run.
        groups: columns whose values together say which images are similar, such as the frames of one drive.
        labelled: also choose images that have labelled pixels already.
        skip: image ids to leave out.
    """

    n: int
    by: str = "entropy"
    groups: tuple[str, ...] = ("city", "sequence")
    labelled: bool = False
    skip: Collection[str] = ()


def choose_next(view: RunCounts, wanted: Wanted, beside: RunCounts | None = None) -> pd.DataFrame:
    """Return one row per image, least certain first: `image_id`, the groups, and the score that it was chosen by.

    The first choice is the least certain image; each further one has the largest product of its uncertainty and its distance
    from the nearest chosen image: farthest first (Sener & Savarese 2018, arXiv:1708.00489, algorithm 1), weighted by
    uncertainty as in information density (Settles & Craven 2008, section 3.4). The uncertainty is the entropy, 1 - confidence
    or the disagreement; the distance is half the sum of absolute differences between the classes' shares of the two masks.
    No group gets more than twice an equal share, unless the other groups have too few images; an image without a value in the
    last group column is a group of its own.

    Raises:
        UserError: the settings do not fit the runs, or no image is left to choose.
    """
    _check(view, wanted, beside)
    table = _scores(view, wanted, beside)
    found = _left(view, table, wanted)
    candidates = found.head(max(CANDIDATES, 10 * wanted.n))
    uncertainty = candidates[wanted.by].to_numpy(np.float64)
    chosen = _spread(
        1 - uncertainty if wanted.by == "confidence" else uncertainty,
        _shares(view, candidates["image_id"].tolist()),
        candidates["_group"].to_numpy(),
        wanted.n,
    )
    return candidates.iloc[sorted(chosen)].drop(columns=["_group", "miou"]).reset_index(drop=True)


def _check(view: RunCounts, wanted: Wanted, beside: RunCounts | None) -> None:
    if wanted.by not in WAYS:
        raise UserError(
            f"cannot choose images by '{wanted.by}'; choose one of {', '.join(WAYS)}{nearest(wanted.by, WAYS)}"
        )
    if wanted.n < 1:
        raise UserError(f"cannot choose {wanted.n} images; ask for at least one")
    if (wanted.by == "disagreement") != (beside is not None):
        raise UserError("--by disagreement compares two runs: give both it and --beside RUN, or neither")
    for name in wanted.groups:
        if name not in view.groups:
            known = f"the group columns are {', '.join(view.groups)}{nearest(name, view.groups)}"
            raise UserError(f"cannot group by '{name}'; {known}")
    if beside is not None and beside.space.classes != view.space.classes:
        raise UserError(
            f"{view.uri} is in {view.space.name} and {beside.uri} in {beside.space.name}, which have other classes: compare "
            "runs of one label space"
        )


def _scores(view: RunCounts, wanted: Wanted, beside: RunCounts | None) -> pd.DataFrame:
    """Return id, groups, `miou` (null without labelled pixels) and the score to choose by, of each image that has one."""
    columns = ["image_id", *wanted.groups, "miou"]
    if beside is None:
        read = over_parts(view.parts("masks"), lambda uris: list(batches(uris, [*columns, wanted.by])))
        frames = [batch.to_pandas(integer_object_nulls=True) for part in read for batch in part]
    else:
        masks = _OtherMasks.of(beside)
        rows = over_parts(view.parts("masks"), lambda uris: _disagreements(view, uris, columns, masks))
        frames = [pd.DataFrame(part) for part in rows if part]
        if not frames:
            raise UserError(f"{view.uri} and {beside.uri} have no image in common: compare runs over one corpus")
    frame = pd.concat(frames) if frames else pd.DataFrame(columns=[*columns, wanted.by])
    return frame.dropna(subset=[wanted.by])


def _left(view: RunCounts, frame: pd.DataFrame, wanted: Wanted) -> pd.DataFrame:
    """Leave out images that have labels or are to be skipped, and sort, least certain first; `_group` numbers the groups."""
    unlabelled = frame if wanted.labelled else frame[frame["miou"].isna()]
    left = unlabelled[~unlabelled["image_id"].isin(list(wanted.skip))]
    if left.empty:
        if len(unlabelled):
            raise UserError(f"run {view.uri}: all {len(unlabelled)} images to choose from are in the lists to skip")
        words = (
            f"all {len(frame)} images have labels already: take them too (--labelled), or segment images without labels"
        )
        raise UserError(f"run {view.uri}: {words if len(frame) else 'no image has a score to choose by'}")
    left = left.sort_values([wanted.by, "image_id"], ascending=[wanted.by == "confidence", True], ignore_index=True)
    return left.assign(_group=_group_numbers(left, wanted.groups))


def _group_numbers(frame: pd.DataFrame, groups: Sequence[str]) -> np.ndarray:
    """Return (rows,) int64, equal where all groups are; a row without a value in the last column has its own number."""
    if not groups:
        return np.arange(len(frame))
    numbers = frame.groupby(list(groups), dropna=False, observed=True, sort=False).ngroup().to_numpy(np.int64)
    alone = frame[groups[-1]].isna().to_numpy()
    return np.where(alone, len(frame) + np.arange(len(frame)), numbers)


def _shares(view: RunCounts, ids: list[str]) -> np.ndarray:
    """Return (ids, C) float32: each class's share of the mask, from the counts in the run's rows; no mask is decoded."""
    wanted, places = pa.array(ids, pa.string()), {image_id: place for place, image_id in enumerate(ids)}

    def ask(uris: list[str]) -> list[tuple[str, np.ndarray]]:
        found: list[tuple[str, np.ndarray]] = []
        for batch in batches(uris, ["image_id", "pixels"]):
            batch = batch.filter(pc.is_in(batch.column("image_id"), wanted))
            pixels = batch.column("pixels").flatten().to_numpy().reshape(batch.num_rows, view.space.num_classes)
            shares = (pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)).astype(np.float32)
            found += zip(batch.column("image_id").to_pylist(), shares, strict=True)
        return found

    shares = np.zeros((len(ids), view.space.num_classes), np.float32)
    for part in over_parts(view.parts("masks"), ask):
        for image_id, share in part:
            shares[places[image_id]] = share
    return shares


def _spread(uncertainty: np.ndarray, shares: np.ndarray, groups: np.ndarray, n: int) -> list[int]:
    """Return the places of up to n rows: the first row, then repeatedly that with the largest uncertainty times distance.

    Args:
        uncertainty: (rows,), at least 0.
        shares: (rows, C), each sums to 1.
        groups: (rows,), equal for rows of one group.
    """
    n = min(n, len(shares))
    most = _most_of_a_group(groups, n)
    chosen: list[int] = []
    taken: Counter[int] = Counter()
    distance, closed = np.full(len(shares), np.inf), np.zeros(len(shares), bool)
    place = 0
    while True:
        chosen.append(place)
        if len(chosen) == n:
            return chosen
        group = groups[place]
        taken[group] += 1
        closed[place] = True
        if taken[group] == most:
            closed |= groups == group
        distance = np.minimum(distance, np.abs(shares - shares[place]).sum(axis=1) / 2)
        place = int(np.where(closed, -1, uncertainty * distance).argmax())


def _most_of_a_group(groups: np.ndarray, n: int) -> int:
    """Return how many rows of a group may be chosen: twice an equal share, or as much more as it takes to find n rows."""
    sizes = np.unique(groups, return_counts=True)[1]
    most = -(-2 * n // len(sizes))
    while np.minimum(sizes, most).sum() < n:
        most *= 2
    return int(most)


@dataclass(frozen=True)
class _OtherMasks:
    """The masks of the other run, and the part that holds each image's mask."""

    parts: list[str]
    part_of: dict[str, int]

    @classmethod
    def of(cls, view: RunCounts) -> "_OtherMasks":
        parts = view.parts("masks")
        return cls(
            parts,
            {
                image_id: number
                for number, uri in enumerate(parts)
                for batch in batches([uri], ["image_id"])
                for image_id in batch.column("image_id").to_pylist()
            },
        )

    def read(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return image id -> PNG, for the ids that the run has."""
        wanted = pa.array(ids, pa.string())
        found = {}
        for number in sorted({self.part_of[image_id] for image_id in ids if image_id in self.part_of}):
            for batch in batches([self.parts[number]], ["image_id", "mask"], _MASK_ROWS):
                rows = batch.filter(pc.is_in(batch.column("image_id"), wanted)).to_pylist()
                found.update({row["image_id"]: row["mask"]["bytes"] for row in rows})
        return found


def _disagreements(view: RunCounts, uris: Sequence[str], columns: Sequence[str], other: _OtherMasks) -> list[Row]:
    """Return the rows of the images that both runs have, with `disagreement`."""
    rows = []
    for uri in uris:
        ids = [image_id for batch in batches([uri], ["image_id"]) for image_id in batch.column("image_id").to_pylist()]
        theirs = other.read(ids)
        for row in _with_masks(uri, columns):
            if (mask := theirs.get(row["image_id"])) is not None:
                number = _disagreement(view, row["image_id"], row.pop("mask")["bytes"], mask)
                rows.append(row | {"disagreement": number})
    return rows


def _with_masks(uri: str, columns: Sequence[str]) -> Iterator[Row]:
    for batch in batches([uri], [*columns, "mask"], _MASK_ROWS):
        yield from batch.to_pylist()


def _disagreement(view: RunCounts, image_id: str, mine: bytes, theirs: bytes) -> float | None:
    """Return the share of pixels whose classes differ, of those with a class in both masks; None if there are none."""
    one, two = decode_mask(mine), decode_mask(theirs)
    if one.shape != two.shape:
        raise UserError(
            f"run {view.uri}: the mask of '{image_id}' is {one.shape[0]}x{one.shape[1]}, in the other run "
            f"{two.shape[0]}x{two.shape[1]} (height x width): compare runs over one corpus"
        )
    both = (one != IGNORE) & (two != IGNORE)
    return float((one != two)[both].mean()) if both.any() else None
