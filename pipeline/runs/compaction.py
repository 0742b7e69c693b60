"""Copy a finished run into a run of its own, with few large parts.

No store renames many objects at once, so parts are never replaced in place: whoever reads `masks/part-*.parquet` of either
run at any moment sees each image of that run once. The copy has the same rows in the same order, the same plan and the same
fingerprint. Once its own `_SUCCESS.json` is written, readers can use it, and the first run can be deleted.

The copy of a run with several generations has one: its plan holds what the newest generation answers, with shards renumbered,
so its fingerprint differs.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import UserError
from pipeline.runs.generations import folder, grown, listed_parts, plan_of
from pipeline.runs.info import (
    CompactedFrom,
    PlanInfo,
    RunInfo,
    Success,
    create_info,
    describe,
    fingerprint_of,
    read_success,
    run_exists,
    success_sha256,
)
from pipeline.runs.lease import Lease
from pipeline.runs.ledger import Run
from pipeline.runs.parts import Part, PartWriter, footer_of, parts_of, read_table
from pipeline.runs.plan import Plan, write_plan
from pipeline.runs.regions import regions_metadata, regions_name, regions_table
from pipeline.runs.schema import part_metadata
from pipeline.runs.success import Finished, rejects_part, write_success

PART_BYTES = 256_000_000  # parts have 0.67 to 1.5 times this size, or the whole run is one part
GROUP_BYTES = 16_000_000  # of masks in a row group, which a reader holds in memory


def compact(
    run_uri: str, out: str, part_bytes: int = PART_BYTES, on_part: Callable[[int, int], None] = lambda done, parts: None
) -> Finished:
    """Write a copy of a finished run with large parts at `out`; call it again to resume. Memory holds one part.

    Args:
        on_part: called with (parts done, total).
    Raises:
        UserError: the run is not finished, or changed meanwhile, or `out` holds something else.
    """
    source, state = Run.open(run_uri), grown(run_uri)
    made_from = CompactedFrom(uri=run_uri, success_sha256=_success(source))
    if storage.join(run_uri) == storage.join(out):
        raise UserError(f"compact {run_uri}: the copy needs a folder of its own; give another --out")
    with Lease(out) as lease:
        _describe(source, state, out, made_from)
        copy = Run.open(out)
        if done := copy.finished():
            return done
        groups = list(_groups(_parts(source, state), part_bytes))
        written = {part.first for part in parts_of(out, "masks")}
        for number, group in enumerate(groups):
            if group[0].first not in written:
                _write(source, copy, group)
            on_part(number + 1, len(groups))
        lease.check()
        if _success(source) != made_from.success_sha256:
            raise UserError(f"run {run_uri}: it was changed while it was compacted; delete {out} and compact it again")
        ended = read_success(run_uri)
        assert ended is not None  # its hash has just been compared
        moment = ended.finished  # when the run was finished, not its copy
        return write_success(
            out,
            copy.fingerprint,
            copy.label_space,
            copy.shard_sizes(),
            1,
            moment,
            lease.check,
            parts_of(out, "masks"),
            source.has_regions,
        )


def _success(source: Run) -> str:
    """Return the sha256 of the run's `_SUCCESS.json`; UserError if the run is not finished."""
    sha256 = success_sha256(source.uri)
    if sha256 is not None and source.finished() is not None:
        return sha256
    raise UserError(
        f"run {source.uri} is not finished (no _SUCCESS.json, or a part of which it speaks is gone); finish it first: "
        "maskmill resume"
    )


def _describe(source: Run, state: Success | None, out: str, made_from: CompactedFrom) -> None:
    """Write the copy's plan and run.json, unless they are there."""
    if not run_exists(out):
        info = describe(source.uri)
        if state is None:
            for part in source.plan.parts:
                storage.put(storage.join(out, part.name), storage.read(storage.join(source.uri, part.name)))
        else:
            planned = describe(
                folder(source.uri, state.generation)
            ).created  # files written later are not those answered
            made = write_plan(out, _renumbered(plan_of(source.uri, info, state)))
            info = _with_plan(info, made).model_copy(update={"created": planned})
        create_info(out, info.model_copy(update={"compacted_from": made_from}))
    if describe(out).compacted_from != made_from:
        raise UserError(
            f"compact: {out} is another run, or the copy of another state of {source.uri}; give another --out"
        )


