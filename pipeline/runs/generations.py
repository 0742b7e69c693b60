"""A run over an archive that grows: numbered generations; `_SUCCESS.json` describes the newest.

<run>/run.json, plan/            of the first generation; never changed
<run>/generations/00002/         a run of its own that answers new and replaced images: run.json, plan/, _SUCCESS.json; and
                                 masks/, rejects/, attempts/ until its parts are published
<run>/generations/00002/changes.parquet      each image that is new, replaced or gone, and which shard answered it before
<run>/generations/00002/withdrawn/masks/...  unchanged copies of the parts that the generation superseded
<run>/generations/00001.json     a copy of the `_SUCCESS.json` of each generation
<run>/masks/part-g00002-00000.parquet    shard 0 of generation 2
<run>/masks/part-00042.g00002.parquet    shard 42 of the first generation without the rows that generation 2 withdrew

The parts that `_SUCCESS.json` lists are one complete generation. pipeline/runs/extension.py makes a new one.
"""

import hashlib
import io
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.read_ahead import read_ahead
from pipeline.runs.info import (
    GenerationInfo,
    PartEntry,
    RunInfo,
    Success,
    check_success,
    describe,
    parse_success,
    read_success,
    run_exists,
    success_uri,
)
from pipeline.runs.parts import THREADS, Part, checked_parts, part_name, read_footer
from pipeline.runs.plan import Plan

NEW, REPLACED, GONE = "new", "replaced", "gone"
CHANGES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("change", pa.string(), nullable=False),  # new, replaced or gone
        pa.field("generation", pa.int32()),  # the one whose plan had the image; null for a new image
        pa.field("shard", pa.int32()),  # of that plan
    ]
)
_NAME = re.compile(r"(\w+)/part-(?:g(\d{5})-)?(\d{5,})(?:-(\d{5,}))?(?:\.g(\d{5}))?\.parquet")
_RESTORE = "restore the file from a copy"


@dataclass(frozen=True)
class Generation:
    """One state of a run: the parts that hold its rows, and its changes to the state before."""

    run_uri: str
    number: int
    finished: str  # ISO 8601
    fingerprint: str  # of the rows that this generation answered
    images: int  # in the archive
    rows: int
    rejects: int
    new: int
    replaced: int
    gone: int
    parts: dict[str, PartEntry]  # of the whole run as of this generation, by name relative to it

    def uri(self, name: str) -> str:
        """Return where a part is now: parts that a later generation superseded were moved."""
        return storage.join(self.run_uri, self.name_now(name))

    def name_now(self, name: str) -> str:
        """Return the same, relative to the run."""
        if storage.exists(storage.join(self.run_uri, name)):
            return name
        for later in count(self.number + 1):
            moved = withdrawn_name(later, name)
            if storage.exists(storage.join(self.run_uri, moved)):
                return moved
            if not run_exists(folder(self.run_uri, later)):
                break
        raise UserError(f"run {self.run_uri}: {name} of generation {self.number} is gone; {_RESTORE}")


def generations(uri: str) -> list[Generation]:
    """Return all generations of a finished run, the oldest first; a run that was never extended has one.

    Raises:
        UserError: there is no run, it is not finished, or the record of a generation is gone or damaged.
    """
    info, newest = describe(uri), read_success(uri)
    if newest is None:
        raise UserError(f"run {uri} is not finished (no _SUCCESS.json); finish it first: maskmill resume {uri}")
    check_success(uri, newest, info.fingerprint)
    return [_generation(uri, info, state_of(uri, newest, number)) for number in range(1, newest.generation + 1)]


def _generation(uri: str, info: RunInfo, state: Success) -> Generation:
    last = state.generations[-1] if state.generations else None
    images = num_images(info, state)
    new, replaced, gone = (images, 0, 0) if last is None else (last.new, last.replaced, last.gone)
    fingerprint = info.fingerprint if last is None else last.fingerprint
    return Generation(
        uri, state.generation, state.finished, fingerprint, images, state.rows, state.rejects, new, replaced, gone,
        dict(state.parts),
    )  # fmt: skip


def folder(uri: str, number: int) -> str:
    """Return the folder in which a generation after the first is made, and where its records stay."""
    return storage.join(uri, "generations", f"{number:05d}")


def kept_uri(uri: str, number: int) -> str:
    """Return the URI of the kept `_SUCCESS.json` of a generation."""
    return storage.join(uri, "generations", f"{number:05d}.json")


def withdrawn_name(number: int, name: str) -> str:
    """Return the name, relative to the run, to which a part is moved that a generation supersedes."""
    return f"generations/{number:05d}/withdrawn/{name}"


def num_images(info: RunInfo, state: Success | None) -> int:
    """Return the number of images in the archive as of a state of a run."""
    return info.plan.images if state is None or not state.generations else state.generations[-1].images


