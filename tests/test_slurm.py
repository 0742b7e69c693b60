"""The batch script for Slurm, run as Slurm runs it: SLURM_* set, `srun` and `scontrol` simulated, Ray and the command real."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline import storage
from pipeline.runs import verify
from pipeline.synthetic.scenes import write_corpus

SCRIPT = Path(__file__).parent.parent / "infra" / "slurm" / "maskmill.sbatch"
IMAGES = 6
PLAYED = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',  # without its options
    "scontrol": "echo node-a\necho node-b\n",
}


@pytest.fixture
def environment(tmp_path):
    """What Slurm gives a batch script of two nodes; both are this machine."""
    (tmp_path / "bin").mkdir()
    for name, text in PLAYED.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    programs = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    slurm = {"JOB_ID": str(os.getpid()), "JOB_NUM_NODES": "2", "JOB_NODELIST": "node-[a-b]", "CPUS_PER_TASK": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {"PATH": os.pathsep.join(programs)} | {f"SLURM_{name}": value for name, value in slurm.items()}


def config(folder, checkpoint, **changes):
    images, labels = write_corpus(str(folder / "corpus"), {"val": IMAGES}, 64, 128, seed=0)
    values = {
        "corpus": {"images": images, "labels": labels, "layout": "cityscapes"}, "split": "val", "checkpoint": checkpoint,
        "output": str(folder / "run"), "images_per_shard": 1, "actors": 2, "cpus_per_actor": 1, **changes,
    }  # fmt: skip
    path = folder / "segment.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.fixture
def start(environment, tmp_path):
    """Start the script in a session of its own; the process and its output. What is left at the test's end is killed."""
    processes = []

    def run(*arguments):
        log = (tmp_path / "log").open("w+")
        command = [SCRIPT, *arguments]
        processes.append(
            subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        )
        return processes[-1], log

    yield run
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(f"/tmp/ray-{os.getpid()}", ignore_errors=True)


def left(job):
    """Processes of a job's Ray or command that still run, whatever their session."""
    done = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if re.search(rf"/ray-{job}\b", line)]


def ended(process, log, seconds):
    """The exit code and the output, once nothing of the job is left."""
    code = process.wait(seconds)
    deadline = time.monotonic() + 60
    while left(os.getpid()):
        assert time.monotonic() < deadline, left(os.getpid())
        time.sleep(0.5)
    log.seek(0)
    return code, log.read()


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_job_whose_time_is_up_keeps_what_is_answered_and_the_next_one_finishes(start, tiny_checkpoint, tmp_path):
    path = config(tmp_path, tiny_checkpoint, predict={"scales": [1.0] * 40})  # long enough to be broken off
    process, log = start("segment", path)
    deadline = time.monotonic() + 400
    while not storage.list_files(str(tmp_path / "run" / "masks")):
        assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)  # as --signal=B:TERM does: to the batch shell alone
    code, said = ended(process, log, 100)
    assert (code, "run the same command again" in said) == (143, True), said
    assert 0 < len(storage.list_files(str(tmp_path / "run" / "masks"))) < IMAGES
    code, said = ended(*start("segment", path), 400)
    assert code == 0, said
    proof = verify(str(tmp_path / "run"))
    assert (proof.masks, proof.rejects, proof.problems) == (IMAGES, 0, [])


@pytest.mark.cluster
def test_a_head_that_does_not_start_is_told(start, tmp_path):
    (tmp_path / "bin" / "ray").write_text("#!/usr/bin/env bash\nexit 1\n")
    (tmp_path / "bin" / "ray").chmod(0o755)
    code, said = ended(*start("segment", "none.yaml"), 60)
    assert (code, said) == (1, "the head of the Ray cluster on node-a did not start\n")
