"""Proof of a run's promise: every image of the plan once, as a mask or a reject, every part readable and whole, and every
number of `run.json` and `_SUCCESS.json` that of the plan and the parts."""

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import RegionsConfig
from pipeline.errors import UserError
from pipeline.imaging.confidence_map import LEVELS, is_unknown
from pipeline.imaging.mask_png import decode_mask
from pipeline.imaging.regions import Regions, find_regions
from pipeline.labels import IGNORE, LabelSpace
from pipeline.metrics.confusion import count_confusion, count_ids
from pipeline.metrics.registry import METRICS
from pipeline.read_ahead import read_ahead
from pipeline.runs.info import PartEntry, Success, files_of, fingerprint_of, read_info, read_success
from pipeline.runs.lease import lease_faults
from pipeline.runs.parts import KINDS, Footer, Part, body_sha256, footer_of, part_at, part_name
from pipeline.runs.plan import Plan, leftover
from pipeline.runs.regions import MASKS, region_array, regions_table
from pipeline.runs.schema import (
    CONFIDENCE_MAP,
    FINGERPRINT,
    NOT_ASKED,
    REGION_FIELDS,
    REGIONS,
    REJECT_SCHEMA,
    SHARDS,
    UNKNOWN_LABELLED,
    UNKNOWN_PIXELS,
    PixelConfidence,
    mask_schema,
    part_metadata,
    region_schema,
)

THREADS = 4  # parts in memory at a time, twice as many that wait
TABLE_LOG = "_delta_log/"  # of `maskmill register --delta`; readers of a folder pass over names that begin so
CONFIDENCE_COLUMNS = [CONFIDENCE_MAP, UNKNOWN_PIXELS, UNKNOWN_LABELLED]  # of runs that were asked for them
MASK_COLUMNS = ["image_id", "height", "width", "mask", "pixels"]  # that a mask is proved by


@dataclass
class Verification:
    """What was counted, and each fault as a sentence."""

    images: int  # of the plan, as it was read
    masks: int = 0
    rejects: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Answer:
    """One part, read again."""

    part: Part
    rows: int = 0
    ids: Counter[str] = field(default_factory=Counter)  # of the images that it answers
    rejects: list[dict[str, Any]] | None = None  # of a rejects part its rows, of a masks part those that its footer has
    regions: pa.Table | None = None  # of a regions part its rows, of a masks part those that follow from it
    masks_sha256: str | None = None  # of a masks part's footer, or of that of which a regions part speaks
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Expected:
    """What every part of the run must agree with."""

    fingerprints: tuple[str, ...]  # of run.json; two, where run.json contradicts itself
    space: LabelSpace
    groups: tuple[pa.Field, ...]  # columns of the plan's groups
    declared: bool  # whether images have declared bands: with a column of georeferences, and pixels without data
    regions: RegionsConfig | None  # what is asked of the table of regions; None = there is none
    entries: dict[str, PartEntry] | None  # of _SUCCESS.json; None: there is none that can be read
    confidence: PixelConfidence = NOT_ASKED


def verify_one(uri: str) -> Verification:
    """Re-read every part of a run with one generation and count; never raises for a fault of the run, but lists it.

    Parts are read a few at a time; what is held of each is compared with the plan of its own shards and forgotten.

    Raises:
        UserError: there is no run at the URI, its run.json cannot be read, or its plan is not the one it was made with.
    """
    info = read_info(uri)
    plan = Plan(uri, info.plan)
    proof = plan.prove()
    parts, aliens = _listed(uri, plan)
    problems = [*info.faults(), *proof.problems, *aliens, *lease_faults(uri)]
    fingerprints = tuple(dict.fromkeys([info.fingerprint, fingerprint_of(info.identity)]))
    success = _recorded(uri, info.created, fingerprints, parts, proof.shards, problems)
    named = any(problem.startswith("run.json") for problem in problems)  # what was edited in it says more than its hash
    problems += [
        fault for fault in file_faults(success, files_of(uri, info)) if not (named and " run.json is " in fault)
    ]
    entries = None if success is None else success.parts
    declared = "image" in info.identity
    confidence, space = PixelConfidence.of(info.identity), info.label_space.space
    expected = Expected(fingerprints, space, plan.group_fields, declared, info.regions, entries, confidence)
    reading = read_ahead(lambda part: read_again(part, expected), parts, THREADS)
    planned = shards_of(plan)
    counted, reasons = Counter[str](), Counter[str]()
    for first, last, num_parts in ranges(parts, proof.shards):
        answers = [answer.result() for _, answer in islice(reading, num_parts)]
        for answer in answers:
            counted[answer.part.kind] += answer.rows
            if answer.part.kind == "rejects":
                reasons.update(row["error"] for row in answer.rejects or ())
            problems += answer.problems
        problems += [*disagreements(answers), *region_faults(answers)]
        shards = islice(planned, last + 1 - first)  # none for a part that the plan does not know
        images = [image_id for shard in shards for image_id in shard]
        problems += unanswered(images, answers, where=part_name(first, last))
    if success is not None:
        problems += miscounts(success, counted, reasons)
    return Verification(proof.images, counted["masks"], counted["rejects"], problems)


