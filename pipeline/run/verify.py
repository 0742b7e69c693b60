"""Proof of a run's promise: every image of the plan once, as a mask or a reject, every part readable and whole."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.imaging.masks import decode_mask
from pipeline.run.ledger import Run
from pipeline.run.rows import read_table


@dataclass
class Verification:
    """What was counted, and each fault as a sentence."""

    images: int
    masks: int = 0
    rejects: int = 0
    problems: list[str] = field(default_factory=list)


def verify(uri: str) -> Verification:
    """Re-read every part of a finished run and count; never raises for a fault of the run, but lists it.

    Raises:
        ValueError: there is no run at the URI.
    """
    run = Run.open(uri)
    found = Verification(run.num_images)
    try:
        success = json.loads(storage.read(storage.join(uri, "_SUCCESS.json")))
    except FileNotFoundError:
        found.problems.append(f"the run is not finished: {len(run.pending())} shards are pending; run `segment` again")
        success = {"parts": {}}
    answers: Counter[str] = Counter()
    listed = {
        f"{kind}/{file.path}" for kind in ("masks", "rejects") for file in storage.list_files(storage.join(uri, kind))
    }
    for name in sorted(listed | success["parts"].keys()):
        table = _part(uri, name, success["parts"].get(name), found)
        if table is None:
            continue
        answers.update(table["image_id"].to_pylist())
        if name.startswith("masks/"):
            found.masks += table.num_rows
            _check_masks(table, name, run.label_space.num_classes, found)
        else:
            found.rejects += table.num_rows
    planned = run.plan["image_id"].to_pylist()
    for image_id in planned:
        if answers[image_id] != 1:
            found.problems.append(f"image '{image_id}' is answered {answers[image_id]} times, it must be once")
    for image_id in answers.keys() - set(planned):
        found.problems.append(f"image '{image_id}' is answered and is not in the plan")
    return found


def _part(uri: str, name: str, recorded: dict[str, object] | None, found: Verification) -> pa.Table | None:
    try:
        data = storage.read(storage.join(uri, name))
    except FileNotFoundError:
        found.problems.append(f"{name} is missing; run `segment` again, which redoes its shard")
        return None
    if recorded is None:
        found.problems.append(f"{name} is not listed in _SUCCESS.json")
    elif hashlib.sha256(data).hexdigest() != recorded["sha256"]:
        found.problems.append(
            f"{name} is not the file that was committed (sha256 differs); delete it and run `segment` again"
        )
    try:
        return read_table(data)
    except (OSError, pa.ArrowInvalid) as error:
        found.problems.append(f"{name} cannot be read ({error}); delete it and run `segment` again")
        return None


def _check_masks(table: pa.Table, name: str, num_classes: int, found: Verification) -> None:
    for row in table.select(["image_id", "height", "width", "mask", "pixels"]).to_pylist():
        mask = decode_mask(row["mask"]["bytes"])
        if mask.shape != (row["height"], row["width"]):
            found.problems.append(f"{name}: mask of '{row['image_id']}' is {mask.shape}, the row says another size")
        elif np.bincount(mask.ravel(), minlength=num_classes).tolist() != row["pixels"]:
            found.problems.append(f"{name}: mask of '{row['image_id']}' does not hold the pixels that its row counts")
