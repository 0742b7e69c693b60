"""A config of a few keys is enough for a run: every other key has a default, which is documented and recorded with the run."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline import config, storage
from pipeline.config import (
    OptimizerConfig,
    SegmentConfig,
    TrainConfig,
    canonical,
    load,
    parse,
    stage_configs,
    with_values,
)
from pipeline.config.base import Section
from pipeline.train import run_folder

CONFIGS = Path(__file__).parent.parent / "configs"
TRAIN: dict[str, Any] = {
    "corpus": {"images": "/data/camvid.zip", "layout": "camvid"},
    "label_space": "camvid11",
    "output": "/runs/a",
}
SEGMENT: dict[str, Any] = {"corpus": TRAIN["corpus"], "checkpoint": "/runs/a/best", "output": "/runs/b"}
# Of the shipped configs, before keys had defaults; without the keys that say where things lie and which classes there are.
TEXTS = {
    "camvid/segment_deeplab_v3plus.yaml": "f7aea5dbf824",
    "camvid/train_deeplab_v3plus.yaml": "4f06401a8f10",
    "camvid/train_fcn8s.yaml": "43d2b3d8222d",
    "camvid/train_fcn8s_cpu.yaml": "206e0268c74a",
    "camvid/train_segnet.yaml": "25a1060c6bc1",
    "camvid/train_segnet_cpu.yaml": "b00311af7c9f",
}


def sections(kind: type[BaseModel] = Section) -> list[type[BaseModel]]:
    return [
        one for sub in kind.__subclasses__() for one in [sub, *sections(sub)] if sub.__module__.startswith("pipeline")
    ]


@pytest.mark.parametrize(
    "section", sorted({*sections()}, key=lambda section: section.__name__), ids=lambda section: section.__name__
)
def test_every_key_of_every_section_says_what_it_means(section):
    silent = [name for name, field in section.model_fields.items() if not (field.description or "").strip(" .")]
    assert silent == [], f"a string literal below the key documents it, in {section.__module__}"


def test_the_walk_over_the_sections_misses_none():
    found = {section.__name__ for section in sections()}
    assert {"TrainConfig", "SegmentConfig", "TuneConfig", "MetricsConfig", "UNetConfig", "LovaszConfig"} <= found
    public = {name for name in config.__all__ if isinstance(getattr(config, name), type)} - {"Section"}
    assert public <= found


def test_a_training_needs_corpus_classes_and_output_alone():
    cfg = parse(TrainConfig, TRAIN, where="test")
    required = {name for name, field in TrainConfig.model_fields.items() if field.is_required()}
    assert required == {"corpus", "label_space", "output"}
    assert (cfg.model.name, cfg.weights, cfg.train_split, cfg.val_split) == (
        "deeplabv3plus",
        "imagenet",
        "train",
        "val",
    )
    assert (cfg.precision, cfg.gpus_per_worker, cfg.batch_size % cfg.workers) == ("fp32", 0, 0)  # runs on any machine


def test_a_segmentation_needs_corpus_checkpoint_and_output_alone():
    parse(SegmentConfig, SEGMENT, where="test")
    required = {name for name, field in SegmentConfig.model_fields.items() if field.is_required()}
    assert required == {"corpus", "checkpoint", "output"}
    assert parse(SegmentConfig, SEGMENT | {"crf": {}}, where="test").crf.iterations == 10


def test_the_run_keeps_every_default_that_it_took(tmp_path):
    cfg = parse(TrainConfig, TRAIN | {"output": str(tmp_path)}, where="test")
    run_folder.claim(cfg)
    kept = storage.read_json(str(tmp_path / "config.json"))
    hidden = [name for name, field in TrainConfig.model_fields.items() if not field.exclude_if and name not in kept]
    assert hidden == []
    assert (kept["epochs"], kept["optimizer"]["lr"], kept["optimizer"]["poly_power"]) == (40, 0.002, 0.9)
    assert parse(TrainConfig, kept, where="test") == cfg


@pytest.mark.parametrize(("name", "text"), TEXTS.items())
def test_runs_of_configs_from_before_the_defaults_still_open(name, text):
    schema = TrainConfig if "/train_" in name else SegmentConfig
    values = load(schema, str(CONFIGS / name)).model_dump(mode="json")
    for key in ("corpus", "label_space", "output", "checkpoint"):
        values.pop(key, None)
    assert hashlib.sha256(canonical(values).encode()).hexdigest()[:12] == text


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, {"lr": 0.002, "weight_decay": 0.01, "warmup_steps": 20, "poly_power": 0.9, "final_factor": None}),
        ({"name": "sgd"}, {"lr": 0.01, "weight_decay": 0.0005}),
        ({"schedule": "cosine"}, {"poly_power": None, "final_factor": 0}),
        ({"schedule": "step"}, {"milestones": (0.6, 0.9), "step_factor": 0.1, "poly_power": None}),
        ({"schedule": "one_cycle"}, {"warmup_steps": 0}),
    ],
)
def test_an_optimizer_takes_the_defaults_of_its_name_and_schedule(given, taken):
    cfg = parse(OptimizerConfig, given, where="test")
    assert {key: getattr(cfg, key) for key in taken} == taken


def test_a_stage_or_a_search_changes_what_a_default_follows_from():
    cfg = parse(TrainConfig, TRAIN, where="test")
    assert with_values(cfg, {"optimizer.schedule": "cosine"}, where="test").optimizer.poly_power is None
    staged = with_values(cfg, {"stages": [{}, {"optimizer": {"schedule": "one_cycle"}}]}, where="test")
    assert [stage.optimizer.warmup_steps for stage in stage_configs(staged)] == [20, 0]


def test_a_wrong_value_is_told_without_the_defaults_that_follow_from_it():
    with pytest.raises(
        ValueError, match=r"^test: name: found 'adam'; choose one of 'adamw', 'sgd'; did you mean 'adamw'\?$"
    ):
        parse(OptimizerConfig, {"name": "adam"}, where="test")
