"""Compiled code is cached, and never used for changed sources; without a cache, the package still works."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline import compiled
from tests.conftest import ROOT

# What a test asks of a copy of the package, and a change of a file that the function does not stand in.
EXP = ("crf/cpu/simd.py", "_fill(x, -80.0)", "_fill(x, -1.0)")
SOFTMAX = """
import numpy as np
from pipeline.crf.cpu.mean_field import softmax
rows = np.array([0, -5, -5, -5, -5, -5, -5, -5], np.float32)
softmax(rows, 1, (0, 1), (0,), np.array([[0, 8]]), 1)
print(rows[1])
"""
IGNORED = ("labels/label_space.py", "IGNORE = 255", "IGNORE = 7")
COUNTS = """
import numpy as np
from pipeline.metrics.boundary import count_boundary
label = np.full((8, 8), 7, np.uint8)
label[4:] = 1
print(count_boundary(label, label, 9, (1,)).sum())
"""
CHUNK = ("crf/cpu/vertices.py", "CHUNK = 4096", "CHUNK = 2048")
MARGINALS = """
import hashlib, numpy as np
from pipeline.crf import DenseCRF
from tests.crf_cases import street_scene
image, probs = street_scene()
crf = DenseCRF.from_probs(np.tile(probs[:2], (1, 3, 3)))
crf.add_gaussian(3, 3)
print(hashlib.sha256(crf.inference(2).tobytes()).hexdigest())
"""


def copy_of_the_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def ask(
    folder: Path, program: str, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    path = f"{folder}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    found = subprocess.run(
        [*prefix, sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found


@pytest.mark.slow
@pytest.mark.scorecard("fault", 32)
@pytest.mark.parametrize(
    ("change", "program", "named"),
    [
        pytest.param(EXP, SOFTMAX, False, id="an intrinsic; kept in the package"),
        pytest.param(IGNORED, COUNTS, True, id="a constant of labels; kept in NUMBA_CACHE_DIR"),
    ],
)
def test_code_of_other_sources_is_never_run(tmp_path, change, program, named):
    package = copy_of_the_package(tmp_path / "copy")
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "kept") if named else ""}
    first = ask(package, program, **environment).stdout
    code = sorted((tmp_path / "kept" if named else package).rglob("*.nbc"))
    assert code  # it is kept,
    stamps = [path.stat().st_mtime_ns for path in code]
    assert ask(package, program, **environment).stdout == first
    assert [path.stat().st_mtime_ns for path in code] == stamps  # and found again
    file, old, new = change
    text = (package / "pipeline" / file).read_text()
    assert old in text
    (package / "pipeline" / file).write_text(text.replace(old, new))
    changed = ask(package, program, **environment).stdout
    assert changed == ask(package, program, NUMBA_CACHE_DIR=str(tmp_path / "empty")).stdout != first
    (package / "pipeline" / file).write_text(text)
    assert ask(package, program, **environment).stdout == first
    assert [path.stat().st_mtime_ns for path in code] == stamps  # both states are there


@pytest.mark.slow
@pytest.mark.scorecard("fault", 32)
def test_a_constant_of_the_lattice_changed_under_a_warm_cache_changes_the_marginals(tmp_path):
    package = copy_of_the_package(tmp_path / "copy")
    first = ask(package, MARGINALS, NUMBA_CACHE_DIR="").stdout
    file, old, new = CHUNK
    text = (package / "pipeline" / file).read_text()
    assert old in text
    (package / "pipeline" / file).write_text(text.replace(old, new))
    assert ask(package, MARGINALS, NUMBA_CACHE_DIR="").stdout != first


def test_every_source_of_a_room_is_in_its_state(tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    (room / "one.py").write_text("X = 1")
    states = {compiled.state_of(room)}
    (room / "two.py").write_text("Y = 2")
    states.add(compiled.state_of(room))
    (room / "two.py").write_text("Y = 3")
    states.add(compiled.state_of(room))
    (room / "two.py").rename(room / "six.py")
    states.add(compiled.state_of(room))
    assert len(states) == 4


def test_code_of_states_long_gone_is_removed(tmp_path):
    for number in range(7):
        (tmp_path / f"numba-{number}").mkdir()
        (tmp_path / f"numba-{number}" / "f.1.nbc").write_bytes(b"code")
        os.utime(tmp_path / f"numba-{number}", (number, number))
    (tmp_path / "f-7.py311.1.nbc").write_bytes(b"code of Numba's own keeping")
    (tmp_path / "module.cpython-311.pyc").write_bytes(b"")
    compiled._forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "module.cpython-311.pyc", "numba-3", "numba-4", "numba-5", "numba-6",
    ]  # fmt: skip


@pytest.fixture
def read_only():
    """(folder with the package, command prefix): whoever runs with the prefix reads the folder and writes nothing in it."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = copy_of_the_package(Path(name))
        if os.geteuid() == 0:  # what root may write is not a matter of modes: another user runs it
            prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            folder.chmod(0o755)
        else:
            prefix = ()
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
        program = "import numba, os; print(os.access('pipeline/crf', os.W_OK), os.access('pipeline/crf/cpu/blur.py', os.R_OK))"
        try:
            found = subprocess.run(
                [*prefix, sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60
            )
        except FileNotFoundError:
            pytest.skip("setpriv (util-linux) is needed to run as another user than root")
        if found.stdout.split() != ["False", "True"]:
            pytest.skip(f"no other user can run this Python here: {found.stderr[-200:]}")
        yield folder, prefix
        for path in folder.rglob("*"):
            path.chmod(0o755)
        folder.chmod(0o755)


CRF = """
import numpy as np
from pipeline.crf import DenseCRF
print(DenseCRF(np.zeros((2, 4, 5), np.float32)).inference(0).sum())
"""
ALL = CRF + "import pipeline.segment.driver, pipeline.analysis"


@pytest.mark.slow
@pytest.mark.scorecard("fault", 33)
def test_with_a_read_only_package_and_home_code_is_kept_among_the_temporary_files(read_only):
    folder, prefix = read_only
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o777)
        there = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TMPDIR": temporary, "NUMBA_CACHE_DIR": ""}
        done = ask(folder, ALL, prefix, **there)
        assert done.stdout == "20.0\n"
        warned = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
        assert len(warned) == 1
        assert "NUMBA_CACHE_DIR" in warned[0] and temporary in warned[0]
        (private,) = Path(temporary).glob("maskmill-numba-*")
        assert private.stat().st_mode & 0o777 == 0o700
        code = {path: path.stat().st_mtime_ns for path in private.rglob("*.nbc")}
        assert code
        ask(folder, CRF, prefix, **there)
        assert {path: path.stat().st_mtime_ns for path in private.rglob("*.nbc")} == code  # found again


