"""Errors are reported by cause: the user's as a message, an image's as its reject, our own with the traceback."""

import pickle
import subprocess
import sys

import pytest
import ray.exceptions  # noqa: F401  # of errors that are written as text
from pydantic import model_validator

from pipeline import storage
from pipeline.config import SegmentConfig, load, parse
from pipeline.config.base import Section
from pipeline.corpus import list_items
from pipeline.errors import Reject, UserError
from pipeline.labels import LabelSpace
from pipeline.segment.core_turns import Turns
from pipeline.segment.loading import Loader
from pipeline.synthetic.scenes import write_corpus
from pipeline.train import run_folder
from pipeline.train.metrics_log import read_records
from tests.small_train import config as train_config
from tests.test_segment import config as segment_config

PLANTED = """
import sys
from pipeline.corpus import samples
def planted(*arguments, **keywords):
    raise ValueError("a planted bug")
samples.{name} = planted
from pipeline.cli import main
main()
"""


@pytest.mark.parametrize("name", ["decode_label", "LabelSpace.to_train"])
def test_a_bug_while_images_are_checked_is_told_as_ours_and_not_as_the_images(tmp_path, name):
    write_corpus(str(tmp_path), {"val": 2}, 32, 64, seed=0)
    command = [sys.executable, "-c", PLANTED.format(name=name), "check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "label_out_of_range" not in done.stdout + done.stderr
    assert "Traceback" in done.stderr and "in planted" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ValueError above is a bug of maskmill") and "issue tracker" in last


def test_a_bug_while_an_image_is_loaded_is_no_reject(scenes, monkeypatch):
    cfg = segment_config(*scenes, "unused", "unused")
    item = list_items(cfg.corpus, None)[0]
    loader = Loader(cfg, space := pickle.loads(pickle.dumps(_space())), Turns(1))

    def planted(*arguments):
        raise ValueError("a planted bug")

    monkeypatch.setattr(LabelSpace, "to_train", planted)
    assert space is loader.space
    with pytest.raises(ValueError, match="a planted bug"):
        loader(item)


def _space():
    from pipeline import labels

    return labels.space("cityscapes19")


@pytest.mark.slow
def test_training_names_the_image_that_it_cannot_use(scenes, tmp_path):
    from pipeline.corpus.samples import load_pair

    images, truths = write_corpus(str(tmp_path), {"train": 1}, 32, 64, seed=0, packed=False)
    cfg = segment_config(images, truths, "unused", "unused").corpus
    (item,) = list_items(cfg, None)
    storage.put(item.label.uri, b"x" * item.label.bytes)
    with pytest.raises(UserError, match=f"^{item.image_id}: no PNG"):
        load_pair(item, _space(), 10**6)


class _Faulty(Section):
    value: int

    @model_validator(mode="after")
    def _checks(self):
        raise ValueError("a planted bug")


def test_a_bug_in_a_check_of_the_config_is_not_the_configs_fault():
    with pytest.raises(ValueError, match=r"^a planted bug$") as caught:
        parse(_Faulty, {"value": 1}, where="test")
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00config", b"[" * 5000, b"a: *b", b"a: b: c"])
def test_a_config_file_that_is_no_yaml_is_told_so(tmp_path, data):
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.yaml(:1)?: not valid YAML"):
        load(SegmentConfig, str(tmp_path / "a.yaml"))


def test_a_damaged_file_of_a_training_run_is_named(scenes, tmp_path):
    cfg = train_config(scenes, tmp_path / "run")
    (tmp_path / "run").mkdir()
    uses = {
        "config.json": lambda: run_folder.claim(cfg),
        "environment.json": lambda: run_folder.add_environment(cfg.output),
        "metrics.jsonl": lambda: read_records(f"{cfg.output}/metrics.jsonl"),
    }
    for name, use in uses.items():
        (tmp_path / "run" / name).write_bytes(b"\xff{")
        with pytest.raises(UserError, match=rf"run/{name} is damaged"):
            use()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("PermissionError(13, 'Permission denied', '/a/b')", "access is refused (Permission denied: /a/b); check that"),
        ("OSError(28, 'No space left on device')", "a disk is full ([Errno 28] No space left on device); free space"),
        ("FileNotFoundError(2, 'No such file or directory', '/a')", "No such file or directory: /a; check the path"),
        ("ray.exceptions.RayTaskError('f', 'trace', UserError('put it right')).as_instanceof_cause()", "put it right"),
        ("ray.exceptions.NodeDiedError('gone')", "lost the cluster or one of its machines (NodeDiedError: gone); run"),
    ],
)
def test_what_a_disk_a_store_or_a_machine_did_is_one_sentence(capsys, error, told):
    from pipeline.cli import run

    def command():
        raise eval(error)

    assert run(command, debug=False) == 1
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_rejects_travel_between_processes():
    reject = pickle.loads(pickle.dumps(Reject("label", "label_size", "too small")))
    assert (reject.stage, reject.reason, str(reject)) == ("label", "label_size", "too small")
