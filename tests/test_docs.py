"""README and guides do what they say: commands parse, configs validate, Python and SQL run, links and files exist."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from pipeline import labels
from pipeline.cluster import runtime_env
from pipeline.config import ClassMap, SegmentConfig, TrainConfig, parse
from tests import config_reference
from tests.crf_cases import street_scene
from tests.doc_blocks import DOCS, PAGES, ROOT, Block, blocks, commands
from tests.small_run import Drawn, make_run

LANGUAGES = {"bash", "yaml", "python", "sql", "text"}
OTHER_PROGRAMS = {"cd", "docker", "export", "git", "kubectl", "pip", "ray", "sbatch", "ssh-keygen", "unzip"}
NEEDED: dict[type, dict[str, Any]] = {
    TrainConfig: {"corpus": {"images": "pictures"}, "label_space": "camvid11", "output": "out"},
    SegmentConfig: {"corpus": {"images": "pictures"}, "checkpoint": "best", "output": "out"},
}
PERSON = "b"  # train id 11 of cityscapes19


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that the examples ask."""
    folder = tmp_path_factory.mktemp("docs")
    space = labels.space("cityscapes19")
    for name, masks in (("runs/demo/run", "0bb0"), ("runs/other", "0b00")):
        drawn = [
            Drawn(f"val/x_{k}", masks, label=f"0{PERSON}0{k}", city="xy"[k % 2], sequence="s", frame=k)
            for k in range(4)
        ]
        make_run(str(folder / name), drawn, space=space, boundary_px=(1, 3), calibration_bins=15)
    street = f"0000000/0dd0000/0000000/{PERSON}0{PERSON}0{PERSON}0{PERSON}"  # a car and four persons
    make_run(str(folder / "runs/streets"), [Drawn("val/x_0", street, city="x")], space=space, regions=1)
    return folder


def test_every_block_says_its_language():
    assert {str(block): block.language for block in blocks() if block.language not in LANGUAGES} == {}


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_the_commands_are_commands(block: Block):
    from pipeline.cli.commands import app

    group = typer.main.get_command(app)
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    for program, *arguments in commands(block):
        match Path(program).name:
            case "maskmill":
                name, *rest = arguments
                group.commands[name].make_context(name, rest).close()  # its own parser: arguments, options, choices
            case "make":
                assert set(arguments) <= targets, arguments
            case "python":
                module = ROOT / arguments[1].replace(".", "/")
                assert arguments[0] == "-m" and (
                    module.with_suffix(".py").exists() or (module / "__main__.py").exists()
                )
            case other:
                assert other in OTHER_PROGRAMS, f"{block}: {other}"
        for word in arguments:
            if re.match(r"(configs|infra|jobs|tests)/", word):
                assert (ROOT / word).exists(), f"{block}: {word}"


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_the_configs_are_valid(block: Block, tmp_path: Path):
    """The first line says whose they are; what is left out is what every such config must have."""
    kind = block.text.partition("\n")[0].strip("# ")
    values = yaml.safe_load(block.text)
    if "map.yaml" in kind:
        model, truth = labels.space("cityscapes19"), labels.space("camvid11")
        parse(ClassMap, values, str(block)).tables(model, truth, str(block))
        return
    if kind.startswith("env.yaml"):
        file = tmp_path / "env.yaml"
        file.write_text(block.text)
        assert runtime_env.read(str(file)).keys() == values.keys()
        return
    schema = {"train.yaml": TrainConfig, "segment.yaml": SegmentConfig}[kind]
    parse(schema, NEEDED[schema] | values, str(block))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda page: page.name
)
def test_the_python_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    image, probs = street_scene()
    names: dict[str, Any] = {"image": image, "probs": probs}
    for block in blocks("python"):
        if block.page == page:
            exec(compile(block.text, str(block), "exec"), names)
    if "marginals" in names:
        assert names["marginals"].shape == probs.shape
        assert (names["marginals"].argmax(0) != probs.argmax(0)).mean() > 0.01


@pytest.mark.parametrize("block", blocks("sql"), ids=str)
def test_the_sql_answers(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(folder)
    rows = duckdb.sql(block.text).fetchall()
    assert rows and all(np.isfinite(value) for row in rows for value in row if isinstance(value, (int, float)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_the_readme_leads_to_every_guide():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if f"infra/docs/{page.name}" not in text] == []


def test_the_reference_of_configs_is_that_of_the_code():
    assert config_reference.PAGE.read_text() == config_reference.page(), "run: python -m tests.config_reference"
