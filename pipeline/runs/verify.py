"""Verify a run: every image of the plan has one mask or one reject, every part is readable and complete, and the numbers in
`run.json` and `_SUCCESS.json` are those of the plan and the parts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.read_ahead import read_ahead
from pipeline.runs.info import RunInfo, Success, files_of, fingerprint_of
from pipeline.runs.lease import lease_faults
from pipeline.runs.parts import KINDS, Part, part_at, part_name
from pipeline.runs.plan import Plan, leftover
from pipeline.runs.read_again import Answer, Expected, read_again
from pipeline.runs.schema import PixelConfidence

THREADS = 4  # parts that are read at a time; twice as many results wait
PART_BYTES = 768_000_000  # bytes of parts in memory at a time: two or three parts of compacted runs
KEPT_PROBLEMS = 10_000  # further ones are only counted
TABLE_LOG = "_delta_log/"  # of `maskmill register --delta`; readers of a folder skip names with a leading underscore


@dataclass
class Verification:
    """Counts of a run, and a message for each fault."""

    images: int  # in the plan, as read
    masks: int = 0
    rejects: int = 0
    problems: list[str] = field(default_factory=list)
    more_problems: int = 0  # beyond `KEPT_PROBLEMS`

    def add(self, problems: Iterable[str]) -> None:
        """Add faults: the first `KEPT_PROBLEMS` are kept, further ones are counted."""
        for problem in problems:
            if len(self.problems) < KEPT_PROBLEMS:
                self.problems.append(problem)
            else:
                self.more_problems += 1

    @property
    def num_problems(self) -> int:
        return len(self.problems) + self.more_problems


def verify_one(uri: str, info: RunInfo, success: Success | None) -> Verification:
    """Re-read every part of a run with one generation, and count; faults of the run are listed, not raised.

    Parts are read a few at a time; each is compared with the plan of its shards and then dropped.

    Args:
        success: its `_SUCCESS.json`; None if there is none.
    Raises:
        UserError: its plan is not the one that it was made with.
    """
    plan = Plan(uri, info.plan)
    proof = plan.prove()
    found = Verification(proof.images)
    parts, aliens = _listed(uri, plan)
    found.add([*info.faults(), *proof.problems, *aliens, *lease_faults(uri)])
    fingerprints = tuple(dict.fromkeys([info.fingerprint, fingerprint_of(info.identity)]))
    found.add(_record_faults(uri, info.created, fingerprints, parts, proof.shards, success))
    # A fault in run.json is more precise than the mismatch of its hash, so the latter is left out.
    named = any(problem.startswith("run.json") for problem in found.problems)
    found.add(fault for fault in file_faults(success, files_of(uri, info)) if not (named and " run.json is " in fault))
    entries = None if success is None else success.parts
    declared = "image" in info.identity
    confidence, space = PixelConfidence.of(info.identity), info.label_space.space
    expected = Expected(fingerprints, space, plan.group_fields, declared, info.regions, entries, confidence)
    reading = read_ahead(lambda part: read_again(part, expected), parts, threads_for(parts))
    planned = shards_of(plan)
    counted, reasons = Counter[str](), Counter[str]()
    for first, last, num_parts in ranges(parts, proof.shards):
        answers = [answer.result() for _, answer in islice(reading, num_parts)]
        for answer in answers:
            counted[answer.part.kind] += answer.rows
            if answer.part.kind == "rejects":
                reasons.update(row["error"] for row in answer.rejects or ())
            found.add(answer.problems)
        found.add(disagreements(answers))
        found.add(region_faults(answers))
        shards = list(islice(planned, last + 1 - first))  # none for parts beyond the plan
        found.add(unanswered(shards, answers, where=part_name(first, last)))
    if success is not None:
        found.add(miscounts(success, counted, reasons))
    found.masks, found.rejects = counted["masks"], counted["rejects"]
    return found


def threads_for(parts: list[Part]) -> int:
    """Return how many parts to read at a time, so that they fit in memory."""
    return max(1, min(THREADS, PART_BYTES // max((part.bytes for part in parts), default=1)))


def _listed(uri: str, plan: Plan) -> tuple[list[Part], list[str]]:
    """Return the parts in the order of their shards, and a fault for each other file in their folders."""
    parts, aliens, planned = list[Part](), list[str](), {part.name for part in plan.parts}
    for kind in (*KINDS, "plan"):
        strangers = list[str]()
        for file in storage.scan(storage.join(uri, kind)):
            name = f"{kind}/{file.path}"
            part = None if kind == "plan" else part_at(uri, kind, file)
            if part is not None:
                parts.append(part)
            elif is_stranger(file, name, planned):
                strangers.append(name)
        aliens += map(stranger_fault, sorted(strangers))
    parts.sort(key=lambda part: (part.first, part.kind))
    return parts, aliens


def is_stranger(file: storage.FileInfo, name: str, known: Set[str]) -> bool:
    """Return whether a file in the folder of a kind or of the plan does not belong there; `known`: names in the run that do."""
    expected = name in known or file.path.startswith(TABLE_LOG) or storage.is_temporary(file.path)
    return not expected and not leftover(name, file.uri)


def stranger_fault(name: str) -> str:
    return f"{name} is not a file of this run; move it away, readers of the folder would read it"


def _record_faults(
    uri: str,
    created: str,
    fingerprints: tuple[str, ...],
    parts: list[Part],
    num_shards: int,
    success: Success | None,
) -> Iterator[str]:
    """Yield faults of `_SUCCESS.json` that show before any part is read."""
    if success is None:
        covered = (part.last + 1 - max(part.first, before) for part, before in _after(parts))
        pending = num_shards - sum(max(0, shards) for shards in covered)
        yield f"the run is not finished: {pending} shards are pending; run `segment` again"
        return
    yield from success.faults()
    if success.fingerprint not in fingerprints:
        yield f"_SUCCESS.json: its fingerprint is {success.fingerprint[:12]}, run.json's is {fingerprints[0][:12]}"
    if datetime.fromisoformat(success.finished) < datetime.fromisoformat(created):
        yield f"_SUCCESS.json: finished is {success.finished}, before the run was created, {created}"
    if sum(part.name in success.parts for part in parts) < len(success.parts):
        for name in sorted(success.parts.keys() - {part.name for part in parts}):
            yield f"{name} is missing; run `segment` again, which redoes its shard"


def file_faults(success: Success | None, files: dict[str, str]) -> Iterator[str]:
    """Yield files of `run.json` and plan whose sha256 differs from that in `_SUCCESS.json`."""
    said = files if success is None or success.files is None else success.files
    for name in sorted(said.keys() | files.keys()):
        if said.get(name) != files.get(name):
            pair = (found.get(name, "not there")[:12] for found in (said, files))
            yield "_SUCCESS.json: the sha256 of {} is {}, the file's is {}".format(name, *pair)


def _after(parts: list[Part]) -> Iterator[tuple[Part, int]]:
    """Yield each masks part, and the shard up to which the parts before it answer (exclusive)."""
    before = 0
    for part in parts:
        if part.kind == "masks":
            yield part, before
            before = max(before, part.last + 1)


def miscounts(success: Success, counted: Counter[str], reasons: Counter[str]) -> Iterator[str]:
    """Yield counts of `_SUCCESS.json` that differ from those of the parts as read."""
    for key, said, found in (
        ("rows", success.rows, counted["masks"]),
        ("regions", success.regions or 0, counted["regions"]),
        ("rejects", success.rejects, counted["rejects"]),
        ("rejects_by_reason", success.rejects_by_reason, dict(reasons.most_common())),
    ):
        if said != found:
            yield f"_SUCCESS.json: {key} is {said}, the parts have {found}"


def unanswered(shards: list[pa.Array], answers: list[Answer], where: str) -> Iterator[str]:
    """Yield images of some shards that are not answered exactly once, and answers to images of no such shard."""
    images = pa.chunked_array(shards, pa.string())
    answered = pa.chunked_array([ids for answer in answers for ids in answer.ids], pa.string())
    if answered.equals(images) and len(answered.unique()) == len(answered):
        return
    times = answered.value_counts()
    values = times.field("values")
    counted = times.field("counts").take(pc.index_in(images, value_set=values)).fill_null(0)
    wrong = pc.not_equal(counted, 1)
    for image_id, count in zip(images.filter(wrong).to_pylist(), counted.filter(wrong).to_pylist(), strict=True):
        yield f"image '{image_id}' is answered {count} times in {where}, it must be once"
    for image_id in values.filter(pc.invert(pc.is_in(values, value_set=images))).to_pylist():
        yield f"image '{image_id}' is answered in {where} and is not in the plan of its shards"


def disagreements(answers: list[Answer]) -> Iterator[str]:
    """Yield rejects parts that differ from the rejects in the masks parts of the same shards."""
    masks_of = {answer.part.shards: answer for answer in answers if answer.part.kind == "masks"}
    for answer in answers:
        masks = masks_of.get(answer.part.shards)
        if answer.part.kind != "rejects" or masks is None or None in (answer.rejects, masks.rejects):
            continue
        if answer.rejects != masks.rejects:
            yield f"{answer.part.name} does not hold the rejects of which {masks.part.name} speaks"


def region_faults(answers: list[Answer]) -> Iterator[str]:
    """Yield masks parts without a regions part, and regions parts that do not agree with their masks part."""
    regions_of = {answer.part.shards: answer for answer in answers if answer.part.kind == "regions"}
    for masks in answers:
        if masks.part.kind != "masks" or masks.regions is None:
            continue
        found = regions_of.get(masks.part.shards)
        if found is None:
            yield f"{masks.part.name} has no regions part; delete _SUCCESS.json and run `segment` again, which writes it"
        elif found.regions is not None and (
            found.masks_sha256 != masks.masks_sha256 or not found.regions.equals(masks.regions)
        ):
            yield (
                f"{found.part.name} does not hold the regions of {masks.part.name}; delete it and run `segment` again, which "
                "writes it from there"
            )


def shards_of(plan: Plan) -> Iterator[pa.Array]:
    """Yield the image ids of each shard, in order."""
    for table in plan.tables(["image_id", "shard"]):
        ids, shards = table["image_id"].combine_chunks(), table["shard"].to_numpy()
        starts = np.flatnonzero(np.diff(shards, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            yield ids[start:end]


def ranges(parts: list[Part], num_shards: int) -> Iterator[tuple[int, int, int]]:
    """Yield first shard, last shard and number of parts of each range of shards that is covered by overlapping parts."""
    first, last, num_parts = -1, -1, 0
    for part in parts:
        if part.first <= last:
            last, num_parts = max(last, part.last), num_parts + 1
            continue
        if num_parts:
            yield first, last, num_parts
        yield from ((shard, shard, 0) for shard in range(last + 1, min(part.first, num_shards)))
        first, last, num_parts = part.first, part.last, 1
    if num_parts:
        yield first, last, num_parts
    yield from ((shard, shard, 0) for shard in range(last + 1, num_shards))
