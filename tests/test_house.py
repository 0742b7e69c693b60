"""Structure of the code: imports between and within packages have no cycles, and each library is used only in its packages."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Which rooms of pipeline/ may import a library: a file or a package at its top, or a package of one of them.
HOMES = {
    "ray": {"segment", "train", "cluster"},
    "dask": {"analysis"},
    "fsspec": {"storage"},
    "obstore": {"storage"},
    "s3fs": set(),
    "typer": {"cli"},
    "tensorboard": set(),
    "matplotlib": {"train"},
    "mlflow": {"train"},
    "onnx": {"models"},
    "onnxruntime": {"models", "predict"},
    "openvino": {"predict"},
    "transformers": {"models"},
    "segmentation_models_pytorch": {"models"},
    "timm": {"models"},
    "pycocotools": {"corpus"},
    "pyvips": {"imaging"},
    "rasterio": {"imaging"},
    "shapely": {"imaging"},
    "torchcodec": {"imaging"},
    "triton": {"predict", "crf"},
    "pyiceberg": {"analysis"},
    "deltalake": {"analysis"},
    "numba": {"compiled", "crf"},
}
TOP = {"pipeline", "jobs", "configs", "tests", "infra"}
Arrows = dict[str, set[str]]


def modules(folder: Path) -> dict[str, Path]:
    """Dotted name -> file of every module below a package's folder."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, known: Iterable[str] = ()) -> Iterator[str]:
    """What a source imports; `from a import b` is a.b where that is a known module, else a."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module


def arrows_of(files: dict[str, Path]) -> Arrows:
    """Module -> the modules of the same tree that it imports, wherever in its text."""
    return {
        name: {other for other in imported(path.read_text(), files) if other in files and other != name}
        for name, path in files.items()
    }


def room(module: str) -> str:
    """The entry at the top of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def between_rooms(arrows: Arrows) -> Arrows:
    """Room -> the other rooms that its modules import."""
    rooms: Arrows = {room(name): set() for name in arrows if room(name)}
    for name, others in arrows.items():
        if room(name):
            rooms[room(name)] |= {room(other) for other in others if room(other) not in ("", room(name))}
    return rooms


def circles(arrows: Arrows) -> list[list[str]]:
    """[name, those that it imports] of what is left once all that imports nothing, or that nothing imports, is taken away."""
    left = {name: set(others) for name, others in arrows.items()}
    while True:
        wanted = {other for others in left.values() for other in others}
        ends = [name for name, others in left.items() if not others or name not in wanted]
        if not ends:
            return [[name, *sorted(others)] for name, others in sorted(left.items())]
        for name in ends:
            del left[name]
        for others in left.values():
            others.difference_update(ends)


FILES = modules(ROOT / "pipeline")


def test_rooms_import_each_other_in_one_direction():
    assert circles(between_rooms(arrows_of(FILES))) == []


def test_no_room_has_a_circle_inside():
    arrows = arrows_of(FILES)
    inside = {name: {o for o in others if room(o) == room(name)} for name, others in arrows.items()}
    assert circles(inside) == []


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_rooms_alone(library):
    found = {
        room(name)
        for name, path in FILES.items()
        if any(other.split(".")[0] == library for other in imported(path.read_text()))
    }
    assert found <= HOMES[library]


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"low": "", "high": "from pipeline import low"}, []),
        ({"low": "from pipeline import high", "high": "import pipeline.low"}, ["high", "low"]),
        ({"low": "def f():\n    from pipeline.high import g", "high": "from pipeline.low import f"}, ["high", "low"]),
    ],
)
def test_a_planted_circle_is_found(tmp_path, sources, found):
    for name, source in {"__init__": "", **sources}.items():
        (tmp_path / "pipeline").mkdir(exist_ok=True)
        (tmp_path / "pipeline" / f"{name}.py").write_text(source)
    left = circles(between_rooms(arrows_of(modules(tmp_path / "pipeline"))))
    assert sorted(name for name, *_ in left) == found


def test_the_package_has_at_most_twenty_rooms():
    found = {path.name for path in (ROOT / "pipeline").iterdir() if not path.name.startswith(("_", ".", "py.typed"))}
    assert len(found) <= 20, sorted(found)


def test_every_room_says_what_it_is():
    assert [name for name, path in FILES.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def strangers_in_compiled_functions(module: str, source: str) -> set[str]:
    """Names that compiled functions of a module take from where `pipeline.compiled` sees no change: outside its folder."""
    tree, folder = ast.parse(source), module.rpartition(".")[0]
    foreign = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline")
        for alias in node.names
        if node.module not in ("pipeline.labels", "pipeline.compiled")
        and f"{node.module}.{alias.name}".rsplit(".", 2)[0] != folder
        and f"{node.module}.{alias.name}".rpartition(".")[0] != folder
    }
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("compiled" in ast.unparse(one) for one in node.decorator_list)
    ]
    used = {name.id for function in functions for name in ast.walk(function) if isinstance(name, ast.Name)}
    return foreign & used


def test_compiled_functions_are_made_of_their_folder_alone():
    sources = {name: path.read_text() for name, path in FILES.items()}
    assert [name for name, text in sources.items() if "njit" in text and name != "pipeline.compiled"] == []
    found = {name: strangers_in_compiled_functions(name, text) for name, text in sources.items()}
    assert {name: names for name, names in found.items() if names} == {}
    planted = "from pipeline.storage import CHUNK\n@compiled()\ndef f(x):\n    return x + CHUNK"
    assert strangers_in_compiled_functions("pipeline.metrics.iou", planted) == {"CHUNK"}


def test_jobs_are_thin():
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert jobs
    assert [job.name for job in jobs if len(job.read_text().splitlines()) > 60] == []


def test_only_the_planned_folders_stand_at_the_top():
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert found - {"runs"} <= TOP
