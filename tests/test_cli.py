"""The command line as users see it: exit codes and messages, no tracebacks."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline import __version__
from pipeline.synthetic.scenes import write_corpus
from tests.command import LIMIT_S, maskmill, maskmill_from_nothing
from tests.small_run import Drawn, make_run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("segment", "nowhere.yaml"), "error: config nowhere.yaml does not exist"),
        (("segment", "configs/camvid/segment_deeplab_v3plus.yaml", "--set", "crf.width=3"), "crf.width: unknown key; known"),
        (("train", "configs/camvid/train_deeplab_v3plus.yaml", "--set", "epochs=0"), "epochs: found 0"),
        (("segment", "configs/camvid/segment_deeplab_v3plus.yaml", "--set", "checkpoint=/none"), "no checkpoint.json there"),
        (("tune", "configs/camvid/train_deeplab_v3plus.yaml", "--space", "none.yaml"), "config none.yaml does not exist"),
        (("export-model", "/none", "--format", "torch_export", "--out", "/none/x"), "no checkpoint.json there"),
        (("check", "/nowhere"), "error: corpus /nowhere: there is no file"),
        (("verify", "/nowhere"), "no run.json there"),
        (("evaluate", "/nowhere"), "no run.json there"),
        (("report", "/nowhere"), "no run.json there"),
        (("compare", "/nowhere", "/neither"), "no run.json there"),
        (("export", "/nowhere", "--format", "png", "--out", "x"), "no run.json there"),
        (("segmnt",), "No such command 'segmnt'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_exit_code_1(arguments, sentence):
    done = maskmill(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_command_started_from_nothing_says_and_returns_the_same():
    for words in (("verify", "/nowhere"), ("segmnt",), ("models", "--help")):
        forked, started = maskmill(*words), maskmill_from_nothing(*words)
        assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)


def test_debug_shows_the_traceback():
    done = maskmill("verify", "/nowhere", debug=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_check_counts_a_good_corpus(tmp_path):
    write_corpus(str(tmp_path), {"train": 4, "val": 2}, 32, 64, seed=0)
    done = maskmill("check", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for words in (
        "layout cityscapes: 6 images, 6 with a label",
        "splits: train 4, val 2",
        "32x64 (6)",
        "sky ",
        "for one pass",
        f"next: maskmill init DIR --images {tmp_path} writes configs for it",
    ):
        assert words in done.stdout


def test_check_lists_bad_files_by_reason_and_exits_with_2(tmp_path):
    write_corpus(str(tmp_path), {"val": 4}, 32, 64, seed=0, packed=False)
    images = sorted((tmp_path / "leftImg8bit").rglob("*.png"))
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:-20])
    (tmp_path / "gtFine/val/dunmere/dunmere_000009_000000_gtFine_labelIds.png").write_bytes(b"x")
    done = maskmill("check", str(tmp_path))
    assert done.returncode == 2, done.stderr
    for words in ("bad: 1 empty", "bad: 1 truncated", "val/dunmere/dunmere_000000_000000: the file is empty",
                  "labels without an image: 1"):  # fmt: skip
        assert words in done.stdout


def test_check_reads_16_bits_where_their_range_is_declared(tmp_path):
    for name in "ab":
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / f"{name}.png")
    done = maskmill("check", str(tmp_path))
    assert done.returncode == 2
    assert "next: check it with --bands and --range" in done.stdout
    done = maskmill("check", str(tmp_path), "--bands", "1", "--range", "0,4095")
    assert done.returncode == 0, done.stderr
    assert "8x8 (2)" in done.stdout
    assert "--bands 1 --range 0,4095 writes configs for it" in done.stdout
    done = maskmill("check", str(tmp_path), "--bands", "1")
    assert "error: check: --bands and --range belong together" in done.stderr


def test_an_unknown_layout_says_what_was_tried(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    done = maskmill("check", str(tmp_path))
    assert done.returncode == 1
    assert "no known layout fits" in done.stderr
    assert "--layout pairs" in done.stderr


@pytest.mark.parametrize("job", ["train", "segment", "evaluate"])
def test_jobs_read_their_config_and_stop_with_check(job):
    kind = "train" if job == "train" else "segment"
    command = [sys.executable, "-m", f"jobs.{job}", f"configs/camvid/{kind}_deeplab_v3plus.yaml", "--check"]
    assert subprocess.run(command, timeout=120).returncode == 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs over the same three images; the second finds one pixel more."""
    folder = tmp_path_factory.mktemp("pair")
    first = [
        Drawn("a", "0001", label="0011"),
        Drawn("b", "0022", label="0.22", city="x"),
        Drawn("c", "1133", label="1111"),
    ]
    second = [Drawn("a", "0011", label="0011"), *first[1:]]
    return make_run(str(folder / "first"), first), make_run(str(folder / "second"), second)


