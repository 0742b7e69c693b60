"""The house stays tidy: imports point down, and each library lives in its room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room may import rooms of lower layers only; rooms of one layer do not import each other.
LAYERS = (
    ("errors", "compiled"),
    ("labels", "patience", "processes", "jobserver", "s3_fetch", "cores", "interrupts", "printing"),
    ("storage",),
    ("config",),
    ("corpus", "models", "crf", "metrics", "imaging"),
    ("predict", "checkpoint", "run", "batches", "recipe", "records", "snapshots", "cluster", "check"),
    ("shard", "poison", "watch", "sizing", "faults"),
    ("actor",),
    ("train", "segment", "analysis", "export_model", "tune_crf"),
    ("tune", "dry_run"),
    ("console", "tables"),
    ("demo", "submit", "local_cluster"),
    ("cli_cluster", "cli_analysis", "cli_models"),
    ("cli_commands",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
HOMES = {
    "ray": {"train", "segment", "cluster", "tune", "tune_crf", "submit", "jobserver", "watch", "faults"},
    "dask": {"analysis"},
    "fsspec": {"storage", "s3_fetch"},
    "obstore": {"s3_fetch"},
    "s3fs": set(),
    "typer": {"cli_commands", "cli_analysis", "cli_cluster", "cli_models"},
    "tensorboard": set(),
    "matplotlib": {"train"},
    "mlflow": {"train"},
    "onnx": {"export_model"},
    "onnxruntime": {"export_model"},
    "pyvips": {"imaging"},
    "torchcodec": {"imaging"},
    "triton": {"imaging", "crf"},
}
TOP = {"pipeline", "jobs", "configs", "tests", "infra"}


def imports_of(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults_of(room: str, source: str) -> list[str]:
    """Each import of a room's file that breaks the plan, as a sentence."""
    faults = []
    for name in imports_of(source):
        top, *rest = name.split(".")
        if top in HOMES and room not in HOMES[top]:
            faults.append(f"{room} imports {top}")
        if top == "pipeline" and rest and rest[0] in LEVEL and rest[0] != room and LEVEL[rest[0]] >= LEVEL[room]:
            faults.append(f"{room} imports {rest[0]}, which is not below it")
    return faults


def files() -> list[tuple[str, Path]]:
    folder = ROOT / "pipeline"
    paths = [path for path in folder.rglob("*.py") if path != folder / "__init__.py"]
    return [(path.relative_to(folder).parts[0].removesuffix(".py"), path) for path in paths]


def test_every_room_has_a_layer_and_every_layer_its_rooms():
    assert {room for room, _ in files()} == set(LEVEL)


@pytest.mark.parametrize(("room", "path"), [pytest.param(r, p, id=str(p.relative_to(ROOT))) for r, p in files()])
def test_imports_point_down(room, path):
    assert faults_of(room, path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("corpus", "from pipeline.imaging.decode import decode_image"),
        ("labels", "def f():\n    from pipeline import storage, config"),
        ("predict", "import ray.data"),
        ("corpus", "import fsspec"),
        ("run", "from pipeline import segment"),
    ],
)
def test_a_planted_violation_is_found(room, source):
    assert faults_of(room, source)


def strangers_in_compiled_functions(room: str, source: str) -> set[str]:
    """Names that compiled functions of a room take from where `pipeline.compiled` sees no change."""
    tree = ast.parse(source)
    foreign = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline")
        for alias in node.names
        if f"{node.module}.{alias.name}".split(".")[1] not in (room, "labels", "compiled")
    }
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("compiled" in ast.unparse(one) for one in node.decorator_list)
    ]
    used = {name.id for function in functions for name in ast.walk(function) if isinstance(name, ast.Name)}
    return foreign & used


def test_compiled_functions_are_made_of_their_room_alone():
    sources = {path: (room, path.read_text()) for room, path in files()}
    assert [path for path, (room, text) in sources.items() if "njit" in text and room != "compiled"] == []
    assert {path: found for path, one in sources.items() if (found := strangers_in_compiled_functions(*one))} == {}
    planted = "from pipeline.storage import CHUNK\n@compiled()\ndef f(x):\n    return x + CHUNK"
    assert strangers_in_compiled_functions("metrics", planted) == {"CHUNK"}


def test_jobs_are_thin():
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert jobs
    assert [job.name for job in jobs if len(job.read_text().splitlines()) > 60] == []


def test_only_the_planned_folders_stand_at_the_top():
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert found - {"runs"} <= TOP
