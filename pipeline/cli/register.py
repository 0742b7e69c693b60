"""The command `register`: make a run a table that other programs read; added by `commands.py`."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import storage
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.analysis.tables import Registered


def register(
    run: Annotated[str, typer.Argument(help="Output of `maskmill segment`: a folder or an object prefix.")],
    iceberg: Annotated[
        str | None,
        typer.Option(
            metavar="CATALOG",
            help="Catalog: a name from pyiceberg's configuration, sqlite:///FILE.db, or http://HOST of a REST catalog.",
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE.NAME",
            help="With --iceberg: name of the table. Default: maskmill.NAME, by the name of the run's folder.",
        ),
    ] = None,
    delta: Annotated[
        bool, typer.Option("--delta", help="Write Delta tables into the run's own folders, such as RUN/masks.")
    ] = False,
) -> None:
    """Register a finished run as Iceberg or Delta tables for other programs.

    Only metadata is written, no part is copied. Repeat it after `maskmill extend`.
    """
    from pipeline.analysis.tables import register_delta, register_iceberg
    from pipeline.cli.console import hint

    if iceberg is None and not delta:
        raise UserError("register: say where: --iceberg CATALOG, or --delta")
    if table is not None and iceberg is None:
        raise UserError("register: --table is the name in a catalog; add --iceberg CATALOG, or leave it out")
    if iceberg is not None:
        found = register_iceberg(run, iceberg, table)
        _print(found)
        shown = storage.without_secrets(iceberg)
        catalog = f'uri="{shown}"' if "://" in iceberg else f'"{shown}"'
        hint(f'in Python, pyiceberg.catalog.load_catalog({catalog}).load_table("{found[0].table}").scan().to_arrow()')
    if delta:
        found = register_delta(run)
        _print(found)
        hint(f'in Python, deltalake.DeltaTable("{found[0].table}").to_pyarrow_table()')


def _print(tables: "list[Registered]") -> None:
    from pipeline.cli.console import console

    for one in tables:
        now = (
            f"{_numbered(one.added)} registered" if one.added else f"generation {one.generation} was registered before"
        )
        console.print(f"{one.table}: {now}; {one.rows} rows in {one.files} files", soft_wrap=True)
        if one.left_out:
            words = "some of their parts were moved or deleted"
            console.print(f"  {_numbered(one.left_out)} left out: {words}", soft_wrap=True)


def _numbered(generations: tuple[int, ...]) -> str:
    return f"generation{'s' if len(generations) > 1 else ''} {', '.join(map(str, generations))}"