def _listed(uri: str, plan: Plan) -> tuple[list[Part], list[str]]:
    """The parts in the order of their shards, and a fault for each other file in their folders."""
    parts, aliens, planned = list[Part](), list[str](), {part.name for part in plan.parts}
    for kind in (*KINDS, "plan"):
        for file in storage.list_files(storage.join(uri, kind)):
            name = f"{kind}/{file.path}"
            part = None if kind == "plan" else part_at(uri, kind, file)
            if part is not None:
                parts.append(part)
            elif is_stranger(file, name, planned):
                aliens.append(stranger_fault(name))
    return sorted(parts, key=lambda part: (part.first, part.kind)), aliens


def is_stranger(file: storage.FileInfo, name: str, known: Set[str]) -> bool:
    """Whether a file in the folder of a kind or of the plan is none of a run's; `known`: names below the run."""
    expected = name in known or file.path.startswith(TABLE_LOG) or storage.is_temporary(file.path)
    return not expected and not leftover(name, file.uri)


def stranger_fault(name: str) -> str:
    return f"{name} is no file of this run; move it away, readers of the folder would read it"


def _recorded(
    uri: str, created: str, fingerprints: tuple[str, ...], parts: list[Part], num_shards: int, problems: list[str]
) -> Success | None:
    """`_SUCCESS.json`, and what speaks against it before any part is read; None where there is none that can be read."""
    try:
        success = read_success(uri)
    except UserError as error:
        problems.append(str(error))
        return None
    if success is None:
        covered = (part.last + 1 - max(part.first, before) for part, before in _after(parts))
        pending = num_shards - sum(max(0, shards) for shards in covered)
        problems.append(f"the run is not finished: {pending} shards are pending; run `segment` again")
        return None
    problems += success.faults()
    if success.fingerprint not in fingerprints:
        problems.append(
            f"_SUCCESS.json: its fingerprint is {success.fingerprint[:12]}, run.json's is {fingerprints[0][:12]}"
        )
    if datetime.fromisoformat(success.finished) < datetime.fromisoformat(created):
        problems.append(f"_SUCCESS.json: finished is {success.finished}, before the run was created, {created}")
    gone = success.parts.keys() - {part.name for part in parts}
    problems += [f"{name} is missing; run `segment` again, which redoes its shard" for name in sorted(gone)]
    return success


def file_faults(success: Success | None, files: dict[str, str]) -> Iterator[str]:
    """What `_SUCCESS.json` says otherwise of `run.json` and the plan than they are."""
    said = files if success is None or success.files is None else success.files
    for name in sorted(said.keys() | files.keys()):
        if said.get(name) != files.get(name):
            pair = (found.get(name, "not there")[:12] for found in (said, files))
            yield "_SUCCESS.json: the sha256 of {} is {}, the file's is {}".format(name, *pair)


def _after(parts: list[Part]) -> Iterator[tuple[Part, int]]:
    """Each masks part, and the shard up to which those before it answer."""
    before = 0
    for part in parts:
        if part.kind == "masks":
            yield part, before
            before = max(before, part.last + 1)


def miscounts(success: Success, counted: Counter[str], reasons: Counter[str]) -> Iterator[str]:
    """What `_SUCCESS.json` counts otherwise than its parts, now that they were read."""
    for key, said, found in (
        ("rows", success.rows, counted["masks"]),
        ("regions", success.regions or 0, counted["regions"]),
        ("rejects", success.rejects, counted["rejects"]),
        ("rejects_by_reason", success.rejects_by_reason, dict(reasons.most_common())),
    ):
        if said != found:
            yield f"_SUCCESS.json: {key} is {said}, the parts have {found}"


def unanswered(images: list[str], answers: list[Answer], where: str) -> Iterator[str]:
    """Images of some shards that are not answered once, and answers to images that are not theirs."""
    times = sum((answer.ids for answer in answers), Counter[str]())
    for image_id in images:
        if times[image_id] != 1:
            yield f"image '{image_id}' is answered {times[image_id]} times in {where}, it must be once"
    for image_id in times.keys() - set(images):
        yield f"image '{image_id}' is answered in {where} and is not in the plan of its shards"


