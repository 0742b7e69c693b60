"""Add a generation to a run: stage it, answer it as a run of its own, and publish it.

Readers of `_SUCCESS.json` see no change until that file is replaced, in one write. Every step can be repeated, so that the same
command resumes after a kill. pipeline/runs/generations.py lists the files.
"""

import hashlib
import io
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus import plan_shards
from pipeline.corpus.listing import Listing
from pipeline.errors import UserError
from pipeline.read_ahead import read_ahead
from pipeline.runs.changes import Changes, Planned
from pipeline.runs.generations import (
    GONE,
    NEW,
    REPLACED,
    folder,
    kept_uri,
    listed_parts,
    newest_state,
    num_images,
    parse_name,
    parts_in,
    plan_of,
    published_name,
    read_changes,
    shard_starts,
    state_bytes,
    withdrawn_name,
    without_name,
)
from pipeline.runs.info import (
    GenerationInfo,
    PartEntry,
    RunInfo,
    Success,
    create_info,
    describe,
    files_of,
    fingerprint_of,
    parse_success,
    read_success,
    root_of,
    run_exists,
    success_uri,
)
from pipeline.runs.lease import Lease
from pipeline.runs.origin import commit, machine
from pipeline.runs.parts import KINDS, REJECTS, SHA256, Part, PartWriter, footer_of, read_table
from pipeline.runs.plan import Plan, write_plan
from pipeline.runs.regions import regions_part
from pipeline.runs.schema import GROWN_FORMAT

_THREADS = 4  # parts that are copied at a time, each held in memory as bytes
WITHDRAWN = "maskmill.withdrawn"  # key of a part's metadata: JSON list of the ids whose rows were removed


@dataclass(frozen=True)
class Staged:
    """A generation that is not published yet."""

    run_uri: str
    number: int

    @property
    def uri(self) -> str:
        """URI of the run that answers its images."""
        return folder(self.run_uri, self.number)

    @property
    def plan(self) -> Plan:
        return Plan(self.uri, describe(self.uri).plan)


def staged(uri: str, state: Success) -> Staged | None:
    """Return the generation after a state if it was begun and is not published; else None."""
    found = Staged(uri, state.generation + 1)
    return found if run_exists(found.uri) else None


def is_being_extended(uri: str) -> bool:
    """Return whether a finished run has a generation that was begun and is not published."""
    state = newest_state(uri)
    return state is not None and staged(uri, state) is not None


def planned(
    uri: str, info: RunInfo, state: Success, again: Iterable[str] = (), written: Mapping[str, float] | None = None
) -> Planned:
    """Return the plan of a run as of a state, for comparison with its archive; `again` and `written` as in `Planned`."""
    infos = [info, *(describe(folder(uri, one.number)) for one in state.generations)]
    moments = [datetime.fromisoformat(one.created).timestamp() + 1 for one in infos]  # `created` has whole seconds
    return Planned(plan_of(uri, info, state), shard_starts(info, state.generations), moments, again, written)


def rejected_ids(uri: str, info: RunInfo, state: Success) -> list[str]:
    """Return the ids of a run's rejected images."""
    parts = listed_parts(uri, info, "rejects", state)
    return [image_id for part in parts for image_id in read_table(storage.read(part.uri), ["image_id"])[0].to_pylist()]


