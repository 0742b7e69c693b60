"""The most common mistakes with real commands: each gives one message that says what to do."""

import importlib.util
import os
import re
import subprocess
import sys
import time

import pytest
import yaml
from PIL import Image

from tests.command import maskmill
from tests.small_run import Drawn, make_run

CONFIG = "configs/camvid/segment_deeplab_v3plus.yaml"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("check", "gs://bucket/a"), "gs://bucket/a: gs:// needs a package that is not installed here"),
        (("check", "foo://bucket/a"), "foo://bucket/a: no store is known as foo://; give a path"),
        (("segment", CONFIG, "--set", "checkpoint=deeplab.pth"), "`maskmill import-weights /"),
        (("segment", CONFIG, "--set", "checkpoint=README.md"), "a file, and a checkpoint is a folder; turn published weights"),
        (("estimate", CONFIG, "--set", "predict.tile=512", "--rate", "1"), "predict.tile: found 512; it must be a list, such"),
        (("estimate", CONFIG, "--set", "actors=1.5", "--rate", "1"), "actors: found 1.5; it must be a whole number"),
        (("estimate", CONFIG, "--set", "actors=*", "--rate", "1"), "actors: found '*'; it must be a whole number"),
        (("estimate", CONFIG, "--set", "corpus.image_glob=**/*.png", "--rate", "1"), "image_glob and label_glob belong to"),
        (("segment", CONFIG, "--set", "actors", "2"), "--set takes KEY.PATH=VALUE, with = and no space"),
        (("estimate", CONFIG, "--set", "corpus=x", "--rate", "1"), "it must be a section, such as corpus: {images: x}"),
        (("import-weights", "none.pth", "--model", "fcn", "--set", "backbone=*x", "--output", "x"), "found '*x'; choose one"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(arguments, sentence):
    if arguments[1].startswith("gs:") and importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    done = maskmill(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: ") and sentence in done.stderr, done.stderr


RUN = {"corpus": {"images": "pictures"}, "checkpoint": "start/runs/train/best", "output": "start/runs/segment"}
TRAINING = {"corpus": {"images": "pictures", "labels": "labels"}, "label_space": "cityscapes19", "output": "start/runs/train",
            "train_split": "train", "val_split": "val", "epochs": 3}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """What a newcomer has: pictures, configs, a run over two of three images, without labels."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "pictures/a.png")
    (folder / "start").mkdir()
    for name, values in (("train", TRAINING), ("segment", RUN), ("typo", RUN | {"actrs": 2, "max_reject_rate": 2})):
        (folder / f"start/{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    (folder / "start/tab.yaml").write_text("corpus: {images: pictures}\n\tcheckpoint: x\n")
    make_run(
        str(folder / "start/runs/segment"),
        [Drawn("val/a", "0011", city="x"), Drawn("val/b", "0022"), Drawn("val/c", None)],
    )
    return folder


# The twelve that newcomers make most: a misspelt command, file, folder and key; a tab; the wrong config; a command before its
# time; a folder that is no run; group, class and image by a wrong name; what needs labels without labels.
TWELVE = [
    ("segmnt start/segment.yaml", "No such command 'segmnt'. Did you mean 'segment'? (see maskmill --help)"),
    ("train start/trian.yaml", "config start/trian.yaml does not exist; .*; did you mean 'start/train.yaml'?"),
    ("init new --images picture", "corpus {}/picture: there is no file; .*; did you mean '{}/pictures'?"),
    ("segment start/typo.yaml", "start/typo.yaml: 2 mistakes\n  start/typo.yaml:6: max_reject_rate: found 2; it must be .*\n"
                                "  start/typo.yaml:5: actrs: unknown key; .*; did you mean 'actors'?"),
    ("segment start/tab.yaml", "start/tab.yaml:2: not valid YAML: .*found character '.t' that cannot start any token"),
    ("segment start/train.yaml", "start/train.yaml: this is the config of `maskmill train`: .*; run maskmill train .*"),
    ("segment start/segment.yaml", "checkpoint {}/start/runs/train/best: no checkpoint.json there; give the folder that .*"),
    ("evaluate start/runs", "run {}/start/runs: no run.json there; give the output of `maskmill segment`, such as "
                            "{}/start/runs/segment"),
    ("areas start/runs/segment --by cty", "cannot group by 'cty'; the group columns are .*; did you mean 'city'?"),
    ("evaluate start/runs/segment --merge all=sky+rod", "merge all: 'rod' is not a class of camvid11: .*did you mean 'road'?"),
    ("show start/runs/segment val/z --output z.png", "run {}/.* has no image 'val/z'; its ids are like 'val/a', .*"),
    ("show start/runs/segment val/a --of errors --output z.png",
     "image 'val/a' has no label to show its errors by; choose prediction"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "sentence"), TWELVE, ids=[command for command, _ in TWELVE])
def test_the_twelve_commonest_mistakes_say_what_to_do(desk, command, sentence, monkeypatch):
    monkeypatch.chdir(desk)
    done = maskmill(*command.split())
    pattern = (
        re.escape(f"error: {sentence}\n".replace("{}", str(desk))).replace(r"\.\*", ".*").replace(r"'\.t'", r"'\\t'")
    )
    assert done.returncode == 1 and re.fullmatch(pattern, done.stderr), (pattern, done.stderr)


def at_the_store(**environment):
    """`maskmill status` of a run in a store, and how long it took."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "status", "s3://bucket/run"]
    began = time.monotonic()
    environment = kept | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    return done.stderr.splitlines(), time.monotonic() - began


def test_a_store_without_credentials_names_the_variables(tmp_path):
    (line,), _ = at_the_store(HOME=str(tmp_path))
    assert line.startswith("error: the store asks for credentials, and none are found") and "AWS_ACCESS_KEY_ID" in line


@pytest.mark.slow
def test_a_store_that_nobody_answers_for_is_given_up_soon_and_said_early():
    (told, line), seconds = at_the_store(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    assert told.startswith('the store does not answer (Could not connect to the endpoint URL: "http://127.0.0.1:9/')
    assert "trying for 15 s" in told
    assert line.startswith("error: the store did not answer for ") and "AWS_ENDPOINT_URL" in line
    assert seconds < 60  # it took 100 s, in silence


def test_text_that_yaml_reads_otherwise_stays_text(tmp_path):
    from pipeline.config import SegmentConfig, load

    path = tmp_path / "a.yaml"
    path.write_text(
        "corpus: {images: a.zip, layout: pairs}\ncheckpoint: c\noutput: o\nmax_reject_rate: 0\nactors: 1\ncpus_per_actor: 1\n"
    )
    for glob in ("**/*.png", "[ab]*.png", "{a,b}/*.png", "2024-01-01", "1", "no", "a: b", "images/**/*.jpg"):
        cfg = load(SegmentConfig, str(path), [f"corpus.image_glob={glob}", f"split={glob}"])
        assert (cfg.corpus.image_glob, cfg.split) == (glob, glob)
    cfg = load(
        SegmentConfig, str(path), ["corpus.image_glob='*.png'", "split=null", "actors=2", "predict.scales=[1, 2]"]
    )
    assert (cfg.corpus.image_glob, cfg.split, cfg.actors, cfg.predict.scales) == ("*.png", None, 2, (1.0, 2.0))
