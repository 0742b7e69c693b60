from pathlib import Path

import pytest

from pipeline.cli.next_steps import after_training
from pipeline.config import (
    CorpusConfig,
    SegmentConfig,
    TrainConfig,
    TuneConfig,
    canonical,
    differences,
    load,
    parse_model,
    stage_configs,
    with_values,
)
from pipeline.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"
SEGMENT = """
corpus: {images: s3://bucket/a.zip, layout: camvid}
checkpoint: s3://bucket/model
output: /runs/a
max_reject_rate: 0
actors: 1
cpus_per_actor: 1
crf: {iterations: 5, smooth_weight: 1, smooth_px: 1, colour_weight: 1, colour_px: 9, colour_levels: 9}
"""


@pytest.fixture
def segment_yaml(tmp_path):
    path = tmp_path / "segment.yaml"
    path.write_text(SEGMENT)
    return str(path)


def test_overrides_reach_nested_keys(segment_yaml):
    cfg = load(SegmentConfig, segment_yaml, ["crf.iterations=0", "predict.scales=[0.5, 1]", "split=val"])
    assert (cfg.crf.iterations, cfg.predict.scales, cfg.split) == (0, (0.5, 1.0), "val")


@pytest.mark.scorecard("security", 10)
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("crf.iteration=3", r"crf\.iteration: unknown key; known keys here: iterations, smooth_weight"),
        ("crf.iteration=3", r"mode; did you mean 'iterations'\?$"),
        ("actors=0", r"actors: found 0; it must be 1 or more"),
        ("crf.colour_px=.inf", r"crf\.colour_px: found inf; it must be a finite number"),
        ("max_reject_rate=.nan", r"max_reject_rate: found nan; it must be"),
        ("corpus.splits={}", r"corpus\.splits: splits are given by lists, .*, or by fractions"),
        ("corpus.splits={lists: {a: b.txt}, fractions: {a: 1}}", "give one of the three"),
        ("corpus.splits={lists: {a: b.txt}, by: city}", "splits by lists have no `by` and no `seed`"),
        ("corpus.splits={fractions: {train: 0.8, val: 0.3}}", r"found 0\.8, 0\.3; each must be above 0"),
        ("crf.iterations", "expected key.path=value"),
        ("actors.more=1", "actors is a value, not a section"),
        ("corpus.image_glob='*.jpg'", "belong to layout 'pairs', found layout 'camvid'"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(segment_yaml, override, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(SegmentConfig, segment_yaml, [override])


WRONG = """\
corpus:
  images: a.zip
  layot: camvid
checkpoint: c
max_reject_rate: 2
predict:
  mode: hole
code: [1]
"""


def test_every_fault_of_a_file_is_told_at_once_with_the_line_where_it_stands(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(WRONG)
    with pytest.raises(ValueError) as told:
        load(SegmentConfig, str(path), ["actors=0", "crf.iteration=1"])
    first, *others = str(told.value).splitlines()
    assert first == f"{path}: {len(others)} mistakes"
    for place in (f"{path}:3: corpus.layot: unknown key", f"{path}: output: missing", f"{path}:7: predict.mode: found 'hole'",
                  f"{path}:5: max_reject_rate: found 2", f"{path}:8: code: found [1]", "--set actors: found 0",
                  "--set crf.iteration: unknown key"):  # fmt: skip
        assert sum(line.startswith(f"  {place}") for line in others) == 1, (place, others)
    assert [line.rpartition("; ")[2] for line in others if "mean" in line] == [
        "did you mean 'layout'?", "did you mean 'whole'?", "did you mean 'iterations'?"]  # fmt: skip


def test_a_fault_that_a_check_of_our_own_finds_has_its_line_too(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(Path(CAMVID).read_text() + "best_by: iou.skyy\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(ValueError, match=rf"^{path}:{line}: best_by: found 'iou.skyy'.*did you mean 'iou.sky'\?$"):
        load(TrainConfig, str(path))
    with pytest.raises(ValueError, match=r"^--set best_by: found 'iou.tre'.*did you mean 'iou.tree'\?$"):
        load(TrainConfig, CAMVID, ["best_by=iou.tre"])
    listed = tmp_path / "b.yaml"
    listed.write_text("corpus: {images: a}\ncheckpoint: c\noutput: o\nensemble:\n  - d\n  - [e]\n")
    with pytest.raises(ValueError, match=rf"^{listed}:6: ensemble.1: found"):
        load(SegmentConfig, str(listed))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", r"a\.yaml:1: not valid YAML"),
        ("a: 1\nb: c: d", r"a\.yaml:2: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\nb: {c: 1, c: 2}", r"a\.yaml:3: c: this key is on line 3 already; keep one of the two"),
        ("- 1", "expected keys and values, found list"),
    ],
)
def test_a_file_that_is_no_config_is_told_so(tmp_path, text, sentence):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load(SegmentConfig, str(path))


@pytest.mark.scorecard("security", 10)
def test_yaml_cannot_make_objects(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("output: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="not valid YAML"):
        load(SegmentConfig, str(path))


def test_pairs_need_their_globs():
    with pytest.raises(ValueError, match="needs image_glob"):
        CorpusConfig(images="a", layout="pairs")


def test_equal_values_have_one_text_whatever_their_order():
    assert canonical({"b": 1, "a": [1.0, "é"]}) == canonical({"a": [1.0, "é"], "b": 1}) == '{"a":[1.0,"é"],"b":1}'


def test_differences_name_the_nested_key():
    assert differences({"crf": {"w": 3.0}, "x": 1}, {"crf": {"w": 5.0}, "x": 1}) == ["crf.w: 3.0, now 5.0"]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_config_is_legal(path):
    load({"train": TrainConfig, "space": TuneConfig}.get(path.name.split("_")[0], SegmentConfig), str(path))


CAMVID = str(CONFIGS / "camvid/train_deeplab_v3plus.yaml")


def staged(*stages):
    return with_values(load(TrainConfig, CAMVID, ["output=/runs/a"]), {"stages": list(stages)}, where="test")


def test_a_config_without_stages_is_its_only_stage():
    cfg = load(TrainConfig, CAMVID)
    assert stage_configs(cfg) == [cfg]


def test_a_stage_lays_its_keys_over_the_run():
    finer = {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "output_stride": 8}
    cfg = staged(
        {"epochs": 3, "freeze_backbone": True, "augment": {"crop": [128, 128]}},
        {"model": finer, "optimizer": {"lr": 0.0001}},
        {"train_split": "val", "start_from": "s3://bucket/other", "optimizer": {"name": "sgd", "lr": 1, "backbone_lr_factor": 1,
         "weight_decay": 0, "warmup_steps": 0, "schedule": "one_cycle"}},
    )  # fmt: skip
    first, second, third = stage_configs(cfg)
    assert (first.epochs, first.freeze_backbone, first.augment.crop, first.augment.scale) == (
        3,
        True,
        (128, 128),
        (0.75, 1.75),
    )
    assert (first.start_from, first.output, second.output) == (None, "/runs/a/stage-1", "/runs/a/stage-2")
    assert second.start_from == "/runs/a/stage-1/best"  # of the stage before, unless another is named
    assert (second.epochs, second.freeze_backbone, second.optimizer.lr, second.optimizer.name) == (
        40,
        False,
        0.0001,
        "adamw",
    )
    assert (second.model.output_stride, second.model.aspp_channels) == (
        8,
        256,
    )  # a section with a name is replaced whole
    assert (third.start_from, third.train_split, third.optimizer.schedule) == ("s3://bucket/other", "val", "one_cycle")
    assert stage_configs(staged({}, {"start_from": None}))[1].start_from is None


def test_a_network_s_rates_follow_the_stride_that_is_laid_over_it():
    coarse = load(TrainConfig, CAMVID, ["model={name: deeplabv3}", "output=/runs/a"])
    assert coarse.model.rates == (12, 24, 36)
    assert with_values(coarse, {"model.output_stride": 16}, where="test").model.rates == (6, 12, 18)
    stages = with_values(coarse, {"stages": [{}, {"model": {"output_stride": 16}}]}, where="test")
    assert [stage.model.rates for stage in stage_configs(stages)] == [(12, 24, 36), (6, 12, 18)]
    named = load(TrainConfig, CAMVID, ["model={name: deeplabv3, rates: [12, 24, 36]}"])
    assert with_values(named, {"model.output_stride": 16}, where="test").model.rates == (12, 24, 36)


def test_keys_that_came_later_are_in_no_text_of_a_config_that_does_without():
    """Runs and trainings are told apart by these texts: those from before the keys stay what they are."""
    assert "freeze_all_but_head" not in load(TrainConfig, CAMVID).model_dump(mode="json")
    assert (
        load(TrainConfig, CAMVID, ["freeze_all_but_head=true"]).model_dump(mode="json")["freeze_all_but_head"] is True
    )
    corpus = CorpusConfig(images="a", layout="camvid").model_dump(mode="json")
    assert list(corpus) == ["images", "labels", "layout", "image_glob", "label_glob"]
    split = CorpusConfig(images="a", splits={"fractions": {"train": 0.5}})
    assert CorpusConfig.model_validate(split.model_dump(mode="json")) == split
    for values, key in (({"name": "fcn"}, "last_upsampling"), ({"name": "deeplabv2"}, "resnet")):
        assert key not in parse_model(values, where="test").model_dump(mode="json")
    cfg = parse_model({"name": "deeplabv2", "resnet": "caffe"}, where="test")
    assert parse_model(cfg.model_dump(mode="json"), where="test") == cfg and cfg.model_dump()["resnet"] == "caffe"


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (({"workers": 2},), r"stages\.1: workers: not a stage's key; a stage may set model, weights, start_from"),
        (({}, {"epochs": 0}), r"stages\.2: epochs: found 0"),
        (({"start_from": "previous"},), r"stages\.1: start_from: previous is only possible in a stage after the first"),
    ],
)
def test_a_stage_that_is_not_legal_is_named(stages, sentence):
    with pytest.raises(ValueError, match=sentence):
        staged(*stages)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("norm=sync", "norm 'sync' works only on GPUs"),
        ("best_by=loss", r"choose one of miou, mean_accuracy, .*, iou\.sky"),
        ("best_by=iou.train", r"found 'iou\.train'; choose one of"),
        ("accumulate=3", "4 images, is taken in accumulate = 3 parts"),
        ("start_from=previous", "only possible in a stage after the first"),
        (
            "loss={terms: [{name: huber}]}",
            r"loss\.terms\.0\.name: found 'huber'; choose one of 'cross_entropy', 'focal', 'ohem', 'dice', 'lovasz'",
        ),
    ],
)
def test_training_keys_that_do_not_fit_each_other_are_told(override, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(TrainConfig, CAMVID, [override])


def test_an_impossible_date_is_text_after_set_and_refused_with_a_sentence_in_a_file(segment_yaml, tmp_path):
    assert load(SegmentConfig, segment_yaml, ["split=2024-13-01"]).split == "2024-13-01"
    (tmp_path / "bad.yaml").write_text(SEGMENT + "split: 2024-13-01\n")
    with pytest.raises(UserError, match=r"bad\.yaml: not valid YAML: month must be in 1\.\.12"):
        load(SegmentConfig, str(tmp_path / "bad.yaml"))
    assert after_training(str(tmp_path / "train.yaml"), "/model/best").startswith("maskmill init")