@pytest.mark.slow
@pytest.mark.scorecard("fault", 33)
def test_where_nothing_private_can_be_written_code_is_not_kept(read_only):
    """Somebody else has made the folder that would be ours: what lies in it must not be run."""
    folder, prefix = read_only
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o777)
        user = 65534 if prefix else os.getuid()
        planted = Path(temporary) / f"maskmill-numba-{user}"
        planted.mkdir()
        planted.chmod(0o777)
        home = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TMPDIR": temporary}
        done = ask(folder, CRF, prefix, **home, NUMBA_CACHE_DIR="/proc/nowhere")
        assert done.stdout == "20.0\n"
        (warned,) = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
        assert "NUMBA_CACHE_DIR (/proc/nowhere)" in warned and "not kept" in warned
        assert list(planted.iterdir()) == []


@pytest.mark.scorecard("fault", 33)
def test_a_folder_that_is_named_needs_no_warning(read_only):
    folder, prefix = read_only
    with tempfile.TemporaryDirectory() as named:
        Path(named).chmod(0o777)
        done = ask(folder, CRF, prefix, HOME="/nonexistent", NUMBA_CACHE_DIR=named)
        assert "NUMBA_CACHE_DIR" not in done.stderr
        assert list(Path(named).rglob("*.nbc"))