def stage(
    uri: str, info: RunInfo, state: Success, known: Planned, items: Listing, check: Callable[[Changes], None]
) -> tuple[Staged | None, Changes]:
    """Plan the next generation; return None in its place if nothing differs.

    Args:
        check: called with the changes before the generation is begun; may raise.
    Raises:
        UserError: the archive has a group column that the run's rows lack.
    """
    found, changes = Staged(uri, state.generation + 1), Changes()
    groups = Plan(uri, info.plan).group_fields
    if added := [field.name for field in items.group_fields if field.name not in {one.name for one in groups}]:
        raise UserError(
            f"run {uri}: the archive's images have the group '{added[0]}' now, which the run's rows lack; start another run"
        )
    config = info.config
    different = Listing(known.to_answer(items, changes), groups)
    plan = write_plan(found.uri, plan_shards(different, config["images_per_shard"], config["bytes_per_shard"]))
    if not changes.rows:
        return None, changes
    check(changes)
    file = io.BytesIO()
    pq.write_table(changes.table(), file, compression="zstd")
    storage.put(storage.join(found.uri, "changes.parquet"), file.getvalue())
    identity = {**info.identity, "plan_sha256": plan.sha256}
    for kept in storage.scan(storage.join(uri, "engine")):
        storage.put(storage.join(found.uri, "engine", kept.path), storage.read(kept.uri))
    staged_info = info.model_copy(
        update={
            "identity": identity, "fingerprint": fingerprint_of(identity), "plan": plan, "commit": commit(),
            "config": {**config, "output": found.uri}, "machine": machine(), "compacted_from": None,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )  # fmt: skip
    create_info(found.uri, staged_info)
    return found, changes


def publish(made: Staged, lease: Lease) -> Success:
    """Make a completely answered generation the newest of its run; call it again to resume after a kill.

    Raises:
        UserError: the generation's run is not finished, or a part is gone or of another run.
    """
    uri, info = made.run_uri, describe(made.run_uri)
    answered = read_success(made.uri)
    if answered is None:
        raise UserError(f"run {made.uri} is not finished; run the same command again")
    before, data = _state_before(made)
    storage.put(kept_uri(uri, made.number - 1), data)
    changes = read_changes(uri, made.number)
    kept = _without_withdrawn(made, info, before, changes)
    kept.entries.update(_copied(made, answered))
    counts = Counter(changes["change"].to_pylist())
    state = _state(made, info, before, answered, kept, counts, hashlib.sha256(data).hexdigest())
    storage.put(kept_uri(uri, made.number), state.content())
    lease.check()
    storage.put(success_uri(uri), state.content())
    tidy(uri, state)
    return state


def tidy(uri: str, state: Success) -> None:
    """Remove superseded parts and the newest generation's working files; `_SUCCESS.json` refers to none of them."""
    if not state.generations:
        return
    before = parse_success(
        storage.read(kept_uri(uri, state.generation - 1)),
        f"run {uri}: the state before",
        "restore the file from a copy",
    )
    for name in before.parts.keys() - state.parts.keys():
        storage.delete(storage.join(uri, name))
    made = folder(uri, state.generation)
    for kind in (*KINDS, "attempts", "engine"):
        for file in storage.list_files(storage.join(made, kind)):
            storage.delete(file.uri)


def _state_before(made: Staged) -> tuple[Success, bytes]:
    data = state_bytes(made.run_uri)
    state = parse_success(data, f"run {made.run_uri}: _SUCCESS.json", "restore the file from a copy")
    if state.generation != made.number - 1:
        raise UserError(f"run {made.run_uri} is at generation {state.generation} already; run the same command again")
    return state, data


def _copied(made: Staged, answered: Success) -> dict[str, PartEntry]:
    """Copy the generation's parts to their names in the run; return the entries by name."""

    def copy(name: str) -> tuple[str, PartEntry]:
        _, first, last, kind = parse_name(made.uri, name)
        published = published_name(kind, made.number, first, last)
        data = storage.read(storage.join(made.uri, name))
        if footer_of(data, name).sha256 != answered.parts[name].footer_sha256:
            raise UserError(f"run {made.uri}: {name} is not the file that was committed; delete it and run again")
        storage.put(storage.join(made.run_uri, published), data)
        return published, answered.parts[name]

    return dict(copied.result() for _, copied in read_ahead(copy, sorted(answered.parts), _THREADS))


@dataclass
class _Kept:
    """Parts that a generation keeps of the one before."""

    entries: dict[str, PartEntry] = field(default_factory=dict)
    withdrawn_rejects: Counter[str] = field(default_factory=Counter)  # by reason


def _without_withdrawn(made: Staged, info: RunInfo, before: Success, changes: pa.Table) -> _Kept:
    """Keep the parts of the state before; those with withdrawn rows are set aside, and written again without those rows."""
    uri, kept, ids_of = made.run_uri, _Kept(), _withdrawn(changes, info, before)
    numbers = sorted(ids_of)
    for part in parts_in(uri, info, before):
        ids = [image_id for shard in _within(numbers, part) for image_id in ids_of[shard]]
        if not ids:
            kept.entries[part.name] = before.parts[part.name]
            continue
        data = storage.read(part.uri)
        footer = footer_of(data, part.name)
        if footer.sha256 != before.parts[part.name].footer_sha256:
            raise UserError(f"run {uri}: {part.name} is not the file that was committed; restore the file from a copy")
        storage.put(storage.join(uri, withdrawn_name(made.number, part.name)), data)
        if part.kind == "masks":
            kept.withdrawn_rejects.update(row["error"] for row in footer.rejects if row["image_id"] in set(ids))
        for name, rest in _rewritten(info, part, made.number, data, ids):
            storage.put(storage.join(uri, name), rest)
            written = footer_of(rest, name)
            kept.entries[name] = PartEntry(bytes=len(rest), rows=written.rows, footer_sha256=written.sha256)
    return kept


def _rewritten(info: RunInfo, part: Part, number: int, data: bytes, ids: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name in the run and bytes of what is left of a part in a generation; a masks part yields its regions part too."""
    if part.kind == "regions" or (rest := _without(data, part.kind, ids)) is None:
        return
    yield without_name(part.name, number), rest
    if part.kind == "masks" and info.regions is not None:
        name, regions = regions_part(info.label_space.space, part, rest)
        yield without_name(name, number), regions


def _withdrawn(changes: pa.Table, info: RunInfo, before: Success) -> dict[int, list[str]]:
    """Return shard, as the run numbers it -> its images whose rows the generation withdraws."""
    old = changes.filter(pc.is_valid(changes["generation"]))
    starts, ids_of = shard_starts(info, before.generations), dict[int, list[str]]()
    for row in old.to_pylist():
        ids_of.setdefault(starts[row["generation"] - 1] + row["shard"], []).append(row["image_id"])
    return ids_of


def _within(numbers: list[int], part: Part) -> list[int]:
    """Return those of the sorted shard numbers that a part answers."""
    return numbers[bisect_left(numbers, part.first) : bisect_right(numbers, part.last)]


def _without(data: bytes, kind: str, ids: list[str]) -> bytes | None:
    """Return a part's bytes without the rows of some images; None if no rows would be left."""
    file = pq.ParquetFile(pa.BufferReader(data))
    known = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
    told = [*json.loads(known.get(WITHDRAWN, "[]")), *sorted(ids)]
    kept = {key: value for key, value in known.items() if key.startswith("maskmill.") and key not in (SHA256, REJECTS)}
    metadata = {**kept, WITHDRAWN: json.dumps(told)}
    gone, left, writer = pa.array(ids, pa.string()), 0, None
    for group in range(file.metadata.num_row_groups):
        table = file.read_row_group(group, use_threads=False)
        table = table.filter(pc.invert(pc.is_in(table["image_id"], gone))).replace_schema_metadata(metadata)
        writer = writer or PartWriter(table.schema)
        if table.num_rows or group == 0:
            writer.add(table.combine_chunks())
        left += table.num_rows
    assert writer is not None
    if kind != "masks":
        return writer.finish() if left else None
    rejects = [row for row in json.loads(known.get(REJECTS, "[]")) if row["image_id"] not in set(ids)]
    return writer.finish(rejects) if left or rejects else None


def _state(
    made: Staged,
    info: RunInfo,
    before: Success,
    answered: Success,
    kept: _Kept,
    counts: Counter[str],
    previous: str,
) -> Success:
    """Return the `_SUCCESS.json` of the new generation; `kept` has the parts, `counts` the number of each kind of change."""
    this = GenerationInfo(
        number=made.number,
        fingerprint=answered.fingerprint,
        finished=answered.finished,
        images=num_images(info, before) + counts[NEW] - counts[GONE],
        new=counts[NEW],
        replaced=counts[REPLACED],
        gone=counts[GONE],
        shards=made.plan.num_shards,
        changes_sha256=hashlib.sha256(storage.read(storage.join(made.uri, "changes.parquet"))).hexdigest(),
    )
    reasons = Counter(before.rejects_by_reason) + Counter(answered.rejects_by_reason)
    reasons.subtract(kept.withdrawn_rejects)
    rows = {
        kind: sum(entry.rows for name, entry in kept.entries.items() if name.startswith(f"{kind}/")) for kind in KINDS
    }
    state = Success(
        format=GROWN_FORMAT,
        fingerprint=info.fingerprint,
        finished=answered.finished,
        rows=rows["masks"],
        rejects=rows["rejects"],
        rejects_by_reason={reason: count for reason, count in reasons.most_common() if count},
        parts=kept.entries,
        generations=(*before.generations, this),
        regions=None if info.regions is None else rows["regions"],
        previous_sha256=previous,
    )
    parts = {part.name: state.parts[part.name] for part in parts_in(made.run_uri, info, state)}
    files = {**(before.files or files_of(made.run_uri, info)), **_files(made, this)}
    return state.model_copy(update={"parts": parts, "files": files, "root_sha256": root_of(files, parts)})


def _files(made: Staged, this: GenerationInfo) -> dict[str, str]:
    """Return name in the run -> sha256 of the files that say which images a generation answers and withdraws."""
    below = f"generations/{made.number:05d}"
    found = {f"{below}/{name}": sha256 for name, sha256 in files_of(made.uri, describe(made.uri)).items()}
    return {**found, f"{below}/changes.parquet": this.changes_sha256}
