"""A finished run, written again with few large parts, as a run of its own beside it.

No store renames many objects at once, so parts are never replaced in place: whoever reads `masks/part-*.parquet` of either
run at any moment sees that run's images once each. The copy holds the same rows in the same order, the same plan and
fingerprint, and is finished by its own `_SUCCESS.json`; from then on readers can use it, and the first run can be deleted.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.errors import UserError
from pipeline.runs.generations import refuse_grown
from pipeline.runs.info import CompactedFrom, create_info, describe, read_success, run_exists, success_sha256
from pipeline.runs.lease import Lease
from pipeline.runs.ledger import Run
from pipeline.runs.parts import Part, PartWriter, footer_of, parts_of, read_table
from pipeline.runs.regions import regions_metadata, regions_name, regions_table
from pipeline.runs.schema import part_metadata
from pipeline.runs.success import Finished, rejects_part, write_success

PART_BYTES = 256_000_000  # parts come out between 0.67 and 1.5 of it, or the whole run in one
GROUP_BYTES = 16_000_000  # of masks in a row group: what a reader holds at a time


def compact(
    run_uri: str, out: str, part_bytes: int = PART_BYTES, on_part: Callable[[int, int], None] = lambda done, parts: None
) -> Finished:
    """Write a finished run's copy with large parts at `out`; again to go on after a kill. Memory holds one part.

    Args:
        on_part: called with (parts done, all).
    Raises:
        UserError: the run is not finished, changed meanwhile, or has several generations; something else is at `out`.
    """
    refuse_grown(run_uri, "compact", "compact a run before it is extended, or read the parts that _SUCCESS.json lists")
    source = Run.open(run_uri)
    made_from = CompactedFrom(uri=run_uri, success_sha256=_success(source))
    if storage.join(run_uri) == storage.join(out):
        raise UserError(f"compact {run_uri}: the copy needs a folder of its own; give another --out")
    with Lease(out) as lease:
        _describe(source, out, made_from)
        if done := Run.open(out).finished():
            return done
        groups = list(_groups(parts_of(run_uri, "masks"), part_bytes))
        written = {part.first for part in parts_of(out, "masks")}
        for number, group in enumerate(groups):
            if group[0].first not in written:
                _write(source, out, group)
            on_part(number + 1, len(groups))
        lease.check()
        if _success(source) != made_from.success_sha256:
            raise UserError(f"run {run_uri}: it was changed while it was compacted; delete {out} and compact it again")
        ended = read_success(run_uri)
        assert ended is not None  # it is the same as before
        moment = ended.finished  # of the run, not of its copy
        return write_success(
            out,
            source.fingerprint,
            source.label_space,
            source.shard_sizes(),
            1,
            moment,
            lease.check,
            source.has_regions,
        )


def _success(source: Run) -> str:
    """sha256 of the end of the run; UserError if it is not finished."""
    sha256 = success_sha256(source.uri)
    if sha256 is not None and source.finished() is not None:
        return sha256
    raise UserError(
        f"run {source.uri} is not finished (no _SUCCESS.json, or a part of which it speaks is gone); finish it first: "
        "maskmill resume"
    )


def _describe(source: Run, out: str, made_from: CompactedFrom) -> None:
    """The copy's plan and run.json."""
    if not run_exists(out):
        for part in source.plan.parts:
            storage.put(storage.join(out, part.name), storage.read(storage.join(source.uri, part.name)))
        create_info(out, describe(source.uri).model_copy(update={"compacted_from": made_from}))
    if describe(out).compacted_from != made_from:
        raise UserError(
            f"compact: {out} is another run, or the copy of another state of {source.uri}; give another --out"
        )


def _groups(parts: list[Part], part_bytes: int) -> Iterator[list[Part]]:
    """Neighbouring parts that become one: as many groups as there are `part_bytes` in all, of about equal size."""
    total = sum(part.bytes for part in parts)
    wanted = total / max(1, round(total / part_bytes))
    group, before, taken = list[Part](), 0, 0.0
    for part in parts:
        # The group ends where its end is nearest to its share, so that errors do not add up.
        if group and abs(before - taken - wanted) <= abs(before + part.bytes - taken - wanted):
            yield group
            group, taken = [], taken + wanted
        group.append(part)
        before += part.bytes
    if group:
        yield group


def _write(source: Run, out: str, group: list[Part]) -> None:
    """One part of the copy: its rejects and regions first, since a masks part says that its shards are answered whole."""
    first, last = group[0].first, group[-1].last
    metadata = part_metadata(source.fingerprint, source.label_space, first, last)
    writer, waiting, waiting_bytes, rejects = None, list[pa.Table](), 0, list[dict[str, Any]]()
    regions, with_masks = list[pa.Table](), list[pa.Table]()
    for number, part in enumerate(group):
        data = storage.read(part.uri)
        footer = footer_of(data, part.name)
        footer.check(part, source.fingerprint)
        rejects += footer.rejects
        waiting.append(read_table(data))
        waiting_bytes += part.bytes
        if waiting_bytes >= GROUP_BYTES or number == len(group) - 1:
            table = pa.concat_tables(table.replace_schema_metadata(metadata) for table in waiting).unify_dictionaries()
            writer = writer or PartWriter(table.schema)
            writer.add(table.combine_chunks())
            if source.has_regions:
                regions.append(regions_table(table, source.label_space))
                with_masks.append(table.drop_columns(["mask"]))
            waiting, waiting_bytes = [], 0
    assert writer is not None
    target, masks = Part(out, "masks", 0, first, last), writer.finish(rejects)
    if rejects:
        name, content = rejects_part(source.fingerprint, source.label_space, first, last, rejects)
        storage.put(storage.join(out, name), content)
    if source.has_regions:
        described = regions_metadata(footer_of(masks, target.name), with_masks)
        storage.put(storage.join(out, regions_name(target)), _joined(regions, described))
    storage.put(target.uri, masks)


def _joined(tables: list[pa.Table], metadata: dict[str, str]) -> bytes:
    """One regions part of several tables, a row group each."""
    described = [table.replace_schema_metadata(metadata).combine_chunks() for table in tables]
    writer = PartWriter(described[0].schema)
    for table in described:
        writer.add(table)
    return writer.finish()
