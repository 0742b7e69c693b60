"""What each config key affects is declared once, with the key; four places read it."""

import json
from types import SimpleNamespace

import pytest

from pipeline import labels
from pipeline.cluster.submit import prepare
from pipeline.config import SegmentConfig, TrainConfig, machine_keys, pace_keys, parse, parse_model, run_keys
from pipeline.errors import UserError
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs.info import fingerprint_of
from pipeline.segment import estimate
from pipeline.segment.driver import identity
from pipeline.train import run_folder
from tests.small_train import config as train_config

READY = Checkpoint(
    model=SimpleNamespace(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    model_config=parse_model({"name": "unet", "channels": 8, "depth": 2}, where="test"),
    label_space=labels.space("cityscapes19"), sha256="0" * 64, info={},
)  # fmt: skip
CRF = {"iterations": 5, "smooth_weight": 1, "smooth_px": 1, "colour_weight": 2, "colour_px": 12, "colour_levels": 12}
CONFIG = {
    "corpus": {"images": "s3://b/a.zip", "labels": "s3://b/l.zip", "layout": "cityscapes"}, "split": "val",
    "checkpoint": "s3://b/model", "output": "s3://b/run", "predict": {"scales": [0.5, 1], "flip": True}, "crf": CRF,
    "metrics": {"boundary_px": [2], "calibration_bins": 15}, "max_reject_rate": 0.01, "actors": 2, "cpus_per_actor": 4,
}  # fmt: skip
# Of each machine key another value.
ELSEWHERE = {
    "crf_on": "cpu", "max_reject_rate": 0.5, "batch_size": 7, "decode": "tasks", "actors": 5, "cpus_per_actor": 2,
    "gpus_per_actor": 1,
}  # fmt: skip
TRAIN_ELSEWHERE = {
    "workers": 1, "cpus_per_worker": 3, "gpus_per_worker": 1, "read_threads": 2, "max_failures": 4, "save_every": 5,
    "tensorboard": True, "mlflow": "http://host",
}  # fmt: skip


def segment_config(**changes):
    return parse(SegmentConfig, CONFIG | changes, where="test")


@pytest.mark.parametrize(
    ("changes", "golden"),
    [
        ({}, "0adcb12b7d2d493bebd5eca71cca878d918f4b6082bb3df9a7b829d1a94e4b73"),
        (
            {"stream_above_pixels": 1000, "predict": {"tile": [64, 64]}, "crf": None, "metrics": {}},
            "60526592c93b339d659dc654aee2ce90cf3141d77f2100c52bab346d306bffb3",
        ),
    ],
)
def test_the_fingerprint_is_that_of_the_runs_that_are_there(changes, golden):
    """The numbers were computed when the keys were still listed in segment.py."""
    assert fingerprint_of(identity(segment_config(**changes), READY)) == golden


def test_every_key_decides_one_thing():
    addresses = {"checkpoint", "code", "ensemble", "output"}
    assert set(ELSEWHERE) == machine_keys(SegmentConfig)
    assert run_keys(SegmentConfig) | set(ELSEWHERE) | addresses == set(SegmentConfig.model_fields)
    assert set(TRAIN_ELSEWHERE) == machine_keys(TrainConfig)
    assert run_keys(TrainConfig) | set(TRAIN_ELSEWHERE) == set(TrainConfig.model_fields)


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_machine_key_changes_neither_the_fingerprint_nor_the_job(key, tmp_path):
    changes = {key: ELSEWHERE[key]}
    assert identity(segment_config(**changes), READY) == identity(segment_config(), READY)
    assert job("segment", tmp_path, CONFIG | changes).digest == job("segment", tmp_path, CONFIG).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"crf": CRF | {"iterations": 6}},
        {"crf": CRF | {"mode": "fast"}},
        {"max_pixels": 7},
        {"images_per_shard": 3},
        {"split": None},
        {"engine": "openvino"},
        {"regions": {"min_area": 50}},
        {"confidence_map": True},
        {"unknown_below": 0.4},
    ],
)
def test_a_key_of_the_run_changes_both(changes, tmp_path):
    assert identity(segment_config(**changes), READY) != identity(segment_config(), READY)
    assert job("segment", tmp_path, CONFIG | changes).digest != job("segment", tmp_path, CONFIG).digest


def test_the_default_engine_is_in_no_identity(tmp_path):
    assert "engine" not in identity(segment_config(engine="torch"), READY)
    for later in ("engine", "confidence_map", "unknown_below"):
        assert later not in segment_config().model_dump(mode="json")  # as in the run.json of before
    assert "mode" not in segment_config().model_dump(mode="json")["crf"]
    assert identity(segment_config(engine="openvino"), READY)["engine"] == "openvino"
    assert job("segment", tmp_path, CONFIG | {"engine": "torch"}).digest == job("segment", tmp_path, CONFIG).digest


def job(kind, folder, values):
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    return prepare(kind, str(path), [])


@pytest.mark.parametrize("key", TRAIN_ELSEWHERE)
def test_a_training_run_and_its_job_may_change_the_same_keys(key, scenes, tmp_path):
    cfg = train_config(scenes, tmp_path / "run", epochs=3)
    run_folder.claim(cfg)
    changed = cfg.model_copy(update={key: TRAIN_ELSEWHERE[key]})
    run_folder.claim(changed)
    first, second = (with_uris(one) for one in (cfg, changed))
    assert job("train", tmp_path, first).digest == job("train", tmp_path, second).digest
    with pytest.raises(UserError, match="another config: epochs: 3, now 4"):
        run_folder.claim(changed.model_copy(update={"epochs": 4}))
    assert job("train", tmp_path, second | {"epochs": 4}).digest != job("train", tmp_path, first).digest


def with_uris(cfg):
    return cfg.model_dump(mode="json") | {"corpus": CONFIG["corpus"], "output": "s3://b/run"}


def test_a_rate_is_called_anothers_where_a_key_of_the_pace_differs(tmp_path, monkeypatch):
    before = segment_config()
    monkeypatch.setattr(estimate, "describe", lambda run: SimpleNamespace(config=before.model_dump(mode="json")))
    assert estimate.unlike("run", segment_config(actors=9, max_reject_rate=0, split=None)) == []
    streamed = segment_config(stream_above_pixels=1000, predict={"tile": [64, 64]}, crf=None, metrics={})
    (told,) = estimate.unlike("run", streamed)
    assert "stream_above_pixels: null, now 1000" in told and "crf" in told
    assert {"checkpoint", "crf_on", "batch_size", "stream_above_pixels"} <= pace_keys(SegmentConfig)
