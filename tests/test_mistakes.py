"""The commonest mistakes before a real command: each is one sentence that says what to do."""

import importlib.util
import os
import subprocess
import sys
import time

import pytest

from tests.command import maskmill

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
        (("import-weights", "none.pth", "--model", "fcn", "--set", "backbone=*x", "--output", "x"), "found '*x'; choose one"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(arguments, sentence):
    if arguments[1].startswith("gs:") and importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    done = maskmill(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: ") and sentence in done.stderr, done.stderr


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
