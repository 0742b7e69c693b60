"""Make a run a table of an Iceberg catalog, with one snapshot per generation.

Files are added with statistics from their footers (https://iceberg.apache.org/spec/, Manifests); columns are found by name,
since parts carry no field ids (Column Projection, `schema.name-mapping.default`). The number of the newest generation is a
property of the table that changes in the same commit as the snapshot, so a registration that was killed can be repeated.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.analysis.tables.states import (
    FINGERPRINT,
    GENERATION,
    MASKS,
    RUN,
    TRIES,
    Kind,
    Registered,
    State,
    first_line,
    full,
    kinds_of,
    refuse_signs,
    registered,
    scheme_of,
)
from pipeline.errors import UserError
from pipeline.read_ahead import read_ahead
from pipeline.runs.parts import THREADS

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

_LIBRARIES = ("pyiceberg", "sqlalchemy", "requests", "botocore", "pyarrow")
_PROPERTIES = {
    "gc.enabled": "false",  # the files are the run's: expiring snapshots or purging the table must not delete them
    "write.metadata.metrics.column.mask.bytes": "none",  # statistics of the first bytes of PNGs are useless
}


def register_iceberg(run_uri: str, catalog: str, table: str | None = None) -> list[Registered]:
    """Make a finished run a table of a catalog, with tables of its rejects (and other kinds of rows) beside it.

    Args:
        catalog: a name from pyiceberg's own configuration, or a URI: `sqlite:///file.db`, `http://...` of a REST catalog.
        table: `namespace.name`; absent = `maskmill.` and the name of the run's folder, `_` for dots.
            Rejects go to `namespace.name_rejects`.
    Raises:
        UserError: the run is not finished, the catalog cannot be used, or the table holds something else.
    """
    run_uri = storage.absolute(run_uri)
    refuse_signs(run_uri, "#?", "pyiceberg")
    name = table or f"maskmill.{run_uri.rpartition('/')[2].replace('.', '_')}"
    if not all(name.split(".")) or "." not in name:
        raise UserError(
            f"register: --table {name} is not a name in a catalog; give namespace.name, such as masks.street"
        )
    kinds = list(kinds_of(run_uri))
    opened, shown = _catalog(catalog), storage.without_secrets(catalog)
    with _as_sentences(f"catalog {shown}"):
        opened.create_namespace_if_not_exists(name.rpartition(".")[0])
        return [_register(opened, name if kind.name == MASKS else f"{name}_{kind.name}", kind) for kind in kinds]


def _catalog(catalog: str) -> "Catalog":
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError as error:
        raise UserError(f"Iceberg tables need pyiceberg ({error}); run: pip install 'maskmill[iceberg]'") from None
    shown = storage.without_secrets(catalog)
    try:
        with _as_sentences(f"catalog {shown}"):
            opened = load_catalog("default", uri=catalog) if "://" in catalog else load_catalog(catalog)
    except UserError:
        raise
    except ValueError as error:
        words = first_line(error).replace(catalog, shown)
        raise UserError(
            f"catalog {shown} is not known ({words}); give a name from ~/.pyiceberg.yaml, or a URI such as "
            "sqlite:///tables.db or http://HOST:8181"
        ) from error
    opened.properties = _s3() | opened.properties
    return opened


def _s3() -> dict[str, str]:
    """Translate the standard variables for S3 to pyiceberg's properties; its clients find the credentials themselves."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {key: value for key, value in (("s3.endpoint", endpoint), ("s3.region", region)) if value}


