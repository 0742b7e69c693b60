"""The Parquet parts of a run: their names, their bytes, their footers.

A part's footer holds the sha256 of everything before it; that of a masks part also holds its shards' rejects, so the masks part
of a shard is its complete answer in one object. A footer's own sha256 thus covers the whole part, and a run can be proved
complete from its footers.
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
KINDS = ("masks", "rejects", "regions")  # of parts; rejects and regions can be made from masks
THREADS = 16  # footers that are requested at a time
_NAME = re.compile(r"part-(\d{5,})(?:-(\d{5,}))?\.parquet")
_TAIL_BYTES = 1 << 16  # holds the footer of any part but one with hundreds of rejects


@dataclass(frozen=True, slots=True)
class Part:
    """One file of masks, rejects or regions: the answer of one shard, or of several after compaction."""

    run_uri: str
    kind: str  # one of KINDS
    bytes: int
    first: int  # number of the first shard
    last: int  # number of the last shard, inclusive
    file: str | None = None  # its name in the run if it differs from the usual one: generations.py
    before: int = 0  # shards of earlier generations: counted in `first` and `last`, but not in its footer
    stamp: str | float | None = field(default=None, compare=False)  # its etag or, without one, when it was written

    @property
    def name(self) -> str:
        """Name relative to the run."""
        return self.file or f"{self.kind}/{part_name(self.first, self.last)}"

    @property
    def uri(self) -> str:
        return storage.join(self.run_uri, self.name)

    @property
    def shards(self) -> str:
        """Its shards as the footer has them."""
        return f"{self.first - self.before}-{self.last - self.before}"


@dataclass(frozen=True)
class Footer:
    """What the footer of a part says."""

    rows: int
    rejects: list[dict[str, Any]]
    body_sha256: str
    sha256: str  # of the footer's bytes
    metadata: dict[str, str]  # fingerprint, shards, format and label space: pipeline/runs/schema.py

    def check(self, part: Part, fingerprint: str) -> None:
        """Raise UserError if the footer is of another run, or of another part than `part`."""
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
    """Return the file name: `part-00042.parquet` for one shard, `part-00000-00499.parquet` for several."""
    return f"part-{first:05d}.parquet" if first == last else f"part-{first:05d}-{last:05d}.parquet"


def scan_parts(run_uri: str, kind: str) -> Iterator[Part]:
    """Yield the parts of a kind that exist, as the store lists them, without opening them."""
    for file in storage.scan(storage.join(run_uri, kind)):
        if part := part_at(run_uri, kind, file):
            yield part


def part_at(run_uri: str, kind: str, file: storage.FileInfo) -> Part | None:
    """Return the part that a file in a kind's folder is by its name; None for any other file."""
    if not (match := _NAME.fullmatch(file.path)):
        return None
    first, stamp = int(match[1]), file.etag or file.modified
    last = int(match[2]) if match[2] else first
    part = Part(run_uri, kind, file.bytes, first, last, stamp=stamp)
    return part if part.first <= part.last and part.name == f"{kind}/{file.path}" else None


def parts_of(run_uri: str, kind: str) -> list[Part]:
    """Return the parts that exist, in the order of their shards."""
    return sorted(scan_parts(run_uri, kind), key=lambda part: part.first)


class PartWriter:
    """Writes a Parquet file in memory, one row group per table; the same rows always give the same bytes."""

    def __init__(self, schema: pa.Schema) -> None:
        self._file = io.BytesIO()
        # Only pictures are compressed already.
        compression = {leaf: "zstd" for field in schema for leaf in _leaves(field.type, field.name)}
        compression |= {f"{field.name}.bytes": "none" for field in schema if field.type == PICTURE}
        self._writer = pq.ParquetWriter(self._file, schema, compression=compression, store_schema=True)

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def finish(self, rejects: list[dict[str, Any]] | None = None) -> bytes:
        """Return the whole file, with the reject rows of its shards if it holds masks."""
        footer = {SHA256: hashlib.sha256(self._file.getbuffer()).hexdigest()}
        self._writer.add_key_value_metadata(footer if rejects is None else {**footer, REJECTS: json.dumps(rejects)})
        self._writer.close()
        return self._file.getvalue()


