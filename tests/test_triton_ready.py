"""Without a C compiler, torch's operations do the GPU's work, after one warning.

Tests run in processes of their own, whose PATH and CC lead to a compiler or to none. A CUDA device is only simulated; the code
that looks for a compiler, and fails or compiles, is Triton's own.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")
CHILD = """
import logging
import torch

logging.basicConfig(format="%(levelname)s %(message)s")
torch.cuda.is_available = lambda: True  # Triton asks it before it compiles
from pipeline.crf.gpu import inference
from pipeline.predict.upsample_torch import gpu_enlargements
from tests.crf_cases import SOFT, on_device, street_scene

steps = [inference.steps_for(torch.device("cuda")) for _ in range(3)]
print(*{one.__name__.rsplit(".", 1)[1] for one in steps}, *(one.__name__ for one in gpu_enlargements()))
if steps[0].__name__.endswith("torch_steps"):
    image, probs = street_scene()
    expected = on_device(probs[:, :20, :30], image[:20, :30], SOFT)
    inference.steps_for = lambda device: steps[0]
    print((on_device(probs[:, :20, :30], image[:20, :30], SOFT) == expected).all())
"""
BY_TORCH = "torch_steps enlarge_argmax_torch enlarge_confidence_torch"
BY_TRITON = "triton_steps enlarge_argmax_gpu enlarge_confidence_gpu"


@pytest.fixture(scope="module")
def driver_library(tmp_path_factory):
    """A folder with a library of the driver's name that has its functions, none of which does anything."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc here, which makes the library that Triton's module is linked to")
    folder = tmp_path_factory.mktemp("driver")
    import triton

    names = set(
        re.findall(r"\bcu[A-Z]\w+(?=\()", (Path(triton.__file__).parent / "backends/nvidia/driver.c").read_text())
    )
    (folder / "cuda.c").write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(names)))
    library = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, folder / "cuda.c"], check=True
    )
    return folder


def answer(driver_library, cache, **environment):
    """Lines of output and of warnings."""
    kept = {name: os.environ[name] for name in ("HOME", "NUMBA_CACHE_DIR") if name in os.environ}
    child = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, timeout=200,
        env={**kept, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(cache), "TRITON_LIBCUDA_PATH": str(driver_library),
             "LD_LIBRARY_PATH": str(driver_library), **environment},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines(), [line for line in child.stderr.splitlines() if line.startswith("WARNING")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": "/nowhere"}, "Failed to find C compiler"),
        ({"PATH": "/nowhere", "CC": "/nowhere/cc"}, "No such file or directory: '/nowhere/cc'"),
        ({"PATH": os.defpath, "CC": shutil.which("false")}, "returned non-zero exit status 1"),
    ],
    ids=["no compiler", "CC names none", "it fails"],
)
def test_without_a_compiler_torch_does_the_work_after_one_warning(driver_library, tmp_path, environment, reason):
    output, warnings = answer(driver_library, tmp_path, **environment)
    assert output == [BY_TORCH, "True"]
    assert len(warnings) == 1
    assert reason in warnings[0] and "install gcc, or name one in CC" in warnings[0]


@pytest.mark.slow
def test_a_compiler_is_needed_once(driver_library, tmp_path):
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        pytest.skip("Python's headers are not here")
    assert answer(driver_library, tmp_path, PATH=os.environ["PATH"]) == ([BY_TRITON], [])
    without = tmp_path / "without a compiler"
    without.mkdir()
    if described := shutil.which("file"):  # by which Python tells the platform, which is part of the cache's keys
        (without / "file").symlink_to(described)
    assert answer(driver_library, tmp_path, PATH=str(without)) == ([BY_TRITON], [])
