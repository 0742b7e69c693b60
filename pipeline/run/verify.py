"""Proof of a run's promise: every image of the plan once, as a mask or a reject, every part readable and whole."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.imaging.masks import decode_mask
from pipeline.metrics.counts import count_confusion
from pipeline.run.ahead import ahead
from pipeline.run.ledger import Run
from pipeline.run.parts import Part, body_sha256, footer_of, part_name, scan_parts

THREADS = 4  # parts in memory at a time, twice as many that wait


@dataclass
class Verification:
    """What was counted, and each fault as a sentence."""

    images: int
    masks: int = 0
    rejects: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class _Found:
    """One part, read again."""

    part: Part
    ids: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def verify(uri: str) -> Verification:
    """Re-read every part of a run and count; never raises for a fault of the run, but lists it.

    Parts are read a few at a time; what is held of each is compared with the plan of its own shards and forgotten.

    Raises:
        UserError: there is no run at the URI, or its plan is not the one it was made with.
    """
    run = Run.open(uri)
    verification = Verification(run.num_images)
    recorded = _recorded(uri)
    if recorded is None:
        verification.problems.append(
            f"the run is not finished: {len(run.pending())} shards are pending; run `segment` again"
        )
    parts = sorted(
        (part for kind in ("masks", "rejects") for part in scan_parts(uri, kind)),
        key=lambda part: (part.first, part.kind),
    )
    gone = (recorded or {}).keys() - {part.name for part in parts}
    verification.problems += [
        f"{name} is missing; run `segment` again, which redoes its shard" for name in sorted(gone)
    ]

    def look(part: Part) -> _Found:
        return _look(part, run.label_space.num_classes, recorded)

    found = ahead(look, parts, THREADS)
    planned = _shards(run)
    waiting, counted = next(found, None), Counter[str]()
    for first, last in _ranges(parts, run.plan.num_shards):
        answers: Counter[str] = Counter()
        while waiting is not None and waiting.part.first <= last:
            answers += waiting.ids
            counted[waiting.part.kind] += waiting.ids.total()
            verification.problems += waiting.problems
            waiting = next(found, None)
        shards = islice(planned, last + 1 - first)  # none for a part that the plan does not know
        images = [image_id for shard in shards for image_id in shard]
        where = part_name(first, last)
        for image_id in images:
            if answers[image_id] != 1:
                verification.problems.append(
                    f"image '{image_id}' is answered {answers[image_id]} times in {where}, it must be once"
                )
        for image_id in answers.keys() - set(images):
            verification.problems.append(
                f"image '{image_id}' is answered in {where} and is not in the plan of its shards"
            )
    verification.masks, verification.rejects = counted["masks"], counted["rejects"]
    return verification


def _recorded(uri: str) -> dict[str, dict[str, Any]] | None:
    """name -> what `_SUCCESS.json` says of a part."""
    try:
        parts: dict[str, dict[str, Any]] = json.loads(storage.read(storage.join(uri, "_SUCCESS.json")))["parts"]
    except FileNotFoundError:
        return None
    return parts


def _shards(run: Run) -> Iterator[list[str]]:
    """The image ids of each shard, in order."""
    for table in run.plan.tables(["image_id", "shard"]):
        ids, shards = table["image_id"].to_pylist(), table["shard"].to_numpy()
        starts = np.flatnonzero(np.diff(shards, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            yield ids[start:end]


def _ranges(parts: list[Part], num_shards: int) -> Iterator[tuple[int, int]]:
    """First and last shard of each stretch that is answered together; parts that share a shard are one stretch."""
    first = last = -1
    for part in parts:
        if part.first <= last:
            last = max(last, part.last)
            continue
        if last >= 0:
            yield first, last
        yield from ((shard, shard) for shard in range(last + 1, min(part.first, num_shards)))
        first, last = part.first, part.last
    if last >= 0:
        yield first, last
    yield from ((shard, shard) for shard in range(last + 1, num_shards))


def _look(part: Part, num_classes: int, recorded: dict[str, dict[str, Any]] | None) -> _Found:
    """One part: that it is the one that was committed, which images it answers, and its masks, decoded."""
    found, said = _Found(part), (recorded or {}).get(part.name)
    if recorded is not None and said is None:
        found.problems.append(f"{part.name} is not listed in _SUCCESS.json")
    try:
        data = storage.read(part.uri)
        footer = footer_of(data, part.name)
        same = said is None or said["footer_sha256"] == footer.sha256
        if not same or body_sha256(data) != footer.body_sha256:
            found.problems.append(
                f"{part.name} is not the file that was committed (sha256 differs); delete it and run `segment` again"
            )
        file = pq.ParquetFile(pa.BufferReader(data))
        for group in range(file.metadata.num_row_groups):
            columns = ["image_id", "height", "width", "mask", "pixels"] if part.kind == "masks" else ["image_id"]
            table = file.read_row_group(group, columns=columns)
            found.ids.update(table["image_id"].to_pylist())
            if part.kind == "masks":
                _check_masks(table, part.name, num_classes, found)
    except ValueError as error:
        found.problems.append(str(error))
    except (OSError, pa.ArrowInvalid) as error:
        found.problems.append(f"{part.name} cannot be read ({error}); delete it and run `segment` again")
    return found


def _check_masks(table: pa.Table, name: str, num_classes: int, found: _Found) -> None:
    for row in table.to_pylist():
        mask = decode_mask(row["mask"]["bytes"])
        if mask.shape != (row["height"], row["width"]):
            found.problems.append(f"{name}: mask of '{row['image_id']}' is {mask.shape}, the row says another size")
        elif _pixels(mask, num_classes) != row["pixels"]:
            found.problems.append(f"{name}: mask of '{row['image_id']}' does not hold the pixels that its row counts")


def _pixels(mask: np.ndarray, num_classes: int) -> list[int] | None:
    """Pixels of each class; None where there are others."""
    try:
        counts: list[int] = count_confusion(mask, mask, num_classes).diagonal().tolist()
    except ValueError:
        return None
    return counts
