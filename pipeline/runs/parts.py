"""The Parquet parts of a run: their names, their bytes, their footers.

A part's footer holds the sha256 of everything before it, and the rejects of its shards: the masks part of a shard is its
whole answer in one object. So a footer's own sha256 speaks for the part, and a run is proved whole from its footers.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.read_ahead import read_ahead
from pipeline.runs.schema import FINGERPRINT, PICTURE, REJECT_SCHEMA, SHARDS

SHA256, REJECTS = "maskmill.sha256", "maskmill.rejects"
KINDS = ("masks", "rejects", "regions")  # of parts; the last two follow from the first
THREADS = 16  # requests for footers at a time
_NAME = re.compile(r"part-(\d{5,})(?:-(\d{5,}))?\.parquet")
_TAIL_BYTES = 1 << 16  # holds the footer of any part but one with hundreds of rejects


@dataclass(frozen=True, slots=True)
class Part:
    """One file of masks, rejects or regions: the answer of one shard, or of several after compaction."""

    run_uri: str
    kind: str  # one of KINDS
    bytes: int
    first: int  # shard
    last: int  # shard, itself included
    file: str | None = None  # its name below the run where it is none of the first generation's: generations.py
    before: int = 0  # shards of the generations before its own: `first` and `last` count them, its footer does not
    stamp: str | float | None = field(default=None, compare=False)  # its etag, or else when it was stored, as listed

    @property
    def name(self) -> str:
        """Below the run."""
        return self.file or f"{self.kind}/{part_name(self.first, self.last)}"

    @property
    def uri(self) -> str:
        return storage.join(self.run_uri, self.name)

    @property
    def shards(self) -> str:
        """As the footer has them."""
        return f"{self.first - self.before}-{self.last - self.before}"


@dataclass(frozen=True)
class Footer:
    """What a part says of itself."""

    rows: int
    rejects: list[dict[str, Any]]
    body_sha256: str
    sha256: str  # of the footer's bytes
    metadata: dict[str, str]  # fingerprint, shards, format and label space: pipeline/runs/schema.py

    def check(self, part: Part, fingerprint: str) -> None:
        """UserError if a file is no part of a run, or not the part that its name says."""
        mine, said = self.metadata.get(FINGERPRINT, "none"), self.metadata.get(SHARDS)
        if mine != fingerprint:
            raise UserError(
                f"run {part.run_uri}: {part.name} is a part of another run (it carries the fingerprint {mine[:12]}, this run's "
                f"is {fingerprint[:12]}); delete the file and resume: maskmill resume {part.run_uri}"
            )
        if said != part.shards:
            raise UserError(
                f"run {part.run_uri}: {part.name} is another part of this run (it answers shards {said}); delete the file and "
                f"resume: maskmill resume {part.run_uri}"
            )


def part_name(first: int, last: int) -> str:
    """`part-00042.parquet` of one shard, `part-00000-00499.parquet` of several."""
    return f"part-{first:05d}.parquet" if first == last else f"part-{first:05d}-{last:05d}.parquet"


def scan_parts(run_uri: str, kind: str) -> Iterator[Part]:
    """The parts of a kind that are there, as the store lists them; none is opened."""
    for file in storage.scan(storage.join(run_uri, kind)):
        if part := part_at(run_uri, kind, file):
            yield part


def part_at(run_uri: str, kind: str, file: storage.FileInfo) -> Part | None:
    """The part that a file below the folder of a kind is by its name; None for any other file."""
    if not (match := _NAME.fullmatch(file.path)):
        return None
    first, stamp = int(match[1]), file.etag or file.modified
    last = int(match[2]) if match[2] else first
    part = Part(run_uri, kind, file.bytes, first, last, stamp=stamp)
    return part if part.first <= part.last and part.name == f"{kind}/{file.path}" else None


def parts_of(run_uri: str, kind: str) -> list[Part]:
    """The parts that are there, in the order of their shards."""
    return sorted(scan_parts(run_uri, kind), key=lambda part: part.first)


class PartWriter:
    """Parquet bytes, one row group a table; the same rows always give the same bytes."""

    def __init__(self, schema: pa.Schema) -> None:
        self._file = io.BytesIO()
        # Pictures are compressed already, the rest is not.
        compression = {leaf: "zstd" for field in schema for leaf in _leaves(field.type, field.name)}
        compression |= {f"{field.name}.bytes": "none" for field in schema if field.type == PICTURE}
        self._writer = pq.ParquetWriter(self._file, schema, compression=compression, store_schema=True)

    @property
    def num_bytes(self) -> int:
        """So far."""
        return self._file.tell()

    def add(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def finish(self, rejects: list[dict[str, Any]] | None = None) -> bytes:
        """The whole file, with the reject rows of its shards if it holds masks."""
        footer = {SHA256: hashlib.sha256(self._file.getbuffer()).hexdigest()}
        self._writer.add_key_value_metadata(footer if rejects is None else {**footer, REJECTS: json.dumps(rejects)})
        self._writer.close()
        return self._file.getvalue()


def write_part(table: pa.Table, metadata: dict[str, str], rejects: list[dict[str, Any]] | None = None) -> bytes:
    """The bytes of a part of one row group; `metadata` is in its schema, where every reader shows it."""
    described = table.replace_schema_metadata(metadata)
    writer = PartWriter(described.schema)
    writer.add(described)
    return writer.finish(rejects)


def read_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table of a part's bytes."""
    return pq.read_table(io.BytesIO(data), columns=columns)