def test_without_labels_evaluate_prints_what_was_predicted(tmp_path):
    drawn = [Drawn("val/a", "0012", city="aachen"), Drawn("val/b", "3333", city="bochum"), Drawn("val/c", None)]
    run = make_run(str(tmp_path / "run"), drawn)
    done = maskmill("evaluate", run, "--by", "city")
    assert done.returncode == 0, done.stderr
    words = [" ".join(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    table = ["road 50.00", "sky 25.00", "building 12.50", "pole 12.50"]
    assert [line for line in words if line in table] == table
    assert "aachen 1 sky 50.00, building 25.00, pole 25.00" in words and "bochum 1 road 100.00" in words
    assert "no image of the run has a label" in done.stdout


def test_evaluate_prints_the_headline_with_intervals_then_classes_and_groups(pair):
    done = maskmill("evaluate", pair[0], "--by", "city")
    assert done.returncode == 0, done.stderr
    assert "95 % intervals by bootstrap over images" in " ".join(done.stdout.split())
    assert "frequency-weighted IoU" in done.stdout
    # sky 3/4, building 3/6, pole 2/2, road 0/2
    assert "56.25" in next(line for line in done.stdout.splitlines() if "mIoU" in line)
    assert "25.00 to 100.00" in done.stdout
    assert "city" in done.stdout


@pytest.mark.parametrize("label", ["0011", None])
def test_evaluate_writes_the_report_too_where_it_is_asked_for(tmp_path, label):
    run = make_run(str(tmp_path / "run"), [Drawn("a", "0001", label=label)])
    assert f"next: maskmill report {run}" in maskmill("evaluate", run).stdout
    done = maskmill("evaluate", run, "--report")
    assert f"report, for a browser: {run}/report.html\n" in done.stdout, done.stderr
    assert f"maskmill export {run} --format png --out DIR" in done.stdout
    assert (tmp_path / "run/report.html").is_file()
    refused = maskmill("evaluate", run, "--report", "--merge", "all=sky+road")
    assert refused.stderr == "error: evaluate: --report shows the run as it is; leave it out, or --labels and --merge\n"


def test_compare_prints_both_runs_and_the_difference(pair):
    done = maskmill("compare", *pair)
    assert done.returncode == 0, done.stderr
    assert "over 3 images labelled in both" in " ".join(done.stdout.split())
    sky = next(line for line in done.stdout.splitlines() if "sky" in line)
    assert sky.replace("│", " ").split()[1:4] == ["75.00", "100.00", "+25.00"]


def test_export_writes_and_says_where(pair, tmp_path):
    done = maskmill("export", pair[0], "--format", "coco-rle", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"3 masks: {tmp_path}/annotations.json"
    refused = maskmill("export", pair[0], "--format", "gif", "--out", str(tmp_path))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "choose one of cityscapes, png, coco-rle" in refused.stderr


def test_the_command_alone_shows_its_help():
    done = maskmill()
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "Usage: maskmill [OPTIONS]" in done.stdout
    assert all(heading in done.stdout for heading in ("Start here", "Networks", "Runs", "Answers"))


HEAVY = ("numpy", "pyarrow", "numba", "pandas", "dask", "torch", "ray")  # a tenth of a second to four seconds each


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("--help",), ()),
        (("segment", "--help"), ()),
        (("models",), ("numpy", "numba")),
        (("config", "segment"), ("numpy", "numba")),
        (("evaluate", "RUN"), ("numpy", "pyarrow", "numba", "pandas", "dask")),
    ],
)
def test_a_command_imports_only_what_it_needs(words, needed, pair):
    told = [pair[0] if word == "RUN" else word for word in words]
    program = f"""
import sys
from pipeline.cli import main
sys.argv = ["maskmill", *{told!r}]
try:
    main()
finally:
    print(sorted(name for name in (*{HEAVY!r}, "dask.dataframe") if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == str(sorted(needed))


def test_its_version_is_told():
    done = maskmill("--version")
    assert (done.returncode, done.stdout) == (0, f"maskmill {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("segmnt",), "error: No such command 'segmnt'. Did you mean 'segment'? (see maskmill --help)"),
        (("segment",), "error: Missing argument 'config' (see maskmill segment --help)"),
        (("--foo",), "error: No such option: --foo (see maskmill --help)"),
        (("segment", "x.yaml", "--foo"), "error: No such option: --foo (see maskmill segment --help)"),
        (("export-model", "x", "--format", "bad", "--out", "y"), "error: Invalid value for '--format': 'bad' is not one of"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_sentence_that_leads_to_the_help(arguments, sentence):
    for debug in (False, True):
        done = maskmill(*arguments, debug=debug)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(sentence)


def test_the_shell_completes_commands(tmp_path):
    # A shell of its own, from which the command finds out for which shell it is asked.
    code = f"{sys.executable} -c 'from pipeline.cli import main; main()' --show-completion; echo code $?"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=120)
    assert "_MASKMILL_COMPLETE=complete_bash" in done.stdout and done.stdout.endswith("code 0\n"), done.stderr
    environment = os.environ | {"_MASKMILL_COMPLETE": "complete_bash", "COMP_WORDS": "maskmill seg", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert asked.stdout.split() == ["segment"], asked.stderr
    code = code.replace("--show", "--install")
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("code 0\n") and (tmp_path / ".bash_completions" / "maskmill.sh").is_file(), done.stderr


def test_a_job_says_a_mistake_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", "missing.yaml"], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: config missing.yaml does not exist")
