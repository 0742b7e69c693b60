"""Re-read one part of a run: check that it is the committed file, collect the images that it answers, decode its masks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
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
from pipeline.runs.info import PartEntry
from pipeline.runs.parts import Footer, Part, body_sha256, footer_of
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

CONFIDENCE_COLUMNS = [CONFIDENCE_MAP, UNKNOWN_PIXELS, UNKNOWN_LABELLED]  # only in runs whose config asks for them
MASK_COLUMNS = ["image_id", "height", "width", "mask", "pixels"]  # needed to check a mask


@dataclass
class Answer:
    """What was found in one part."""

    part: Part
    rows: int = 0
    # Ids of the images that it answers; Arrow arrays take a tenth of the memory of Python strings.
    ids: list[pa.Array] = field(default_factory=list)
    rejects: list[dict[str, Any]] | None = None  # rows of a rejects part; of a masks part, those in its footer
    regions: pa.Table | None = None  # rows of a regions part; of a masks part, those computed from it
    masks_sha256: str | None = None  # of a masks part's footer; of a regions part, the one that it refers to
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Expected:
    """What every part of the run must agree with."""

    fingerprints: tuple[str, ...]  # of run.json; two if run.json contradicts itself
    space: LabelSpace
    groups: tuple[pa.Field, ...]  # group columns of the plan
    declared: bool  # images have declared bands: a georeference column, and maybe pixels without data
    regions: RegionsConfig | None  # settings of the table of regions; None = there is none
    entries: dict[str, PartEntry] | None  # of _SUCCESS.json; None: it is missing or cannot be read
    confidence: PixelConfidence = NOT_ASKED


def read_again(part: Part, expected: Expected) -> Answer:
    """Check that a part is the committed file, collect the images that it answers, and decode and check its masks."""
    answer = Answer(part)
    try:
        data = storage.read(part.uri)
        footer = footer_of(data, part.name)
        answer.problems += _footer_faults(part, footer, len(data), body_sha256(data), expected)
        _read_rows(pq.ParquetFile(pa.BufferReader(data)), footer, expected, answer)
    except UserError as error:
        answer.problems.append(str(error))
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError and ArrowException: damaged metadata
        answer.problems.append(f"{part.name} cannot be read ({error}); delete it and run `segment` again")
    return answer


def _footer_faults(part: Part, footer: Footer, size: int, body: str, expected: Expected) -> Iterator[str]:
    """Yield where a part's footer contradicts `_SUCCESS.json`, run.json or the part's own bytes."""
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
    """Read all columns of all row groups, so that damage is found; check those that prove masks, rejects and regions."""
    masks, name = answer.part.kind == "masks", answer.part.name
    schema = _schema(answer.part.kind, expected)
    asked_for = {name for metric in METRICS if not metric.in_every_part for name in metric.columns}
    columns = pa.schema([field for field in file.schema_arrow if not (masks and field.name in asked_for)])
    if not columns.equals(schema):
        raise UserError(f"{name} has other columns than every part of a run; delete it and run `segment` again")
    rejects, regions = list[dict[str, Any]](), list[pa.Table]()
    for group in range(file.metadata.num_row_groups):
        table = file.read_row_group(group, use_threads=False)  # parts are read in several threads already
        answer.rows += table.num_rows
        if answer.part.kind == "regions":
            regions.append(table)
            continue
        answer.ids += table["image_id"].chunks
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
    """Return the schema of a kind's parts, without the columns of optional metrics."""
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
    """Return the table with dictionary columns decoded: equal values may be encoded by different dictionaries."""
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
    """Compare stored regions with those found in the mask, except confidence, which the mask does not give, and polygons."""
    columns = zip(REGION_FIELDS, told.flatten()[: len(REGION_FIELDS)], region_array(found).flatten(), strict=True)
    return all(field.name == "confidence" or mine.equals(other) for field, mine, other in columns)


def _holds(mask: np.ndarray, row: dict[str, Any], expected: Expected) -> bool:
    """Return whether a mask has the pixels that its row counts: of each class, unknown, and without data; no others."""
    num_classes, unknown = expected.space.num_classes, row.get(UNKNOWN_PIXELS)
    found = count_ids(mask)
    left = int(found[IGNORE]) - (unknown or 0)  # pixels without data
    return (
        not found[num_classes:IGNORE].any()
        and found[:num_classes].tolist() == row["pixels"]
        and (left >= 0 if expected.declared else left == 0)
        and sum(row.get(UNKNOWN_LABELLED) or ()) <= (unknown or 0)
    )


def _confidence_fault(mask: np.ndarray, row: dict[str, Any], expected: Expected) -> str | None:
    """Return what is wrong with a row's confidence map, as the end of a sentence that starts with the map's name."""
    try:
        confidence = decode_mask((row[CONFIDENCE_MAP] or {}).get("bytes") or b"")
    except UserError as error:
        return f": {error}"
    if confidence.shape != mask.shape:
        return f" is {confidence.shape}, the mask {mask.shape}"
    below, ignored = expected.confidence.unknown_below, mask == IGNORE
    # Pixels without data are 0. Elsewhere, the largest of C probabilities is at least 1/C; + 1 allows for rounding to a level.
    if (confidence[~ignored].astype(int) + 1 < LEVELS / expected.space.num_classes).any():
        return f" has levels below those of a probability of 1/{expected.space.num_classes}, at pixels of a class"
    if below is None:
        return " is not 0 where the mask has no data" if confidence[ignored].any() else None
    if (ignored != is_unknown(confidence, below)).any():
        return f" and the mask disagree: a pixel is 255 where its confidence is below {below:g}, and nowhere else"
    return None


def _pixels(mask: np.ndarray, num_classes: int) -> list[int] | None:
    """Return the pixels of each class; None if there are pixels of no class."""
    try:
        counts: list[int] = count_confusion(mask, mask, num_classes).diagonal().tolist()
    except ValueError:
        return None
    return counts