def read_footer(part: Part, fingerprint: str) -> Footer:
    """The footer of a part, in one ranged read.

    Raises:
        UserError: the part is no whole Parquet file of a run, is of another run than that of the fingerprint, or another
            part of it.
    """
    start = max(0, part.bytes - _TAIL_BYTES)
    tail = storage.read_range(part.uri, start, part.bytes - start)
    if (missing := _footer_bytes(tail) - len(tail)) > 0 and missing <= start:
        tail = storage.read_range(part.uri, start - missing, missing) + tail
    footer = footer_of(tail, part.name)
    footer.check(part, fingerprint)
    return footer


def checked_parts(run_uri: str, kind: str, fingerprint: str) -> list[Part]:
    """The parts that are there, in the order of their shards; UserError for one of another run: footers are read for it."""
    return [part for part, _ in read_footers(parts_of(run_uri, kind), fingerprint)]


def read_footers(parts: Iterable[Part], fingerprint: str) -> Iterator[tuple[Part, Footer]]:
    """Each part with its footer, without those that were deleted since they were listed; UserError for one of another run."""
    for part, reading in read_ahead(lambda part: read_footer(part, fingerprint), parts, THREADS):
        try:
            footer = reading.result()
        except FileNotFoundError:
            continue
        yield part, footer


def footer_of(data: bytes, name: str) -> Footer:
    """The footer at the end of some bytes; UserError if there is none."""
    try:
        footer = data[max(0, len(data) - _footer_bytes(data)) :]
        parquet = pq.read_metadata(pa.BufferReader(footer))
        metadata = {key.decode(): value.decode() for key, value in (parquet.metadata or {}).items()}
        rejects = json.loads(metadata.pop(REJECTS, "[]"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({error}); delete it and run `segment` again") from None
    body = metadata.pop(SHA256, None)
    if body is None or not _are_rejects(rejects):
        raise UserError(f"{name} is no part of a run, or its footer is damaged; delete it and run `segment` again")
    described = {key: value for key, value in metadata.items() if key.startswith("maskmill.")}
    return Footer(parquet.num_rows, rejects, body, hashlib.sha256(footer).hexdigest(), described)


def _are_rejects(rows: Any) -> bool:
    """Whether they are rows of the reject table."""
    kinds = {field.name: int if pa.types.is_integer(field.type) else str for field in REJECT_SCHEMA}
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and row.keys() == kinds.keys()
        and all(isinstance(row[name], kind) or (name == "member" and row[name] is None) for name, kind in kinds.items())
        for row in rows
    )


def body_sha256(data: bytes) -> str:
    """sha256 of a part's bytes before its footer: what the footer must say."""
    return hashlib.sha256(memoryview(data)[: max(0, len(data) - _footer_bytes(data))]).hexdigest()


def _footer_bytes(data: bytes) -> int:
    """Metadata, its length in 4 bytes, and the magic `PAR1`."""
    return int.from_bytes(data[-8:-4], "little") + 8 if data[-4:] == b"PAR1" else len(data)


def _leaves(kind: pa.DataType, path: str) -> Iterator[str]:
    """Parquet leaf paths of a column: lists and structs store their values further down."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(kind.value_type, f"{path}.list.element")
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(field.type, f"{path}.{field.name}")
    else:
        yield path
