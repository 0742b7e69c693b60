from pathlib import Path

import pytest

from pipeline.config import CorpusConfig, SegmentConfig, TrainConfig, canonical, differences, load

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


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("crf.iteration=3", r"crf\.iteration: unknown key; known keys here: iterations, smooth_weight"),
        ("actors=0", r"actors: found 0; input should be greater than or equal to 1"),
        ("corpus.layout=voc", r"corpus\.layout: found 'voc'; input should be 'cityscapes', 'camvid', 'pairs'"),
        ("crf.iterations", "expected key.path=value"),
        ("actors.more=1", "actors is a value, not a section"),
        ("corpus.image_glob='*.jpg'", "belong to layout 'pairs', found layout 'camvid'"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(segment_yaml, override, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(SegmentConfig, segment_yaml, [override])


def test_every_fault_of_a_file_is_told_at_once(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("corpus: {images: a.zip, layout: camvid}\nmax_reject_rate: 2\n")
    with pytest.raises(ValueError, match=r"checkpoint: missing.*output: missing.*max_reject_rate: found 2"):
        load(SegmentConfig, str(path))


@pytest.mark.parametrize(
    ("text", "sentence"), [("a: [", "not valid YAML"), ("- 1", "expected keys and values, found list")]
)
def test_a_file_that_is_no_config_is_told_so(tmp_path, text, sentence):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load(SegmentConfig, str(path))


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
    load(TrainConfig if path.name.startswith("train") else SegmentConfig, str(path))
