"""What is registered: for each kind of part (masks, rejects, ...), the files of each generation of a run."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.runs import REJECT_SCHEMA, Generation, generations
from pipeline.runs.generations import parse_name
from pipeline.runs.info import PartEntry

MASKS = "masks"
GENERATION, FINGERPRINT, RUN = "maskmill.generation", "maskmill.fingerprint", "maskmill.run"  # table properties
TRIES = 5  # of a commit, if other writers commit first


@dataclass(frozen=True)
class State:
    """The files of one kind in one generation."""

    generation: Generation
    kind: str
    newest: Generation

    @property
    def number(self) -> int:
        return self.generation.number

    @cached_property
    def files(self) -> dict[str, PartEntry]:
        """URI -> the file's entry in `_SUCCESS.json`; UserError if one of the files is gone."""
        mine = {n: entry for n, entry in self.generation.parts.items() if n.startswith(f"{self.kind}/")}
        return {self._uri(name): entry for name, entry in mine.items()}

    def _uri(self, name: str) -> str:
        """Return the URI of a part; the store is asked only for parts that were superseded."""
        here = name in self.newest.parts
        return full(storage.join(self.generation.run_uri, name) if here else self.generation.uri(name))

    def gone(self, uri: str) -> UserError:
        """Return the error for a file that is missing."""
        return UserError(f"{uri} is gone; see what else is: maskmill verify {self.generation.run_uri}")

    def properties(self) -> dict[str, str]:
        """Return the properties of the state's snapshot."""
        run, one = full(self.generation.run_uri), self.generation
        return {GENERATION: str(one.number), FINGERPRINT: one.fingerprint, RUN: run, "maskmill.finished": one.finished}

    def check(self, uri: str, num_bytes: int, rows: int) -> None:
        """Raise UserError if a file differs from its entry in `_SUCCESS.json`."""
        said = self.files[uri]
        if (num_bytes, rows) != (said.bytes, said.rows):
            raise UserError(
                f"{uri} has {rows} rows and {num_bytes} bytes, _SUCCESS.json says {said.rows} and {said.bytes}; see what is "
                f"wrong: maskmill verify {self.generation.run_uri}"
            )


@dataclass(frozen=True)
class Kind:
    """What becomes one table: the states of one kind of part, oldest first."""

    run_uri: str
    name: str
    states: tuple[State, ...]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the run, which is that of its first generation."""
        return self.states[0].generation.fingerprint

    def schema(self) -> pa.Schema:
        """Return the schema of the parts in the types that tables have; UserError if no part is left."""
        for state in reversed(self.states):
            with contextlib.suppress(UserError):
                for uri in state.files:
                    return plain_schema(footer_at(uri)[1].schema.to_arrow_schema())
        if self.name == "rejects":  # a later generation may have none
            return REJECT_SCHEMA
        raise UserError(
            f"run {self.run_uri}: none of its {self.name} parts is left; see: maskmill verify {self.run_uri}"
        )

    def after(self, number: int, where: str) -> tuple[State, ...]:
        """Return the states after generation `number`, which the table has; for a new table (0), from the first with files.

        Raises:
            UserError: the table is ahead of the run.
        """
        if number > self.states[-1].number:
            raise UserError(
                f"{where} has generation {number} of run {self.run_uri}, which has {self.states[-1].number} now: it is an "
                "older copy of the run; register the newer one"
            )
        left = self.states[number:]
        while left and not number and not self._has_files(left[0]):
            left = left[1:]
        return left

    def _has_files(self, state: State) -> bool:
        return any(name.startswith(f"{self.name}/") for name in state.generation.parts)


@dataclass(frozen=True)
class Registered:
    """One table after its registration."""

    kind: str
    table: str  # name in the catalog, or URI
    generation: int  # the newest one
    added: tuple[int, ...]  # generations that were registered now
    left_out: tuple[int, ...]  # generations whose files are gone, or are elsewhere
    rows: int
    files: int


def kinds_of(run_uri: str) -> Iterator[Kind]:
    """Yield masks and each other kind of part that the run has; UserError if the run is not finished."""
    every = generations(run_uri)
    names = dict.fromkeys([MASKS, *(parse_name(run_uri, name)[3] for one in every for name in one.parts)])
    for name in names:
        kind = Kind(run_uri, name, tuple(State(one, name, every[-1]) for one in every))
        if kind.after(0, run_uri):
            yield kind


def footer_at(uri: str) -> tuple[int, pq.FileMetaData]:
    """Return size in bytes and footer of a file."""
    filesystem, path = storage.arrow_filesystem(uri)
    with filesystem.open_input_file(path) as file:
        return file.size(), pq.read_metadata(file)


def refuse_signs(run_uri: str, signs: str, library: str) -> None:
    """Raise UserError if a library would take a character of the path for URL syntax, and so write to another place."""
    if found := [sign for sign in signs if sign in run_uri]:
        raise UserError(
            f"run {run_uri}: {library} cannot name a path with '{found[0]}' in it; rename the folder, or copy the run"
        )


def full(uri: str) -> str:
    """Return a URI with its scheme, as tables name files."""
    return uri if "://" in uri else f"file://{uri}"


def scheme_of(uri: str) -> str:
    """Return the kind of store: `file`, `s3`, ..."""
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    return {"s3a": "s3", "s3n": "s3", "local": "file"}.get(scheme, scheme)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Convert a schema to types that table formats have: text without dictionaries, lists of any length, no metadata."""
    return pa.schema([pa.field(field.name, _plain(field.type), field.nullable) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("element", kind.value_type, kind.value_field.nullable))
    return kind


def registered(kind: Kind, table: str, added: Sequence[State], left_out: Sequence[State]) -> Registered:
    """Return the result of a registration that reached the newest generation."""
    newest = kind.states[-1]
    entries = [entry for name, entry in newest.generation.parts.items() if name.startswith(f"{kind.name}/")]
    return Registered(
        kind.name, table, newest.number, tuple(one.number for one in added), tuple(one.number for one in left_out),
        sum(entry.rows for entry in entries), len(entries),
    )  # fmt: skip


def first_line(error: BaseException) -> str:
    """Shorten an error of another library to part of a sentence."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