def write_part(table: pa.Table, metadata: dict[str, str], rejects: list[dict[str, Any]] | None = None) -> bytes:
    """Return the bytes of a part with one row group; `metadata` goes into the schema, where every reader shows it."""
    described = table.replace_schema_metadata(metadata)
    writer = PartWriter(described.schema)
    writer.add(described)
    return writer.finish(rejects)


def read_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """Return the table in a part's bytes."""
    return pq.read_table(io.BytesIO(data), columns=columns)


def read_footer(part: Part, fingerprint: str) -> Footer:
    """Read the footer of a part, usually in one ranged read.

    Raises:
        UserError: the file is not a complete Parquet file of a run, is of a run with another fingerprint, or is another part.
    """
    start = max(0, part.bytes - _TAIL_BYTES)
    tail = storage.read_range(part.uri, start, part.bytes - start)
    if (missing := _footer_bytes(tail) - len(tail)) > 0 and missing <= start:
        tail = storage.read_range(part.uri, start - missing, missing) + tail
    footer = footer_of(tail, part.name)
    footer.check(part, fingerprint)
    return footer


def checked_parts(run_uri: str, kind: str, fingerprint: str) -> list[Part]:
    """Return the parts that exist, in the order of their shards; read their footers, with UserError for one of another run."""
    return [part for part, _ in read_footers(parts_of(run_uri, kind), fingerprint)]


def read_footers(parts: Iterable[Part], fingerprint: str) -> Iterator[tuple[Part, Footer]]:
    """Yield each part with its footer, except those deleted since they were listed; UserError for one of another run."""
    for part, reading in read_ahead(lambda part: read_footer(part, fingerprint), parts, THREADS):
        try:
            footer = reading.result()
        except FileNotFoundError:
            continue
        yield part, footer


def footer_of(data: bytes, name: str) -> Footer:
    """Return the footer at the end of a part's bytes; UserError if there is none."""
    try:
        footer = data[max(0, len(data) - _footer_bytes(data)) :]
        parquet = pq.read_metadata(pa.BufferReader(footer))
        metadata = {key.decode(): value.decode() for key, value in (parquet.metadata or {}).items()}
        rejects = json.loads(metadata.pop(REJECTS, "[]"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({error}); delete it and run `segment` again") from None
    body = metadata.pop(SHA256, None)
    if body is None or not _are_rejects(rejects):
        raise UserError(f"{name} is not a part of a run, or its footer is damaged; delete it and run `segment` again")
    described = {key: value for key, value in metadata.items() if key.startswith("maskmill.")}
    return Footer(parquet.num_rows, rejects, body, hashlib.sha256(footer).hexdigest(), described)


def _are_rejects(rows: Any) -> bool:
    """Return whether these are rows of the reject table."""
    kinds = {field.name: int if pa.types.is_integer(field.type) else str for field in REJECT_SCHEMA}
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and row.keys() == kinds.keys()
        and all(isinstance(row[name], kind) or (name == "member" and row[name] is None) for name, kind in kinds.items())
        for row in rows
    )


def body_sha256(data: bytes) -> str:
    """Return the sha256 of a part's bytes before its footer, to be compared with the footer."""
    return hashlib.sha256(memoryview(data)[: max(0, len(data) - _footer_bytes(data))]).hexdigest()


def _footer_bytes(data: bytes) -> int:
    """Return the size of the footer: metadata, its length in 4 bytes, and the magic `PAR1`."""
    return int.from_bytes(data[-8:-4], "little") + 8 if data[-4:] == b"PAR1" else len(data)


def _leaves(kind: pa.DataType, path: str) -> Iterator[str]:
    """Yield the Parquet leaf paths of a column; lists and structs store their values in nested columns."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(kind.value_type, f"{path}.list.element")
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(field.type, f"{path}.{field.name}")
    else:
        yield path