def newest_state(uri: str) -> Success | None:
    """Return the state that readers use: `_SUCCESS.json`, or the newest kept copy if that is gone; None: not finished."""
    success = read_success(uri)
    if success is None and storage.exists(kept_uri(uri, 2)):
        number = 2
        while storage.exists(kept_uri(uri, number + 1)):
            number += 1
        success = _kept(uri, number)
    return success


def forget_unpublished(uri: str) -> None:
    """Delete the state that an extension left which was killed just before it was published; the run has one generation.

    Without `_SUCCESS.json`, which is about to be deleted, `newest_state` would take it for the run's.
    """
    storage.delete(kept_uri(uri, 2))


def grown(uri: str) -> Success | None:
    """Return the newest state of a run if it has more than one generation; else None."""
    state = newest_state(uri)
    return state if state is not None and state.generations else None


def refuse_grown(uri: str, command: str, instead: str) -> None:
    """Raise UserError if a run has several generations, which a command does not support."""
    if state := grown(uri):
        raise UserError(f"run {uri} has {state.generation} generations, which {command} cannot take; {instead}")


def state_of(uri: str, newest: Success, number: int) -> Success:
    """Return the state of a run at one of its generations; UserError if there is no such generation, or its record is gone."""
    if not 1 <= number <= newest.generation:
        raise UserError(f"run {uri} has no generation {number}; it has 1 to {newest.generation}")
    return newest if number == newest.generation else _kept(uri, number)


def _kept(uri: str, number: int) -> Success:
    name = f"generations/{number:05d}.json"
    try:
        data = storage.read(kept_uri(uri, number))
    except FileNotFoundError:
        raise UserError(f"run {uri}: {name} is gone, the state of generation {number}; {_RESTORE}") from None
    return parse_success(data, f"run {uri}: {name}", _RESTORE)


def read_changes(uri: str, number: int, entry: GenerationInfo | None = None) -> pa.Table:
    """Return the changes of a generation, a table of `CHANGES`; UserError if gone, or not the file that `entry` names."""
    place = storage.join(folder(uri, number), "changes.parquet")
    try:
        data = storage.read(place)
    except FileNotFoundError:
        raise UserError(f"run {uri}: {place} is gone; {_RESTORE}") from None
    if entry is not None and hashlib.sha256(data).hexdigest() != entry.changes_sha256:
        raise UserError(f"run {uri}: {place} is not the file that generation {number} was made with; {_RESTORE}")
    return pq.read_table(io.BytesIO(data))


class GrownPlan(Plan):
    """The plan of a run with several generations: their plans one after the other, without withdrawn images.

    Shard numbers continue from generation to generation, as in `Part`.
    """

    def __init__(self, uri: str, first: RunInfo, entries: tuple[GenerationInfo, ...]) -> None:
        super().__init__(uri, first.plan)
        self._plans = [Plan(uri, first.plan)]
        self._plans += [Plan(folder(uri, one.number), describe(folder(uri, one.number)).plan) for one in entries]
        self._starts = shard_starts(first, entries)
        self._entries = entries
        self.num_shards = self._starts[-1] + self._plans[-1].num_shards
        self.num_images = entries[-1].images

    @cached_property
    def _withdrawn(self) -> list[pa.Array]:
        """For each generation's plan, the images whose rows a later generation withdrew."""
        ids: list[list[str]] = [[] for _ in self._plans]
        for entry in self._entries:
            changes = read_changes(self._run_uri, entry.number, entry)
            rows = changes.filter(pc.is_valid(changes["generation"]))
            for image_id, generation in zip(rows["image_id"].to_pylist(), rows["generation"].to_pylist(), strict=True):
                ids[generation - 1].append(image_id)
        return [pa.array(those, pa.string()) for those in ids]

    def _live(self, place: int, table: pa.Table) -> pa.Table:
        """Return the rows of one plan's table that are not withdrawn, with the run's shard numbers."""
        if len(self._withdrawn[place]) and "image_id" in table.column_names:
            table = table.filter(pc.invert(pc.is_in(table["image_id"], self._withdrawn[place])))
        if "shard" in table.column_names and self._starts[place]:
            at = table.schema.get_field_index("shard")
            moved = pc.add(table["shard"], pa.scalar(self._starts[place], table["shard"].type))
            table = table.set_column(at, table.schema.field(at), moved)
        return table

    def shard(self, shard: int) -> pa.Table:
        place = generation_with(self._starts, shard) - 1
        return self._live(place, self._plans[place].shard(shard - self._starts[place]))

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        asked = None if columns is None else [*dict.fromkeys([*columns, "image_id"])]
        for place, plan in enumerate(self._plans):
            for table in plan.tables(asked):
                live = self._live(place, table)
                yield live if columns is None else live.select(columns)

    def has_labels(self) -> bool:
        return any(plan.has_labels() for plan in self._plans)

    def sizes(self) -> np.ndarray:
        """Return (num_shards,) int64: the images of each shard that are not withdrawn."""
        sizes = np.zeros(self.num_shards, np.int64)
        for table in self.tables(["shard"]):
            np.add.at(sizes, table["shard"].to_numpy(), 1)
        return sizes