def disagreements(answers: list[Answer]) -> Iterator[str]:
    """Rejects parts that do not hold what the masks parts of the same shards say of them."""
    masks_of = {answer.part.shards: answer for answer in answers if answer.part.kind == "masks"}
    for answer in answers:
        masks = masks_of.get(answer.part.shards)
        if answer.part.kind != "rejects" or masks is None or None in (answer.rejects, masks.rejects):
            continue
        if answer.rejects != masks.rejects:
            yield f"{answer.part.name} does not hold the rejects of which {masks.part.name} speaks"


def region_faults(answers: list[Answer]) -> Iterator[str]:
    """Masks parts without a regions part of the same shards, and regions parts that do not follow from their masks."""
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


def shards_of(plan: Plan) -> Iterator[list[str]]:
    """The image ids of each shard, in order."""
    for table in plan.tables(["image_id", "shard"]):
        ids, shards = table["image_id"].to_pylist(), table["shard"].to_numpy()
        starts = np.flatnonzero(np.diff(shards, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            yield ids[start:end]


def ranges(parts: list[Part], num_shards: int) -> Iterator[tuple[int, int, int]]:
    """First shard, last shard and number of parts of each range that is answered together: its parts share shards."""
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


def read_again(part: Part, expected: Expected) -> Answer:
    """One part: that it is the one that was committed, which images it answers, and its masks, decoded."""
    answer = Answer(part)
    try:
        data = storage.read(part.uri)
        footer = footer_of(data, part.name)
        answer.problems += _footer_faults(part, footer, len(data), body_sha256(data), expected)
        _read_rows(pq.ParquetFile(pa.BufferReader(data)), footer, expected, answer)
    except UserError as error:
        answer.problems.append(str(error))
    except (OSError, ValueError, pa.ArrowException) as error:  # the last two, of damaged metadata
        answer.problems.append(f"{part.name} cannot be read ({error}); delete it and run `segment` again")
    return answer


def _footer_faults(part: Part, footer: Footer, size: int, body: str, expected: Expected) -> Iterator[str]:
    """What a part's footer says otherwise than `_SUCCESS.json`, run.json and the part's own bytes."""
    entry = (expected.entries or {}).get(part.name)
    if expected.entries is not None and entry is None:
        yield f"{part.name} is not listed in _SUCCESS.json"
    if body != footer.body_sha256 or (entry is not None and entry.footer_sha256 != footer.sha256):
        yield f"{part.name} is not the file that was committed (sha256 differs); delete it and run `segment` again"
    if entry is not None and (entry.bytes, entry.rows) != (size, footer.rows):
        yield (
            f"_SUCCESS.json: {part.name} has {entry.bytes} bytes and {entry.rows} rows, the file has {size} and {footer.rows}"
        )
    mine = footer.metadata.get(FINGERPRINT, "none")
    if mine not in expected.fingerprints:
        yield (
            f"{part.name} is a part of another run: it carries the fingerprint {mine[:12]}, this run's is "
            f"{expected.fingerprints[0][:12]}; delete the file and run `segment` again"
        )
    for key, value in part_metadata(mine, expected.space, part.first - part.before, part.last - part.before).items():
        if (said := footer.metadata.get(key)) != value:
            known = f"{said!r:.40}, not {value!r:.40}" if key == SHARDS else "not that of the run"
            yield f"{part.name} says of itself that its {key} is {known}; delete it and run `segment` again"


def _read_rows(file: pq.ParquetFile, footer: Footer, expected: Expected, answer: Answer) -> None:
    """Every column of every row group; a few of them are looked at."""
    masks, name = answer.part.kind == "masks", answer.part.name
    schema = _schema(answer.part.kind, expected)
    asked_for = {name for metric in METRICS if not metric.in_every_part for name in metric.columns}
    columns = pa.schema([field for field in file.schema_arrow if not (masks and field.name in asked_for)])
    if not columns.equals(schema):
        raise UserError(f"{name} has other columns than every part of a run; delete it and run `segment` again")
    rejects, regions = list[dict[str, Any]](), list[pa.Table]()
    for group in range(file.metadata.num_row_groups):
        table = file.read_row_group(group, use_threads=False)  # the parts have threads of their own
        answer.rows += table.num_rows
        if answer.part.kind == "regions":
            regions.append(table)
            continue
        answer.ids.update(table["image_id"].to_pylist())
        if not masks:
            rejects += table.to_pylist()
            continue
        _check_masks(table, name, expected, answer)
        if expected.regions is not None:
            regions.append(regions_table(table, expected.space))
    answer.rejects = footer.rejects if masks else rejects
    if expected.regions is not None:
        answer.regions = _without_dictionaries(pa.concat_tables([_region_schema(expected).empty_table(), *regions]))
        answer.masks_sha256 = footer.sha256 if masks else footer.metadata.get(MASKS)


def _schema(kind: str, expected: Expected) -> pa.Schema:
    """Of the parts of a kind, but for the columns of metrics that a run was asked for."""
    match kind:
        case "masks":
            return mask_schema(
                expected.space.num_classes,
                groups=expected.groups,
                georeferenced=expected.declared,
                regions=expected.regions,
                confidence=expected.confidence,
            )
        case "regions":
            return _region_schema(expected)
    return REJECT_SCHEMA


def _region_schema(expected: Expected) -> pa.Schema:
    return region_schema(expected.groups, expected.regions is not None and expected.regions.polygons is not None)


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """The same values: which dictionary they were written with tells nothing."""
    plain = [
        pa.field(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        for field in table.schema
    ]
    return table.cast(pa.schema(plain)).combine_chunks()


def _check_masks(table: pa.Table, name: str, expected: Expected, answer: Answer) -> None:
    asked, num_classes = expected.regions, expected.space.num_classes
    known = [column for column in (*MASK_COLUMNS, *CONFIDENCE_COLUMNS) if column in table.column_names]
    all_have_a_class, has_map = UNKNOWN_PIXELS not in known and not expected.declared, CONFIDENCE_MAP in known
    for number, row in enumerate(table.select(known).to_pylist()):
        try:
            mask = decode_mask(row["mask"]["bytes"])
        except UserError as error:
            answer.problems.append(f"{name}: mask of '{row['image_id']}': {error}")
            continue
        if mask.shape != (row["height"], row["width"]):
            answer.problems.append(f"{name}: mask of '{row['image_id']}' is {mask.shape}, the row says another size")
            continue
        if not (_pixels(mask, num_classes) == row["pixels"] if all_have_a_class else _holds(mask, row, expected)):
            answer.problems.append(f"{name}: mask of '{row['image_id']}' does not hold the pixels that its row counts")
        elif asked is not None and not _are_regions(table[REGIONS][number].values, find_regions(mask, asked.min_area)):
            answer.problems.append(f"{name}: mask of '{row['image_id']}' does not have the regions that its row tells")
        if has_map and (fault := _confidence_fault(mask, row, expected)):
            answer.problems.append(f"{name}: confidence_map of '{row['image_id']}'{fault}")


def _are_regions(told: pa.StructArray, found: Regions) -> bool:
    """Whether they are those that were found; their confidence does not follow from the mask, and polygons are simplified."""
    columns = zip(REGION_FIELDS, told.flatten()[: len(REGION_FIELDS)], region_array(found).flatten(), strict=True)
    return all(field.name == "confidence" or mine.equals(other) for field, mine, other in columns)


def _holds(mask: np.ndarray, row: dict[str, Any], expected: Expected) -> bool:
    """Whether a mask has the pixels that its row counts: of each class, unknown ones, and no others but those without data."""
    num_classes, unknown = expected.space.num_classes, row.get(UNKNOWN_PIXELS)
    found = count_ids(mask)
    left = int(found[IGNORE]) - (unknown or 0)  # without data
    return (
        not found[num_classes:IGNORE].any()
        and found[:num_classes].tolist() == row["pixels"]
        and (left >= 0 if expected.declared else left == 0)
        and sum(row.get(UNKNOWN_LABELLED) or ()) <= (unknown or 0)
    )


def _confidence_fault(mask: np.ndarray, row: dict[str, Any], expected: Expected) -> str | None:
    """What is wrong with a row's map of confidence: the end of a sentence that begins with its name."""
    try:
        confidence = decode_mask((row[CONFIDENCE_MAP] or {}).get("bytes") or b"")
    except UserError as error:
        return f": {error}"
    if confidence.shape != mask.shape:
        return f" is {confidence.shape}, the mask {mask.shape}"
    below, ignored = expected.confidence.unknown_below, mask == IGNORE
    # Pixels without data are 0; else the largest of C probabilities is 1/C at least, here to the level it was rounded to.
    if (confidence[~ignored].astype(int) + 1 < LEVELS / expected.space.num_classes).any():
        return f" has levels below those of a probability of 1/{expected.space.num_classes}, at pixels of a class"
    if below is None:
        return " is not 0 where the mask has no data" if confidence[ignored].any() else None
    if (ignored != is_unknown(confidence, below)).any():
        return f" and the mask disagree: a pixel is 255 where its confidence is below {below:g}, and nowhere else"
    return None


def _pixels(mask: np.ndarray, num_classes: int) -> list[int] | None:
    """Pixels of each class; None where there are others."""
    try:
        counts: list[int] = count_confusion(mask, mask, num_classes).diagonal().tolist()
    except ValueError:
        return None
    return counts
