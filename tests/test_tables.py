"""A run as Iceberg and Delta tables: other programs read there what `open_run` gives, with one snapshot per generation."""

import contextlib
import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.analysis.tables import delta, iceberg, register_delta, register_iceberg
from pipeline.cli.register import register
from pipeline.errors import UserError
from pipeline.runs import generations, verify
from pipeline.runs.info import read_success
from tests.command import maskmill
from tests.crash_points import Killed
from tests.s3_server import KEY, SECRET
from tests.small_run import Drawn, make_run
from tests.test_extend import Archive, answers, dead_leases, extend, segment  # noqa: F401

duckdb = pytest.importorskip("duckdb")
polars = pytest.importorskip("polars")
deltalake = pytest.importorskip("deltalake")
pyiceberg = pytest.importorskip("pyiceberg.catalog")
Config = pytest.importorskip("pyiceberg.utils.config").Config

NUM_CLASSES = 11
DRAWN = [
    Drawn("val/a", "0112/0112", label="0111/0112", city="x", frame=0),
    Drawn("val/b", "2222", city="y", frame=1),
    Drawn("val/broken", None),
    Drawn("val/c", "0100", city="x", frame=2),
    Drawn("val/d", "3", frame=3),
]
Counts = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_run(str(tmp_path_factory.mktemp("tables") / "run"), DRAWN))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> str:
    """A run of three shards, one image rejected, that a test may change."""
    return str(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tables.db"


def iceberg_table(catalog: str, name: str = "maskmill.run"):
    """As a program without this package opens it."""
    return pyiceberg.load_catalog("default", uri=catalog).load_table(name)


def answers_of(run: str) -> Counts:
    view = open_run(run)
    areas, cities = view.areas().iloc[0], view.areas(["city"])["images"]
    return {
        "images": int(areas["images"]),
        "pixels": areas.tolist()[1:],
        "cities": {name: number for name, number in cities.items() if name == name and name is not None},
        "confusion": int(view.confusion().sum()),
        "rejects": dict(Counter(view.rejects()["error"])),
    }


def answers_in_duckdb(masks: pa.Table, rejects: pa.Table) -> Counts:
    with duckdb.connect() as database:
        database.register("masks", masks)
        database.register("rejects", rejects)
        sums = ", ".join(f"sum(pixels[{place + 1}])" for place in range(NUM_CLASSES))
        whole = database.sql(f"select count(*), sum(list_sum(confusion)), {sums} from masks").fetchall()[0]
        cities = database.sql("select city, count(*) from masks where city is not null group by city").fetchall()
        reasons = database.sql("select error, count(*) from rejects group by error").fetchall()
    images, confusion, *pixels = whole
    return {
        "images": images,
        "pixels": pixels,
        "cities": dict(cities),
        "confusion": confusion,
        "rejects": dict(reasons),
    }


def answers_in_polars(masks: "polars.LazyFrame", rejects: "polars.LazyFrame", pixels: "polars.LazyFrame") -> Counts:
    pl = polars
    sums = [pl.col("pixels").list.get(place).sum().alias(str(place)) for place in range(NUM_CLASSES)]
    cities = masks.filter(pl.col("city").is_not_null()).group_by("city").len().collect()
    return {
        "images": masks.select(pl.len()).collect().item(),
        "pixels": list(pixels.select(sums).collect().row(0)),
        "cities": dict(cities.iter_rows()),
        "confusion": masks.select(pl.col("confusion").list.sum().sum()).collect().item(),
        "rejects": dict(rejects.group_by("error").len().collect().iter_rows()),
    }


def test_other_programs_count_in_the_iceberg_table_as_open_run_does(run, catalog):
    register_iceberg(run, catalog)
    masks, rejects = iceberg_table(catalog), iceberg_table(catalog, "maskmill.run_rejects")
    expected = answers_of(run)
    assert answers_in_duckdb(masks.scan().to_arrow(), rejects.scan().to_arrow()) == expected
    frames = [polars.scan_iceberg(one, reader_override="pyiceberg") for one in (masks, rejects)]
    assert answers_in_polars(*frames, frames[0]) == expected


def test_other_programs_count_in_the_delta_tables_as_open_run_does(run):
    register_delta(run)
    masks, rejects = (deltalake.DeltaTable(f"{run}/{kind}") for kind in ("masks", "rejects"))
    expected = answers_of(run)
    assert answers_in_duckdb(masks.to_pyarrow_table(), rejects.to_pyarrow_table()) == expected
    frames = [polars.scan_delta(f"{run}/{kind}") for kind in ("masks", "rejects")]
    # Polars' own reader takes the length of `pixels` from the file and then misses the table's list of any length.
    pixels = polars.from_arrow(masks.to_pyarrow_table(columns=["pixels"])).lazy()
    assert answers_in_polars(*frames, pixels) == expected
    sql = deltalake.QueryBuilder().register("m", masks).execute("select sum(pixels[2]) as n from m").read_all()
    assert pa.table(sql)["n"].to_pylist() == [expected["pixels"][1]]


def test_the_tables_have_plain_columns_and_every_byte_of_the_masks(run, catalog):
    register_iceberg(run, catalog)
    register_delta(run)
    table = iceberg_table(catalog)
    kinds = {field.name: str(field.field_type) for field in table.schema().fields}
    assert (kinds["city"], kinds["pixels"], kinds["confidence"]) == ("string", "list<long>", "float")
    assert kinds["mask"].startswith("struct<") and "bytes: optional binary" in kinds["mask"]
    columns = {field.name: json_type(field) for field in deltalake.DeltaTable(f"{run}/masks").schema().fields}
    assert (columns["city"], columns["pixels"], columns["confidence"]) == ("string", "array", "float")
    written = pq.read_table(f"{run}/masks", columns=["image_id", "mask"]).sort_by("image_id")
    for read in (table.scan().to_arrow(), deltalake.DeltaTable(f"{run}/masks").to_pyarrow_table()):
        read = read.select(["image_id", "mask"]).sort_by("image_id")
        assert read.to_pylist() == written.to_pylist()


def json_type(field: Any) -> str:
    return field.type.type


def test_a_filter_reads_only_the_parts_that_may_hold_its_rows(run, catalog):
    """Bounds of both tables are those of the parts: the planner of each leaves out what cannot match."""
    register_iceberg(run, catalog)
    register_delta(run)
    planned = iceberg_table(catalog).scan(row_filter="image_id == 'val/d'").plan_files()
    assert [Path(task.file.file_path).name for task in planned] == ["part-00002.parquet"]
    added = pa.table(deltalake.DeltaTable(f"{run}/masks").get_add_actions(flatten=True)).to_pylist()
    ranges = {row["path"]: (row["min.image_id"], row["max.image_id"], row["num_records"]) for row in added}
    assert ranges["part-00000.parquet"] == ("val/a", "val/b", 2)
    found = polars.scan_delta(f"{run}/masks").filter(polars.col("image_id") == "val/d").select("frame").collect()
    assert found["frame"].to_list() == [3]


def test_regions_are_a_table_of_their_own(tmp_path, catalog):
    run = make_run(str(tmp_path / "run"), DRAWN, regions=1)
    register_iceberg(run, catalog)
    register_delta(run)
    written = pq.read_table(f"{run}/regions").to_pylist()
    table = iceberg_table(catalog, "maskmill.run_regions")
    assert {field.name: str(field.field_type) for field in table.schema().fields}["class"] == "string"
    for read in (table.scan().to_arrow(), deltalake.DeltaTable(f"{run}/regions").to_pyarrow_table()):
        assert sorted(map(str, read.to_pylist())) == sorted(map(str, written))
    assert verify(run).problems == []


def snapshots_of(catalog: str, name: str = "maskmill.run") -> list[str]:
    """The generation of each snapshot, the oldest first."""
    return snapshots_of_table(iceberg_table(catalog, name))


def snapshots_of_table(table: Any) -> list[str]:
    found = table.metadata.snapshots
    return [one.summary.additional_properties["maskmill.generation"] for one in found]


def versions_of(root: str) -> list[str]:
    """The generation of each version, the oldest first."""
    return [one["maskmill.generation"] for one in reversed(deltalake.DeltaTable(root).history())]


def test_registered_twice_is_registered_once(run, catalog):
    first = [register_iceberg(run, catalog), register_delta(run)]
    assert [one.added for tables in first for one in tables] == [(1,)] * 4
    again = [register_iceberg(run, catalog), register_delta(run)]
    assert [one.added for tables in again for one in tables] == [()] * 4
    assert snapshots_of(catalog) == snapshots_of(catalog, "maskmill.run_rejects") == ["1"]
    assert versions_of(f"{run}/masks") == versions_of(f"{run}/rejects") == ["1"]


def test_snapshots_name_run_generation_and_fingerprint(run, catalog):
    register_iceberg(run, catalog)
    register_delta(run)
    success = read_success(run)
    expected = {
        "maskmill.run": f"file://{run}", "maskmill.generation": "1", "maskmill.fingerprint": success.fingerprint,
        "maskmill.finished": success.finished,
    }  # fmt: skip
    summary = iceberg_table(catalog).current_snapshot().summary.additional_properties
    commit = deltalake.DeltaTable(f"{run}/masks").history()[0]
    for said in (summary, commit):
        assert {key: value for key, value in said.items() if key.startswith("maskmill.")} == expected


def test_the_parts_stay_as_they_are(run, catalog):
    before = {file.path: storage.read(file.uri) for file in storage.list_files(run)}
    register_iceberg(run, catalog)
    register_delta(run)
    assert {path: storage.read(f"{run}/{path}") for path in before} == before
    assert verify(run).problems == []
    assert duckdb.sql(f"select count(*) from '{run}/masks/part-*.parquet'").fetchall() == [(4,)]
    assert answers_of(run)["images"] == 4


def test_vacuum_and_drop_leave_the_parts_alone(run, catalog):
    """`VACUUM` would delete what no version names, such as the parts of a generation to come."""
    register_delta(run)
    register_iceberg(run, catalog)
    coming = Path(run, "masks", "part-g00002-00000.parquet")
    shutil.copy(Path(run, "masks", "part-00000.parquet"), coming)
    before = storage.list_files(f"{run}/masks")
    os.utime(coming, (1e9, 1e9))
    assert deltalake.DeltaTable(f"{run}/masks").vacuum(dry_run=False, full=True) == []
    assert iceberg_table(catalog).properties["gc.enabled"] == "false"
    pyiceberg.load_catalog("default", uri=catalog).drop_table("maskmill.run")
    assert {file.path for file in storage.list_files(f"{run}/masks")} >= {file.path for file in before}


# Generations


@pytest.fixture
def night(tmp_path: Path) -> Archive:
    """A run of ten images, two of them rejected, over an archive that grows."""
    made = Archive(str(tmp_path), 10)
    segment(made)
    return made


def grow(night: Archive) -> None:
    """Generation 2: three new, two replaced, two gone; no reject is left."""
    night.change()
    extend(night)


def shrink(night: Archive) -> None:
    """Generation 3: one that was there from the beginning is gone, and one of generation 2."""
    night.remove("b/001")
    night.remove("c/001")
    extend(night)


GROWTH = ((1, lambda night: None), (2, grow), (3, shrink))


def images_in_iceberg(catalog: str, snapshot: int = -1) -> list[str]:
    table = iceberg_table(catalog)
    scan = table.scan(snapshot_id=table.metadata.snapshots[snapshot].snapshot_id, selected_fields=("image_id",))
    return sorted(scan.to_arrow()["image_id"].to_pylist())


def images_in_delta(run: str, version: int | None = None) -> list[str]:
    table = deltalake.DeltaTable(f"{run}/masks", version=version)
    return sorted(table.to_pyarrow_table(columns=["image_id"])["image_id"].to_pylist())


def images_of(night: Archive, generation: int) -> list[str]:
    return sorted(name for name, kind in answers(night.run, generation).items() if kind == "mask")


def test_each_generation_is_one_snapshot_as_it_comes(night, catalog):
    for number, step in GROWTH:
        step(night)
        found = [*register_iceberg(night.run, catalog), *register_delta(night.run)]
        assert [one.added for one in found] == [(number,)] * 4
        assert images_in_iceberg(catalog) == images_in_delta(night.run) == images_of(night, number)
    assert snapshots_of(catalog) == versions_of(f"{night.run}/masks") == ["1", "2", "3"]
    assert snapshots_of(catalog, "maskmill.run_rejects") == versions_of(f"{night.run}/rejects") == ["1", "2", "3"]
    assert iceberg_table(catalog, "maskmill.run_rejects").scan().to_arrow().num_rows == 0
    newest = iceberg_table(catalog).current_snapshot().summary.additional_properties
    assert newest["maskmill.fingerprint"] == generations(night.run)[2].fingerprint
    assert verify(night.run).problems == []


def test_generations_that_were_never_registered_become_snapshots_from_where_their_parts_lie_now(night, catalog):
    grow(night)
    shrink(night)
    assert register_iceberg(night.run, catalog)[0].added == (1, 2, 3)
    for number in (1, 2, 3):
        assert images_in_iceberg(catalog, number - 1) == images_of(night, number)


def test_a_delta_table_leaves_out_generations_of_which_parts_lie_elsewhere(night, capsys):
    grow(night)
    shrink(night)
    register(night.run, delta=True)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{night.run}/masks: generation 3 registered; {len(images_of(night, 3))} rows in ")
    assert told[1] == "  generations 1, 2 left out: some of their parts were moved or deleted"
    assert images_in_delta(night.run) == images_of(night, 3)
    assert versions_of(f"{night.run}/masks") == ["3"]


def test_an_iceberg_table_leaves_out_generations_of_which_parts_are_gone(night, catalog):
    grow(night)
    shutil.rmtree(f"{night.run}/generations/00002/withdrawn")
    found = register_iceberg(night.run, catalog)[0]
    assert (found.added, found.left_out) == ((2,), (1,))
    assert images_in_iceberg(catalog) == images_of(night, 2)


# Two at once, and killed in between


@pytest.mark.parametrize("step", ["_create", "_commit"])
def test_two_that_register_at_once_make_one_snapshot(night, catalog, monkeypatch, step):
    """The second begins and ends when the first has looked and not yet made its step, at each generation."""
    to_catalog, to_log = (lambda: register_iceberg(night.run, catalog)), (lambda: register_delta(night.run))
    for _, grow_by in GROWTH:
        grow_by(night)
        for module, again in ((iceberg, to_catalog), (delta, to_log)):
            with monkeypatch.context() as patch:
                patch.setattr(module, step, after_another(again, getattr(module, step), patch, module, step))
                again()
    assert snapshots_of(catalog) == versions_of(f"{night.run}/masks") == ["1", "2", "3"]
    assert images_in_iceberg(catalog) == images_in_delta(night.run) == images_of(night, 3)


def after_another(register: Callable, real: Callable, patch: pytest.MonkeyPatch, module: Any, name: str) -> Callable:
    def call(*arguments: Any) -> Any:
        patch.setattr(module, name, real)
        register()
        return real(*arguments)

    return call


@contextlib.contextmanager
def dying(at: int | None, seen: list[str]) -> Iterator[None]:
    """Before step number `at` the process dies: steps are statements of the catalog's database, its commits, and files that
    pyiceberg writes (before it opens and before it closes them), and commits of a Delta log."""
    patch = pytest.MonkeyPatch()

    def note(step: str) -> None:
        seen.append(step)
        if at is not None and len(seen) > at:
            raise Killed(step)

    def before(step: str, real: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            note(step)
            return real(*arguments, **named)

        return call

    def statement(connection: Any, cursor: Any, text: str, *rest: Any) -> None:
        if text.startswith(("INSERT", "UPDATE", "CREATE")):
            note(text[:20])

    from deltalake import DeltaTable, transaction
    from pyiceberg.io.pyarrow import PyArrowFile
    from sqlalchemy import Engine, event

    patch.setattr(PyArrowFile, "create", before("write a file", PyArrowFile.create))
    for place, name in ((DeltaTable, "create_write_transaction"), (transaction, "_create_table_with_add_actions")):
        patch.setattr(place, name, before("log", getattr(place, name)))
    listeners = [("before_cursor_execute", statement), ("commit", lambda connection: note("commit"))]
    for name, listener in listeners:
        event.listen(Engine, name, listener)
    try:
        yield
    finally:
        patch.undo()
        for name, listener in listeners:
            event.remove(Engine, name, listener)


@pytest.mark.slow
def test_killed_between_any_two_steps_and_repeated_there_is_one_snapshot_a_generation(tmp_path, request):
    night = Archive(str(tmp_path), 10)
    segment(night, rejected=())
    grow(night)
    expected = images_of(night, 2)
    steps: list[str] = []
    with dying(None, steps):
        register_iceberg(night.run, f"sqlite:///{tmp_path}/whole.db", "whole.run")
        register_delta(night.run)
    assert len(steps) >= 12 and {"write a file", "commit", "log"} <= set(steps)
    gc.collect()
    gc.freeze()  # so that what is collected below is little
    request.addfinalizer(gc.unfreeze)
    for at in range(len(steps)):
        shutil.rmtree(f"{night.run}/iceberg")
        shutil.rmtree(f"{night.run}/masks/_delta_log", ignore_errors=True)
        catalog = f"sqlite:///{tmp_path}/{at}.db"
        seen: list[str] = []
        with dying(at, seen), contextlib.suppress(Killed):
            register_iceberg(night.run, catalog)
            register_delta(night.run)
        assert len(seen) > at
        gc.collect()  # connections that a dead process would not hold
        register_iceberg(night.run, catalog)
        register_delta(night.run)
        assert snapshots_of(catalog) == ["1", "2"], steps[at]
        assert versions_of(f"{night.run}/masks") == ["2"], steps[at]
        assert images_in_iceberg(catalog) == images_in_delta(night.run) == expected, steps[at]


# What is refused


@pytest.mark.slow
def test_refusals_are_one_sentence_of_a_real_process(run, catalog, tmp_path):
    register_iceberg(run, catalog)
    other = make_run(str(tmp_path / "other"), DRAWN[:1])
    begun = make_run(str(tmp_path / "begun"), DRAWN, finish=False)
    for arguments, words in (
        ([begun, "--delta"], "is not finished (no _SUCCESS.json); finish it first: maskmill resume"),
        ([run], "say where: --iceberg CATALOG, or --delta"),
        ([run, "--delta", "--table", "a.b"], "--table is the name in a catalog; add --iceberg"),
        ([run, "--iceberg", "http://127.0.0.1:9"], "cannot be reached or used (ConnectionError"),
        ([other, "--iceberg", catalog, "--table", "maskmill.run"], f"holds run file://{run}; give another name"),
    ):
        done = maskmill("register", *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert done.stderr.startswith("error: ") and words in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("catalog", "table", "words"),
    [
        ("sqlite:///{folder}/tables.db", "night", "--table night is not a name in a catalog; give namespace.name"),
        ("nowhere", None, "catalog nowhere is not known"),
        ("ftp://user:secret@host", None, "catalog ftp://host is not known"),
        ("sqlite:///{folder}/none/of/it.db", None, "cannot be reached or used .OperationalError"),
    ],
)
def test_a_catalog_that_cannot_be_used_is_refused(run, tmp_path, catalog, table, words):
    with pytest.raises(UserError, match=words) as refused:
        register_iceberg(run, catalog.format(folder=tmp_path), table)
    assert "secret" not in str(refused.value)


def test_a_table_that_is_not_this_runs_is_refused(run, catalog):
    deltalake.write_deltalake(f"{run}/masks", pa.table({"n": [1]}))
    with pytest.raises(UserError, match="is a Delta table already, and not of this run"):
        register_delta(run)
    theirs = pyiceberg.load_catalog("default", uri=catalog)
    theirs.create_namespace("maskmill")
    theirs.create_table("maskmill.run", pa.schema([("n", pa.int64())]), location=f"file://{run}-theirs")
    with pytest.raises(
        UserError, match=r"maskmill\.run already exists and was not made of this run; give another name"
    ):
        register_iceberg(run, catalog)


def test_a_part_that_is_gone_or_was_changed_is_refused_before_anything_is_committed(run, catalog):
    part, another = (Path(run, "masks", f"part-0000{shard}.parquet") for shard in (2, 0))
    kept = part.read_bytes()
    changes: dict[str, Callable] = {
        "is gone; see what else is: maskmill verify": part.unlink,
        "has 2 rows and .* bytes, _SUCCESS.json says 1 and": lambda: shutil.copy(another, part),
    }
    for words, change in changes.items():
        change()
        for attempt in (lambda: register_iceberg(run, catalog), lambda: register_delta(run)):
            with pytest.raises(UserError, match=words):
                attempt()
    part.write_bytes(kept)
    assert [register_iceberg(run, catalog)[0].added, register_delta(run)[0].added] == [(1,), (1,)]


@pytest.mark.slow
def test_a_catalog_of_the_configuration_is_found_by_its_name_and_says_where_tables_lie(
    run, catalog, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__URI", catalog)
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__WAREHOUSE", f"file://{tmp_path}/warehouse")
    done = maskmill("register", run, "--iceberg", "here", "--table", "masks.street")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        "masks.street: generation 1 registered; 4 rows in 3 files",
        "masks.street_rejects: generation 1 registered; 1 rows in 1 files",
    ]
    table = pyiceberg.load_catalog("here", uri=catalog).load_table("masks.street")
    assert table.location() == f"file://{tmp_path}/warehouse/masks/street"
    assert table.scan().to_arrow().num_rows == 4


@pytest.mark.slow
def test_a_table_on_another_store_than_the_run_is_refused_and_not_left_behind(s3, tmp_path, monkeypatch):
    run, catalog = make_run(f"{s3}/elsewhere/run", DRAWN), f"sqlite:///{tmp_path}/tables.db"
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__URI", catalog)
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__WAREHOUSE", f"file://{tmp_path}/warehouse")
    done = maskmill("register", run, "--iceberg", "here")
    assert done.returncode == 1
    assert f"would lie at file://{tmp_path}/warehouse/maskmill/run, the run lies at {run}" in done.stderr
    assert pyiceberg.load_catalog("here", uri=catalog).list_tables("maskmill") == []


@pytest.mark.parametrize("name", ["a b", "ä.v2", "a#b", "a?b", "a%20b"])
def test_a_path_with_odd_signs_is_registered_or_refused(run, catalog, tmp_path, name):
    """Never written to another place, as `file:///a#b` would be."""
    moved = shutil.move(run, str(tmp_path / name))
    for register_it, signs, read in (
        (
            lambda: register_iceberg(moved, catalog),
            "#?",
            lambda found: iceberg_table(catalog, found.table).scan().to_arrow(),
        ),
        (lambda: register_delta(moved), "%", lambda found: deltalake.DeltaTable(found.table).to_pyarrow_table()),
    ):
        if set(signs) & set(name):
            with pytest.raises(UserError, match="cannot name a path with"):
                register_it()
        else:
            assert read(register_it()[0]).num_rows == 4
    assert {path.name for path in tmp_path.iterdir()} <= {name, "tables.db"}


def test_without_the_packages_the_install_line_is_said(run, catalog, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog", None)
    monkeypatch.setitem(sys.modules, "deltalake.exceptions", None)
    with pytest.raises(UserError, match=r"pip install 'maskmill\[iceberg\]'"):
        register_iceberg(run, catalog)
    with pytest.raises(UserError, match=r"pip install 'maskmill\[delta\]'"):
        register_delta(run)


# On an object store


@pytest.mark.slow
def test_on_s3_it_is_the_same(s3, tmp_path):
    run, catalog = make_run(f"{s3}/tables/run", DRAWN), f"sqlite:///{tmp_path}/s3.db"
    for _ in range(2):
        register_iceberg(run, catalog)
        register_delta(run)
    expected = answers_of(run)
    tables = [iceberg_table_on_s3(catalog, name) for name in ("maskmill.run", "maskmill.run_rejects")]
    assert tables[0].location() == f"{run}/iceberg/masks"
    assert answers_in_duckdb(*(one.scan().to_arrow() for one in tables)) == expected
    options = {"allow_http": "true"}
    read = [
        deltalake.DeltaTable(f"{run}/{kind}", storage_options=options).to_pyarrow_table()
        for kind in ("masks", "rejects")
    ]
    assert answers_in_duckdb(*read) == expected
    assert snapshots_of_table(tables[0]) == ["1"]


def iceberg_table_on_s3(catalog: str, name: str):
    endpoint = {"s3.endpoint": os.environ["AWS_ENDPOINT_URL"], "s3.region": "us-east-1"}
    return pyiceberg.load_catalog("default", uri=catalog, **endpoint).load_table(name)


@pytest.mark.slow
def test_a_rest_catalog_keeps_one_snapshot_of_two_that_register_at_once(s3, s3_process, monkeypatch):
    """SeaweedFS' own catalog, over a table bucket of the S3 server; its credentials stand in the environment."""
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__CREDENTIAL", f"{KEY}:{SECRET}")
    monkeypatch.setattr(pyiceberg, "_ENV_CONFIG", Config())
    run, uri = make_run(f"{s3}/rest/night", DRAWN), s3_process.catalog_url
    with monkeypatch.context() as patch:
        another = after_another(lambda: register_iceberg(run, uri), iceberg._commit, patch, iceberg, "_commit")
        patch.setattr(iceberg, "_commit", another)
        register_iceberg(run, uri)
    assert [one.added for one in register_iceberg(run, uri)] == [(), ()]
    tables = [iceberg_table_on_s3(uri, name) for name in ("maskmill.night", "maskmill.night_rejects")]
    assert [snapshots_of_table(one) for one in tables] == [["1"], ["1"]]
    assert tables[0].location() == "s3://warehouse/maskmill/night"
    assert answers_in_duckdb(*(one.scan().to_arrow() for one in tables)) == answers_of(run)


def test_delta_refuses_columns_that_differ_only_in_case(tmp_path):
    run = make_run(str(tmp_path / "run"), [Drawn("a", "01", groups={"Width": 3})])
    with pytest.raises(UserError, match="cannot tell its columns 'Width' and 'width' apart"):
        register_delta(run)