def _with_plan(info: RunInfo, plan: PlanInfo) -> RunInfo:
    identity = {**info.identity, "plan_sha256": plan.sha256}
    return info.model_copy(update={"plan": plan, "identity": identity, "fingerprint": fingerprint_of(identity)})


def _numbers(sizes: np.ndarray) -> np.ndarray:
    """Return (num_shards,) int64: each shard's number in the copy, which drops shards that have no images left."""
    return np.cumsum(sizes > 0) - 1


def _renumbered(plan: Plan) -> Iterator[pa.Table]:
    """Yield the tables of a plan of several generations, with the copy's shard numbers."""
    numbers = _numbers(plan.sizes())
    for table in plan.tables():
        if table.num_rows:
            at = table.schema.get_field_index("shard")
            shards = pa.array(numbers[table["shard"].to_numpy()], table.schema.field(at).type)
            yield table.set_column(at, table.schema.field(at), shards)


def _parts(source: Run, state: Success | None) -> list[Part]:
    """Return the masks parts of a run, in order; if it has several generations, with the copy's shard numbers."""
    if state is None:
        return parts_of(source.uri, "masks")
    info = describe(source.uri)
    sizes, found = plan_of(source.uri, info, state).sizes(), list[Part]()
    numbers = _numbers(sizes)
    for part in listed_parts(source.uri, info, "masks", state):
        live = np.flatnonzero(sizes[part.first : part.last + 1]) + part.first
        found.append(replace(part, first=int(numbers[live[0]]), last=int(numbers[live[-1]])))
    return found


def _groups(parts: list[Part], part_bytes: int) -> Iterator[list[Part]]:
    """Yield groups of neighbouring parts of about equal size, near `part_bytes`; each becomes one part."""
    total = sum(part.bytes for part in parts)
    wanted = total / max(1, round(total / part_bytes))
    group, before, taken = list[Part](), 0, 0.0
    for part in parts:
        # A group ends where the total is nearest to a multiple of `wanted`, so that errors do not add up.
        if group and abs(before - taken - wanted) <= abs(before + part.bytes - taken - wanted):
            yield group
            group, taken = [], taken + wanted
        group.append(part)
        before += part.bytes
    if group:
        yield group


def _write(source: Run, copy: Run, group: list[Part]) -> None:
    """Write one part of the copy; its rejects and regions first, since a masks part means that its shards are complete."""
    first, last = group[0].first, group[-1].last
    out, metadata = copy.uri, part_metadata(copy.fingerprint, copy.label_space, first, last)
    writer, waiting, waiting_bytes, rejects = None, list[pa.Table](), 0, list[dict[str, Any]]()
    regions, with_masks = list[pa.Table](), list[pa.Table]()
    for number, part in enumerate(group):
        data = storage.read(part.uri)
        footer = footer_of(data, part.name)
        if part.file is None:  # with several generations, listed_parts has compared each part already
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
        name, content = rejects_part(copy.fingerprint, copy.label_space, first, last, rejects)
        storage.put(storage.join(out, name), content)
    if source.has_regions:
        described = regions_metadata(footer_of(masks, target.name), with_masks)
        storage.put(storage.join(out, regions_name(target)), _joined(regions, described))
    storage.put(target.uri, masks)


def _joined(tables: list[pa.Table], metadata: dict[str, str]) -> bytes:
    """Return the bytes of one regions part of several tables, with a row group for each."""
    described = [table.replace_schema_metadata(metadata).combine_chunks() for table in tables]
    writer = PartWriter(described[0].schema)
    for table in described:
        writer.add(table)
    return writer.finish()
