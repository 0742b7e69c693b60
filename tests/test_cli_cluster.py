"""Messages of the cluster commands about users' mistakes."""

import io

import pytest
from rich.console import Console

from pipeline.cli import console, run
from pipeline.cli.commands import app

JOB = "infra/kuberay/job/config.yaml"


@pytest.fixture
def maskmill(capsys):
    """Runs a command in this process; its exit code and what it printed."""

    def command(*arguments):
        code = run(lambda: app(list(arguments), prog_name="maskmill", standalone_mode=False), debug=False)
        return code, *capsys.readouterr()

    return command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("submit", "segment", JOB, "--address", "host:8265"), "expected the cluster's dashboard"),
        (("submit", "segment", JOB, "--address", "http://127.0.0.1:9"), "http://127.0.0.1:9: no answer"),
        (("submit", "segment", JOB, "--address", "http://h", "--set", "output=runs/x"), "a path of this machine"),
        (("estimate", JOB, "--like", "/nowhere", "--rate", "1"), "leave out one of them"),
        (("estimate", JOB, "--images", "10", "--image-kb", "1"), "give the rate with --like RUN or --rate"),
        (("estimate", JOB, "--rate", "1", "--images", "10"), "--images and --image-kb"),
        (
            ("estimate", JOB, "--rate", "0", "--images", "10", "--image-kb", "1"),
            "images/s of a device is 0; it must be above 0",
        ),
        (("estimate", JOB, "--like", "/nowhere"), "/nowhere is not finished"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_1(maskmill, arguments, sentence):
    code, _, said = maskmill(*arguments)
    assert (code, said.count("\n")) == (1, 1), said
    assert sentence in said


def test_estimate_prints_hours_requests_and_what_will_not_scale(maskmill, monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=printed, width=200))
    code, *_ = maskmill(
        "estimate", JOB, "--rate", "100", "--images", "100000000", "--image-kb", "300", "--devices", "64"
    )
    assert code == 0
    for words in (
        "100,000,000 images on 64 devices",
        "1,562,500 parts",
        "reads 30 TB",
        "warning: 1,562,500 parts",
    ):
        assert words in printed.getvalue()
