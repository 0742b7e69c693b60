"""Make a run Delta tables in its own folder, with one version per generation.

The log of a table (https://github.com/delta-io/delta/blob/master/PROTOCOL.md) is in `_delta_log` beside the parts. Its file
names are relative: the protocol allows absolute names too, but Polars and Arrow, which read tables with delta-rs, do not find
such files (configs/LOG.md). Each commit stores the number of its generation as the protocol's record of a writer's progress
(`txn`), so a registration that was killed can be repeated.
"""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.analysis.tables.states import (
    TRIES,
    Kind,
    Registered,
    State,
    first_line,
    footer_at,
    full,
    kinds_of,
    refuse_signs,
    registered,
)
from pipeline.errors import UserError
from pipeline.read_ahead import read_ahead
from pipeline.runs.parts import THREADS

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable
    from deltalake.transaction import AddAction

# `VACUUM` deletes older files that no version names, such as parts of a generation that is not registered yet.
_KEPT = {"delta.deletedFileRetentionDuration": "interval 36500 days"}


def register_delta(run_uri: str) -> list[Registered]:
    """Make the folder `masks` of a finished run a Delta table, and likewise the folders of `rejects` and other kinds of rows.

    Raises:
        UserError: the run is not finished, its store cannot be written, or the folder holds another table.
    """
    try:
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise UserError(f"Delta tables need deltalake ({error}); run: pip install 'maskmill[delta]'") from None
    run_uri = storage.absolute(run_uri)
    refuse_signs(run_uri, "%", "deltalake")
    try:
        kinds = list(kinds_of(run_uri))
        for kind in kinds:
            _refuse_alike(kind)
        return [_register(kind) for kind in kinds]
    except (DeltaError, OSError) as error:
        raise UserError(
            f"run {run_uri}: no Delta table can be written there ({first_line(error)}); fix that and run the same again"
        ) from error


def _refuse_alike(kind: Kind) -> None:
    """Raise UserError if two columns differ only in case, which Delta does not tell apart."""
    seen: dict[str, str] = {}
    for name in kind.schema().names:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise UserError(
                f"run {kind.run_uri}: Delta cannot tell its columns '{other}' and '{name}' apart; rename the group column in a "
                "new run, or register it with --iceberg"
            )


def _register(kind: Kind) -> Registered:
    """Commit the generations that the table lacks, one version each; if another writer commits first, read again and retry."""
    from deltalake.exceptions import DeltaError

    root, added, left_out = storage.join(kind.run_uri, kind.name), list[State](), list[State]()
    for attempt in range(TRIES):
        table = _table(root)
        done = 0 if table is None else _generation(table, kind, root)
        try:
            for state in kind.after(done, f"table {root}"):
                if not _lies_in(state, root):
                    left_out.append(state)
                    continue
                _create(root, state, kind) if table is None else _commit(table, root, state, kind)
                added.append(state)
                table = _table(root)
            return registered(kind, root, added, left_out)
        except DeltaError:
            newer = _table(root)
            if attempt == TRIES - 1 or newer is None or _generation(newer, kind, root) == done:
                raise
            left_out.clear()
    raise AssertionError("unreachable")


def _table(root: str) -> "DeltaTable | None":
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(root, storage_options=_options(root))
    except TableNotFoundError:
        return None


def _options(root: str) -> dict[str, str]:
    """Return options that S3's standard variables do not cover: delta-rs must be allowed to use an endpoint without TLS."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return {"allow_http": "true"} if root.startswith("s3") and endpoint.startswith("http://") else {}


def _generation(table: "DeltaTable", kind: Kind, root: str) -> int:
    """Return the newest generation that a table has; UserError if it was not made from this run."""
    number = table.transaction_version(_app_id(kind))
    if number is None:
        raise UserError(
            f"{root} is a Delta table already, and not of this run; move its _delta_log away to register the run there"
        )
    return number


def _app_id(kind: Kind) -> str:
    return f"maskmill-{kind.fingerprint}"


def _lies_in(state: State, root: str) -> bool:
    """Whether all files of a state still exist in the table's folder; superseded files were moved out of it."""
    try:
        return all(uri.startswith(f"{full(root)}/") for uri in state.files)
    except UserError:
        return False


def _create(root: str, state: State, kind: Kind) -> None:
    from deltalake import Schema
    from deltalake.transaction import create_table_with_add_actions

    create_table_with_add_actions(
        root,
        Schema.from_arrow(kind.schema()),
        list(_adds(root, state, list(state.files))),
        name=kind.name,
        description=f"{kind.name} of run {kind.run_uri}",
        configuration=_KEPT,
        storage_options=_options(root),
        commit_properties=_properties(state, kind),
    )


def _commit(table: "DeltaTable", root: str, state: State, kind: Kind) -> None:
    """Replace the table's files by those of a state, in one version."""
    from deltalake.transaction import RemoveAction

    there = {f"{full(root)}/{row['path']}": row for row in pa.table(table.get_add_actions()).to_pylist()}
    actions: list[AddAction | RemoveAction] = list(_adds(root, state, [uri for uri in state.files if uri not in there]))
    for uri, row in there.items():
        if uri not in state.files:
            actions.append(RemoveAction(row["path"], True, _milliseconds(state), row["size_bytes"], {}))
    table.create_write_transaction(actions, "append", table.schema(), commit_properties=_properties(state, kind))


def _properties(state: State, kind: Kind) -> "CommitProperties":
    """Return a commit's properties, without retries by delta-rs: `_register` handles conflicts and reads the table again."""
    from deltalake import CommitProperties, Transaction

    mark = Transaction(_app_id(kind), state.number)
    return CommitProperties(custom_metadata=dict(state.properties()), max_commit_retries=0, app_transactions=[mark])


def _milliseconds(state: State) -> int:
    return int(datetime.fromisoformat(state.generation.finished).timestamp() * 1000)


def _adds(root: str, state: State, uris: list[str]) -> "Iterator[AddAction]":
    """Yield the actions that add these files of a state, with statistics from their footers."""
    from deltalake.transaction import AddAction

    for uri, reading in read_ahead(footer_at, uris, THREADS):
        try:
            num_bytes, footer = reading.result()
        except FileNotFoundError:
            raise state.gone(uri) from None
        state.check(uri, num_bytes, footer.num_rows)
        name, stats = uri.removeprefix(f"{full(root)}/"), json.dumps(statistics(footer))
        yield AddAction(name, num_bytes, {}, _milliseconds(state), True, stats)


def statistics(footer: pq.FileMetaData) -> dict[str, Any]:
    """Return the number of rows, and the smallest and largest value and the nulls of each plain column, for an `add` action.

    Columns of bytes have no smallest and largest value. Source: PROTOCOL.md, Per-file Statistics.
    """
    smallest: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    for index in range(footer.num_columns):
        name, columns = footer.schema.column(index).path, [group.column(index).statistics for group in groups]
        if "." in name or not all(columns):
            continue
        nulls[name] = sum(column.null_count for column in columns)
        known = [column for column in columns if column.has_min_max and not isinstance(column.min, bytes)]
        if known and len(known) == len([column for column in columns if column.num_values]):
            smallest[name], largest[name] = min(one.min for one in known), max(one.max for one in known)
    return {"numRecords": footer.num_rows, "minValues": smallest, "maxValues": largest, "nullCount": nulls}
