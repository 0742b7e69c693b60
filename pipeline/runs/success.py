"""Write `_SUCCESS.json`, which marks the end of a run, from the footers of its parts."""

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.read_ahead import read_ahead
from pipeline.runs.checked import entry_of
from pipeline.runs.info import PartEntry, Success, check_success, describe, files_of, put_success, read_success, root_of
from pipeline.runs.parts import (
    KINDS,
    THREADS,
    Footer,
    Part,
    footer_of,
    part_name,
    read_footer,
    scan_parts,
    write_part,
)
from pipeline.runs.regions import follows, regions_name, regions_part
from pipeline.runs.schema import FORMAT, REJECT_SCHEMA, part_metadata


@dataclass(frozen=True)
class Finished:
    """What `_SUCCESS.json` says."""

    rows: int
    rejects: int
    rejects_by_reason: dict[str, int]
    regions: int | None = None  # None: the run has no table of regions


def finished(run_uri: str, fingerprint: str) -> Finished | None:
    """Return what `_SUCCESS.json` says; None for a run that is not finished, or that has lost a part since.

    Raises:
        UserError: the file is damaged, contradicts itself, or belongs to another run.
    """
    success = read_success(run_uri)
    return None if success is None else still_finished(run_uri, fingerprint, success)


def still_finished(run_uri: str, fingerprint: str, success: Success) -> Finished | None:
    """Do the same with a `_SUCCESS.json` that was read already."""
    check_success(run_uri, success, fingerprint)
    kinds = KINDS if success.regions is not None else KINDS[:2]
    files = ((kind, file.path) for kind in kinds for file in storage.scan(storage.join(run_uri, kind)))
    if sum(f"{kind}/{path}" in success.parts for kind, path in files) < len(success.parts):
        return None
    return Finished(success.rows, success.rejects, success.rejects_by_reason, success.regions)


def rejects_part(
    fingerprint: str, space: LabelSpace, first: int, last: int, rejects: list[dict[str, Any]]
) -> tuple[str, bytes]:
    """Return name in the run and bytes of the rejects part of some shards; `rejects` come from their masks part."""
    table = pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA)
    return f"rejects/{part_name(first, last)}", write_part(table, part_metadata(fingerprint, space, first, last))


def write_success(
    run_uri: str,
    fingerprint: str,
    space: LabelSpace,
    sizes: np.ndarray,
    max_reject_rate: float,
    moment: str,
    check: Callable[[], None],
    masks: list[Part],
    regions: bool = False,
    known: Callable[[Part], PartEntry | None] = lambda part: None,
) -> Finished:
    """Write `_SUCCESS.json`, after making the rejects parts agree with the footers of the masks parts.

    Args:
        sizes: (shards,) number of images in each.
        moment: when the run ended, ISO 8601.
        check: called before steps that cannot be repeated.
        masks: the existing masks parts, in the order of their shards.
        regions: whether the run has a table of regions; its parts are made to agree with the masks too.
        known: returns the entry of a part without rejects whose footer need not be read; else None.
    Raises:
        UserError: a part belongs to another run or does not answer its shards, or more images were rejected than
            `max_reject_rate` allows.
    """
    rows, after, reasons, entries = 0, 0, Counter[str](), dict[str, PartEntry]()
    stale = {part.first: part for part in scan_parts(run_uri, "rejects")}  # those left at the end are in no masks part
    written_regions = {part.name: part for part in scan_parts(run_uri, "regions")} if regions else {}

    def read(part: Part) -> tuple[PartEntry, list[dict[str, Any]], PartEntry | None]:
        if not regions and (entry := known(part)) is not None:
            return entry, [], None
        footer = read_footer(part, fingerprint)
        of_regions = _regions_entry(fingerprint, space, part, footer, written_regions) if regions else None
        return entry_of(part.bytes, footer), footer.rejects, of_regions

    for part, reading in read_ahead(read, masks, THREADS):
        entry, rejects, of_regions = reading.result()
        images = int(sizes[part.first : part.last + 1].sum())
        if part.first < after or entry.rows + len(rejects) != images:
            raise UserError(
                f"run {run_uri}: {part.name} answers {entry.rows + len(rejects)} images, its shards have {images}, "
                f"{max(0, after - part.first)} of them answered by another part; delete it and run the same command again"
            )
        rows, after = rows + entry.rows, part.last + 1
        entries[part.name] = entry
        if of_regions is not None:
            name = regions_name(part)
            entries[name] = of_regions
            written_regions.pop(name, None)
        if rejects:
            reasons.update(row["error"] for row in rejects)
            name, data = rejects_part(fingerprint, space, part.first, part.last, rejects)
            written = stale.pop(part.first, None)
            if written is None or (written.last, written.bytes) != (part.last, len(data)):
                storage.put(storage.join(run_uri, name), data)
            entries[name] = entry_of(len(data), footer_of(data, name))
    for part in (*stale.values(), *written_regions.values()):
        check()
        storage.delete(part.uri)
    num_regions = sum(entry.rows for name, entry in entries.items() if name.startswith("regions/"))
    done = Finished(rows, reasons.total(), dict(reasons.most_common()), num_regions if regions else None)
    _check_rejects(run_uri, done, int(sizes.sum()), max_reject_rate)
    check()
    files = files_of(run_uri, describe(run_uri))
    success = Success(
        format=FORMAT, fingerprint=fingerprint, finished=moment, **vars(done), parts=entries, files=files,
        root_sha256=root_of(files, entries),
    )  # fmt: skip
    put_success(run_uri, success)
    return done


def _regions_entry(
    fingerprint: str, space: LabelSpace, part: Part, footer: Footer, written: dict[str, Part]
) -> PartEntry:
    """Return the entry of a masks part's regions part; write that if it is missing, or was made from another masks part."""
    if found := written.get(regions_name(part)):
        with contextlib.suppress(UserError, FileNotFoundError):
            own = read_footer(found, fingerprint)
            if follows(own, footer):
                return entry_of(found.bytes, own)
    name, data = regions_part(space, part, storage.read(part.uri))
    storage.put(storage.join(part.run_uri, name), data)
    return entry_of(len(data), footer_of(data, name))


def _check_rejects(run_uri: str, done: Finished, images: int, max_reject_rate: float) -> None:
    if done.rejects > max_reject_rate * images:
        counts = ", ".join(f"{count} {reason}" for reason, count in done.rejects_by_reason.items())
        raise UserError(
            f"run {run_uri}: {done.rejects} of {images} images were rejected ({counts}), more than "
            f"max_reject_rate {max_reject_rate} allows; see {run_uri}/rejects, repair the images or raise the rate"
        )
