"""What `pip install` installs: both distributions hold the whole package, and work without a checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from pipeline import __version__
from pipeline.cli import HEAVY
from pipeline.cluster import submit
from pipeline.config import SegmentConfig, TrainConfig, TuneConfig, load
from tests.cluster_configs import segment_values
from tests.small_run import Drawn, make_run

wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the package")

ROOT = Path(__file__).parent.parent
PROJECTS = {"maskmill": ROOT, "maskmill-reader": ROOT / "infra" / "reader"}
EXAMPLES = [*(ROOT / "configs").rglob("*.yaml"), ROOT / "jobs/explore.ipynb"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Distribution -> its wheel."""
    folder = tmp_path_factory.mktemp("dist")
    return {
        name: Path(next(wheel.WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"])))
        for name, root in PROJECTS.items()
    }


@pytest.fixture(scope="module")
def site(wheels, tmp_path_factory):
    """A folder with nothing but the unpacked wheel of maskmill."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheels["maskmill"]).extractall(folder)
    return folder


def requirements(project, heavy=True):
    """Name -> requirement, with its floor, of a pyproject.toml."""
    lines = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    return {one.name: str(one) for one in map(Requirement, lines) if heavy or one.name not in HEAVY}


def python(site, folder, *arguments):
    """A new interpreter in a folder, that finds the package in `site`."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_holds_every_file_of_the_package_and_the_examples(wheels, name):
    package = {file for file in (ROOT / "pipeline").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    wanted = {str(file.relative_to(ROOT)) for file in package}
    wanted |= {f"pipeline/examples/configs/{file.relative_to(ROOT / 'configs')}" for file in EXAMPLES[:-1]}
    wanted |= {"pipeline/examples/explore.ipynb"}
    found = {entry for entry in zipfile.ZipFile(wheels[name]).namelist() if ".dist-info/" not in entry}
    assert found == wanted
    assert "pipeline/py.typed" in found


@pytest.mark.parametrize("name", PROJECTS)
def test_metadata_has_the_version_of_the_code_and_no_address(wheels, name):
    archive = zipfile.ZipFile(wheels[name])
    text = archive.read(next(entry for entry in archive.namelist() if entry.endswith("/METADATA"))).decode()
    metadata = Parser().parsestr(text)
    assert (metadata["Name"], metadata["Version"], metadata["Author"]) == (name, __version__, "Maskmill maintainers")
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert {"Home-page", "Project-URL", "Author-email", "License", "License-Expression"}.isdisjoint(metadata.keys())


def test_the_reader_needs_what_maskmill_needs_but_the_heavy_packages():
    assert requirements(PROJECTS["maskmill-reader"]) == requirements(ROOT, heavy=False)
    assert set(HEAVY) == requirements(ROOT).keys() - requirements(PROJECTS["maskmill-reader"]).keys()
    extras = [tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"] for root in
              (PROJECTS["maskmill-reader"], ROOT)]  # fmt: skip
    assert extras[0].items() <= extras[1].items()


@pytest.mark.slow
def test_away_from_the_checkout_the_module_is_the_command_and_brings_the_examples(site, tmp_path):
    assert python(site, tmp_path, "-m", "pipeline", "--version") == (0, f"maskmill {__version__}\n")
    code, said = python(site, tmp_path, "-m", "pipeline", "config", "--examples", "here")
    assert code == 0, said
    assert len(list((tmp_path / "here").rglob("*.*"))) == len(EXAMPLES)
    kept = tmp_path / "here/configs/camvid/train_segnet.yaml"
    kept.write_text("mine")
    code, said = python(site, tmp_path, "-m", "pipeline", "config", "--examples", "here")
    assert (code, kept.read_text(), said.count("already exists, not overwritten")) == (0, "mine", len(EXAMPLES))


def test_every_example_is_a_config_of_this_version():
    for path in EXAMPLES[:-1]:
        schema = {"train": TrainConfig, "segment": SegmentConfig, "space": TuneConfig}[path.name.partition("_")[0]]
        load(schema, str(path))


PACK = """
from pathlib import Path
from pipeline.cluster import submit

job = submit.prepare("segment", "segment.yaml", None)
submit.pack(job, Path("package"))
print(submit.request(job, job.id, "")["entrypoint"])
"""


@pytest.mark.slow
def test_away_from_the_checkout_a_job_is_packed_and_runs_there(site, tmp_path):
    (tmp_path / "segment.yaml").write_text(yaml.safe_dump(segment_values("s3://bucket")))
    (tmp_path / "package").mkdir()
    code, said = python(site, tmp_path, "-c", PACK)
    assert (code, said.strip()) == (0, "python -m pipeline segment config.yaml")
    assert {path.name for path in (tmp_path / "package").iterdir()} == {"pipeline", "config.yaml"}
    assert not (tmp_path / "package/pipeline" / submit.EXAMPLES).exists()
    code, said = python("", tmp_path / "package", "-m", "pipeline", "config", "segment", "output")  # where the job runs
    assert code == 0 and "output: " in said


ASK = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

HEAVY = HEAVY_NAMES
sys.meta_path.insert(0, Missing())
import pipeline.cli
from pipeline import open_run

run, other, labels = sys.argv[1:]
view = open_run(run)
assert view.iou(by=["city"]).shape[0] == 2 and len(view.intervals()) and len(view.pictures(["val/x_0"]))
for words in (
    ["evaluate", run, "--by", "city"], ["evaluate", run, "--merge", "both=sky+building"], ["evaluate", run, "--labels", labels],
    ["compare", run, other], ["drift", run, other],
    ["report", run], ["export", run, "--format", "png", "--out", "png"], ["verify", run],
    ["status", run], ["check", labels], ["models"],
):
    sys.argv = ["maskmill", *words]
    code = pipeline.cli.run(lambda: pipeline.cli._command(words), debug=True)
    assert not code, (words, code)
for words in (["train", "train.yaml"], ["segment", "segment.yaml"], ["models", run]):
    assert pipeline.cli.run(lambda: pipeline.cli._command(words), debug=False) == 1, words
assert not {name.partition(".")[0] for name in sys.modules} & set(HEAVY)
print("asked")
"""


@pytest.mark.slow
def test_a_run_is_asked_without_torch_and_ray(tmp_path):
    drawn = [
        Drawn(f"val/x_{k}", mask, label="0011", city="xy"[k % 2]) for k, mask in enumerate(("0001", "0011", "1133"))
    ]
    run, other = (make_run(str(tmp_path / name), drawn) for name in ("run", "other"))
    labels = tmp_path / "labels" / "val"
    labels.mkdir(parents=True)
    for number in range(len(drawn)):
        shutil.copyfile(f"{run}-corpus/label{number}.png", labels / f"x_{number}.png")
    (tmp_path / "segment.yaml").write_text(yaml.safe_dump(segment_values("s3://bucket")))
    shutil.copyfile(ROOT / "configs/camvid/train_segnet.yaml", tmp_path / "train.yaml")
    script = ASK.replace("HEAVY_NAMES", repr(HEAVY))
    code, said = python(ROOT, tmp_path, "-c", script, run, other, str(labels.parent))
    assert code == 0, said
    assert "\nasked\n" in said
    assert (
        said.count("which is not installed here (maskmill-reader alone only reads runs); run: pip install maskmill")
        == 3
    )