def plan_of(uri: str, info: RunInfo, state: Success | None) -> Plan:
    """Return the plan of a run as of a state: all images that it answers."""
    if state is None or not state.generations:
        return Plan(uri, info.plan)
    return GrownPlan(uri, info, state.generations)


def listed_parts(uri: str, info: RunInfo, kind: str, state: Success | None) -> list[Part]:
    """Return the parts of a kind in a state of a run, in the order of their shards; if the run was never extended, all parts
    that exist. Reads their footers.

    Raises:
        UserError: a part belongs to another run, or is not the one that was committed.
    """
    if state is None or not (state.generations or storage.exists(kept_uri(uri, 1))):
        return checked_parts(uri, kind, info.fingerprint)
    found = parts_in(uri, info, state, kind)
    newest = read_success(uri) or state
    if state.generation < newest.generation:
        one = _generation(uri, info, state)
        found = [part if part.name in newest.parts else replace(part, file=one.name_now(part.name)) for part in found]
    for part, reading in read_ahead(lambda part: read_footer(part, _fingerprint(info, state, part)), found, THREADS):
        try:
            footer = reading.result()
        except FileNotFoundError:
            raise UserError(f"run {uri}: {part.name} is gone; {_RESTORE}, or open the run again") from None
        if footer.sha256 != state.parts[committed_name(part)].footer_sha256:
            raise UserError(f"run {uri}: {part.name} is not the file that was committed (sha256 differs); {_RESTORE}")
    return found


def parts_in(uri: str, info: RunInfo, state: Success, kind: str | None = None) -> list[Part]:
    """Return the parts that a state lists, of one kind or of all, in the order of their shards, without opening them."""
    starts = shard_starts(info, state.generations)
    found = []
    for name, entry in state.parts.items():
        origin, first, last, named = parse_name(uri, name)
        if kind in (None, named):
            before = starts[origin - 1]
            found.append(Part(uri, named, entry.bytes, before + first, before + last, name, before))
    return sorted(found, key=lambda part: (part.first, part.kind))


def parse_name(uri: str, name: str) -> tuple[int, int, int, str]:
    """Return a part's generation, first and last shard in that generation's plan, and kind, from its name in the run."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"run {uri}: _SUCCESS.json lists '{name}', which is not the name of a part; {_RESTORE}")
    first = int(match[3])
    return int(match[2] or 1), first, int(match[4] or first), match[1]


def committed_name(part: Part) -> str:
    """Return the name of a part in the run when it was committed, wherever it is now."""
    return part.name.rpartition("withdrawn/")[2]


def generation_of(part: Part) -> int:
    """Return the generation that answered the rows of a part."""
    return parse_name(part.run_uri, committed_name(part))[0]


def published_name(kind: str, number: int, first: int, last: int) -> str:
    """Return the name in the run of a part of a generation after the first."""
    return f"{kind}/part-g{number:05d}-{part_name(first, last).removeprefix('part-')}"


def without_name(name: str, number: int) -> str:
    """Return the new name of a part after a generation withdrew some of its rows."""
    stem = re.sub(r"(\.g\d{5})?\.parquet$", "", name)
    return f"{stem}.g{number:05d}.parquet"


def shard_starts(info: RunInfo, entries: tuple[GenerationInfo, ...]) -> list[int]:
    """Return, for each generation, the number of shards in the generations before it."""
    return [0, *np.cumsum([info.plan.shards, *(one.shards for one in entries)]).tolist()][: 1 + len(entries)]


def generation_with(starts: list[int], shard: int) -> int:
    """Return the generation whose plan has a shard, as the run numbers it; `starts` is the result of `shard_starts`."""
    return bisect_right(starts, shard)


def fingerprints(info: RunInfo, entries: tuple[GenerationInfo, ...]) -> Mapping[int, str]:
    """Return generation -> fingerprint of the rows that it answered."""
    return {1: info.fingerprint, **{one.number: one.fingerprint for one in entries}}


def _fingerprint(info: RunInfo, state: Success, part: Part) -> str:
    return fingerprints(info, state.generations)[generation_of(part)]


def state_bytes(uri: str) -> bytes:
    """Return the bytes of a run's `_SUCCESS.json`."""
    return storage.read(success_uri(uri))
