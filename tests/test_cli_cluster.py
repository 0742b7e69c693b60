"""The cluster commands as a person meets their mistakes, and processes that are told apart by more than their number."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pipeline.cluster import processes
from tests.test_cli import maskmill

JOB = "infra/kuberay/job/config.yaml"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("submit", "segment", JOB, "--address", "host:8265"), "expected the cluster's dashboard"),
        (("submit", "segment", JOB, "--address", "http://127.0.0.1:9"), "http://127.0.0.1:9: no answer"),
        (("submit", "segment", JOB, "--address", "http://h", "--set", "output=runs/x"), "a path of this machine"),
        (("job", "status", "x", "--address", "http://127.0.0.1:9"), "no answer"),
        (("cluster", "down", "--folder", "/nowhere"), "/nowhere has no cluster"),
        (("plan", JOB), "give the rate as --like RUN"),
        (("plan", JOB, "--rate", "1", "--images", "10"), "--images and --image-kb"),
        (
            ("plan", JOB, "--rate", "0", "--images", "10", "--image-kb", "1"),
            "images/s of a device is 0; it must be above 0",
        ),
        (("plan", JOB, "--like", "/nowhere"), "/nowhere is not finished"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_1(arguments, sentence):
    done = maskmill(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert sentence in done.stderr


def test_plan_prints_hours_requests_and_what_will_not_scale():
    done = maskmill("plan", JOB, "--rate", "100", "--images", "100000000", "--image-kb", "300", "--devices", "64")
    assert done.returncode == 0, done.stderr
    for words in (
        "100,000,000 images on 64 devices",
        "1,562,500 parts",
        "reads 30 TB",
        "warning: 1,562,500 parts",
    ):
        assert words in done.stdout


def test_end_takes_the_children_along_and_leaves_a_process_of_another_birth(tmp_path):
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '100'], process_group=0); time.sleep(100)"
    started = processes.start("one", [sys.executable, "-c", code], dict(os.environ), tmp_path / "one.log")
    deadline = time.monotonic() + 30
    while len(processes.members(started)) < 2:
        assert time.monotonic() < deadline, (tmp_path / "one.log").read_text()
        time.sleep(0.1)
    stranger = replace(started, born="another time")
    assert processes.members(stranger) == []
    assert processes.end([stranger]) == 0
    assert processes.alive(started)
    assert processes.end([started]) == 2
    assert processes.running(started) == []


def test_a_command_that_does_not_heed_a_polite_word_is_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_S", 0.5)
    deaf = processes.start("deaf", ["sh", "-c", "trap '' TERM; echo set; sleep 100"], {}, tmp_path / "deaf.log")
    while "set" not in (tmp_path / "deaf.log").read_text():
        time.sleep(0.05)
    assert processes.end([deaf]) >= 1
    assert processes.running(deaf) == []
    assert subprocess.run(["kill", "-0", str(deaf.pid)], capture_output=True).returncode != 0