def _register(catalog: "Catalog", name: str, kind: Kind) -> Registered:
    """Commit the generations that the table lacks, one snapshot each; if another writer commits first, read again and retry."""
    from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ValidationException

    added, left_out = list[State](), list[State]()
    for attempt in range(TRIES):
        table = _table(catalog, name, kind)
        try:
            for state in kind.after(int(table.properties.get(GENERATION, 0)), f"table {name}"):
                if _commit(table, state):
                    added.append(state)
                else:
                    left_out.append(state)
            return registered(kind, name, added, left_out)
        except (CommitFailedException, CommitStateUnknownException, ValidationException):
            if attempt == TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _table(catalog: "Catalog", name: str, kind: Kind) -> "Table":
    """Load the table, or create it if there is none; UserError if it is not this run's."""
    from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError

    try:
        table = catalog.load_table(name)
    except NoSuchTableError:
        try:
            table = _create(catalog, name, kind)
        except TableAlreadyExistsError:
            table = catalog.load_table(name)
    run, theirs = full(kind.run_uri), table.properties.get(RUN)
    if (theirs, table.properties.get(FINGERPRINT)) != (run, kind.fingerprint):
        holds = f"holds run {theirs}" if theirs and theirs != run else "was not made of this run"
        raise UserError(f"table {name} already exists and {holds}; give another name with --table, or drop that table")
    # Set on this object only: `_register` handles conflicts and reads the table's generation again. A retry by pyiceberg
    # would repeat the same snapshot on top of what another registration made of the same files.
    table.properties["commit.retry.num-retries"] = "0"
    return table


def _create(catalog: "Catalog", name: str, kind: Kind) -> "Table":
    """Create an empty table with the columns of a part, in the run's folder if the catalog has no location of its own."""
    from pyiceberg.catalog.rest import RestCatalog

    run = full(kind.run_uri)
    namespace = catalog.load_namespace_properties(name.rpartition(".")[0])
    placed = isinstance(catalog, RestCatalog) or "warehouse" in catalog.properties or "location" in namespace
    where = None if placed else f"{run}/iceberg/{kind.name}"
    properties = {**_PROPERTIES, RUN: run, FINGERPRINT: kind.fingerprint}
    table = catalog.create_table(name, kind.schema(), where, properties=properties)
    if scheme_of(table.location()) != scheme_of(run):
        catalog.drop_table(name)
        raise UserError(
            f"table {name} would lie at {table.location()}, the run lies at {run}: on another store, which readers of the "
            "table may not reach; take a catalog on the run's store, or copy the run there"
        )
    return table


def _commit(table: "Table", state: State) -> bool:
    """Replace the table's files by those of a state, in one snapshot; if some are gone, do nothing and return False."""
    there = {task.file.file_path: task.file for task in table.scan().plan_files()}
    try:
        wanted = state.files
    except UserError:
        return False
    superseded = [file for uri, file in there.items() if uri not in wanted]
    with table.transaction() as transaction:
        names = table.schema().name_mapping.model_dump_json()
        transaction.set_properties({GENERATION: str(state.number), "schema.name-mapping.default": names})
        update = transaction.update_snapshot(snapshot_properties=state.properties())
        with update.overwrite() if superseded else update.fast_append() as snapshot:
            for file in superseded:
                snapshot.delete_data_file(file)
            for file in _described(table, state, [uri for uri in wanted if uri not in there]):
                snapshot.append_data_file(file)
    return True


def _described(table: "Table", state: State, uris: list[str]) -> "Iterator[DataFile]":
    """Yield the table's entries for files, made from their footers."""
    from pyiceberg.io.pyarrow import parquet_file_to_data_file

    def describe(uri: str) -> "DataFile":
        return parquet_file_to_data_file(table.io, table.metadata, uri)

    for uri, reading in read_ahead(describe, uris, THREADS):
        try:
            file = reading.result()
        except FileNotFoundError:
            raise state.gone(uri) from None
        state.check(uri, file.file_size_in_bytes, file.record_count)
        yield file


@contextmanager
def _as_sentences(where: str) -> Iterator[None]:
    """Raise errors of the catalog, its database, its server or the store as UserError; hide notes on dictionary columns."""
    log = logging.getLogger("pyiceberg.io.pyarrow")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        raise UserError(
            f"{where} cannot be reached or used ({first_line(error)}); fix that and run the same again"
        ) from error
    finally:
        log.setLevel(before)
