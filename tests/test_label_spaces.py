"""Label spaces as data: built in, from a file or inline; mapping ids and colours to train ids; what is refused and why."""

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import labels, models, storage
from pipeline.analysis import open_run
from pipeline.config import SegmentConfig, TrainConfig, parse, parse_model, read_label_space, stage_configs
from pipeline.corpus import list_items, plan_shards
from pipeline.corpus.check import check_corpus, guess_corpus
from pipeline.corpus.samples import decode_ids
from pipeline.errors import Reject, UserError
from pipeline.labels import IGNORE, from_section, space
from pipeline.metrics.confusion import count_confusion
from pipeline.models import checkpoint
from pipeline.runs import Run, describe, verify
from pipeline.segment.driver import identity
from pipeline.segment.shard import ShardSegmenter
from pipeline.train import label_check
from tests import small_train
from tests.command import maskmill
from tests.small_run import Drawn, forget_hashes, make_run

OWN = {
    "name": "facade",
    "classes": [
        {"name": "wall", "colour": [10, 20, 30], "values": [0, 7]},
        {"name": "crack", "colour": "#ff0000", "values": 3, "stored_colours": [[255, 0, 0], [200, 0, 0]]},
        {"name": "rust", "colour": [255, 128, 0], "values": [4000], "stored_colours": [[255, 128, 0]]},
    ],
    "ignore_values": [9, 255],
    "ignore_colours": [[0, 0, 0]],
    "categories": {"damage": ["crack", "rust"]},
}


# What publishers say: cityscapesscripts, the VOC2012 devkit, CamVid's label_colors.txt, ADE20K's objectInfo150.txt, labels.txt
# of COCO-Stuff (whose ids are one more than its maps hold), panoptic_coco_categories.json, Mapillary's config_v1.2.json and
# config_v2.0.json, label.py of the BDD100K toolkit, classMapping40.mat of NYU Depth.
PUBLISHED = {  # space: classes, and (train id, name, stored value, colour or None) of some
    "cityscapes19": (19, [(0, "road", 7, (128, 64, 128)), (13, "car", 26, (0, 0, 142)), (18, "bicycle", 33, (119, 11, 32))]),
    "cityscapes34": (34, [(5, "dynamic", 5, (111, 74, 0)), (14, "guard rail", 14, (180, 165, 180))]),
    "voc21": (21, [(0, "background", 0, (0, 0, 0)), (15, "person", 15, (192, 128, 128)), (20, "tvmonitor", 20, (0, 64, 128))]),
    "camvid11": (11, [(0, "sky", 0, (128, 128, 128)), (8, "car", 8, (64, 0, 128)), (10, "bicyclist", 10, (0, 128, 192))]),
    "camvid32": (32, [(0, "Animal", 0, (64, 128, 64)), (19, "Sidewalk", 19, (0, 0, 192)),
                      (22, "SUVPickupTruck", 22, (64, 128, 192)), (30, "Void", 30, (0, 0, 0)), (31, "Wall", 31, (64, 192, 0))]),
    "ade20k150": (150, [(0, "wall", 1, (120, 120, 120)), (2, "sky", 3, (6, 230, 230)), (48, "skyscraper", 49, (140, 140, 140)),
                        (136, "traffic light", 137, None), (149, "flag", 150, None)]),
    "cocostuff171": (171, [(0, "person", 0, None), (11, "stop sign", 12, None), (79, "toothbrush", 89, None),
                           (80, "banner", 91, None), (133, "playingfield", 144, None), (157, "tree", 168, None),
                           (170, "wood", 181, None)]),
    "coco133": (133, [(0, "person", 1, (220, 20, 60)), (11, "stop sign", 13, (220, 220, 0)),
                      (79, "toothbrush", 90, (191, 162, 208)), (80, "banner", 92, (255, 255, 128)),
                      (105, "snow", 159, (255, 255, 255)),
                      (116, "tree-merged", 184, (107, 142, 35)), (132, "rug-merged", 200, (250, 141, 255))]),
    "mapillary65": (65, [(0, "Bird", 0, (165, 42, 42)), (3, "Fence", 3, (190, 153, 153)), (4, "Guard Rail", 4, (180, 165, 180)),
                         (64, "Ego Vehicle", 64, (120, 10, 10))]),
    "mapillary124": (123, [(0, "Bird", 0, (165, 42, 42)), (6, "Guard Rail", 6, (180, 165, 180)), (122, "Static", 122, None)]),
    "bdd100k": (19, [(0, "road", 0, (128, 64, 128)), (2, "building", 2, (70, 70, 70)), (18, "bicycle", 18, (119, 11, 32))]),
    "kitti": (19, [(0, "road", 7, (128, 64, 128)), (18, "bicycle", 33, (119, 11, 32))]),
    "nyu40": (40, [(0, "wall", 1, None), (23, "refridgerator", 24, None), (39, "otherprop", 40, None)]),
}  # fmt: skip
IGNORED = {
    "ade20k150": 0,
    "cocostuff171": 255,
    "coco133": 0,
    "mapillary65": 65,
    "mapillary124": 123,
    "bdd100k": 255,
    "nyu40": 0,
}


@pytest.mark.parametrize("name", labels.SPACES)
def test_a_built_in_list_says_what_its_publisher_says(name):
    count, facts = PUBLISHED[name]
    ours = space(name)
    assert (ours.num_classes, len(set(ours.classes))) == (count, count)
    for index, called, value, colour in facts:
        assert (ours.classes[index], ours.values[index]) == (called, (value,))
        assert colour is None or ours.colours[index] == colour
    if name in IGNORED:
        assert ours.to_train(np.array([[IGNORED[name]]]), "x").tolist() == [[IGNORE]]


@pytest.mark.parametrize("name", ["cityscapes19", "cityscapes34", "kitti", "bdd100k"])
def test_the_cityscapes_lists_are_the_official_table_in_full(name):
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    evaluated = [one for one in official if one.trainId not in (-1, 255)]
    wanted = [one for one in official if one.id >= 0] if name == "cityscapes34" else evaluated
    ours = space(name)
    assert ours.classes == tuple(one.name for one in wanted)
    assert ours.colours == tuple(one.color for one in wanted)
    assert ours.stored_ids == tuple(one.trainId if name == "bdd100k" else one.id for one in wanted)
    for index, one in enumerate(wanted):
        assert index in ours.categories[one.category]
    if name in ("cityscapes19", "kitti"):
        ids = np.array([[one.id for one in official if one.id >= 0]])
        assert ours.to_train(ids, "x").tolist() == [[one.trainId for one in official if one.id >= 0]]


def test_coco_things_and_stuff_have_the_ids_of_their_publisher():
    """Ids 1..90 with ten gaps are things; of the stuff, the maps hold 91..181 without a gap."""
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    things = [number for number in range(1, 91) if number not in gaps]
    assert [values[0] for values in space("coco133").values[:80]] == things
    assert [values[0] + 1 for values in space("cocostuff171").values] == [*things, *range(92, 183)]
    assert space("coco133").classes[:80] == space("cocostuff171").classes[:80]


def test_the_least_is_a_list_of_names():
    ours = from_section({"classes": ["background", "crack", "rust"]}, where="test")
    assert (ours.name, ours.classes, ours.stored_ids) == ("own", ("background", "crack", "rust"), (0, 1, 2))
    assert ours.to_train(np.array([[0, 2, 255]], np.uint8), "x").tolist() == [[0, 2, IGNORE]]
    assert len(set(ours.colours)) == 3
    many = from_section({"classes": [f"c{i}" for i in range(254)]}, where="test")
    assert len(set(many.colours)) == 254


def test_a_binary_mask_of_0_and_255_needs_no_more_than_its_values():
    ours = from_section({"classes": [{"name": "intact", "values": 0}, {"name": "crack", "values": 255}]}, where="test")
    assert ours.to_train(np.array([[0, 255]], np.uint8), "x").tolist() == [[0, 1]]
    with pytest.raises(Reject, match="label id 254 is outside own, whose stored ids are 0, 255; it is on 1 pixel"):
        ours.to_train(np.array([[0, 254]], np.uint8), "x")


def test_the_most_is_254_classes_and_the_counts_of_the_last_are_exact():
    ours = from_section({"classes": [f"c{i}" for i in range(254)]}, where="test")
    stored = np.array([[0, 253, 255, 253]], np.uint8)
    counts = count_confusion(ours.to_train(stored, "x"), np.array([[0, 253, 1, 7]], np.uint8), ours.num_classes)
    assert {tuple(place): int(counts[tuple(place)]) for place in np.argwhere(counts)} == {
        (0, 0): 1, (253, 253): 1, (253, 7): 1
    }  # fmt: skip


@pytest.mark.parametrize("form", ["name", "file", "json", "inline"])
def test_a_training_config_takes_a_name_a_file_or_the_section_and_keeps_it_whole(form, tmp_path):
    (tmp_path / "facade.yaml").write_text(json.dumps({k: v for k, v in OWN.items() if k != "name"}))  # JSON is YAML
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    value = {
        "name": "ade20k150",
        "file": str(tmp_path / "facade.yaml"),
        "json": str(tmp_path / "own.json"),
        "inline": OWN,
    }[form]
    cfg = small_train.config(("a", "b"), tmp_path / "out", label_space=value)
    ours = cfg.label_space.space
    assert ours == (space("ade20k150") if form == "name" else from_section(OWN, where="test"))
    for file in tmp_path.glob("*.*"):
        file.unlink()  # workers and resumed runs never read it again
    kept = cfg.model_dump(mode="json")
    assert (kept["label_space"] == "ade20k150") == (form == "name")
    assert parse(TrainConfig, json.loads(json.dumps(kept)), where="test").label_space.space == ours
    assert pickle.loads(pickle.dumps(ours)) == ours


def test_tables_of_a_space_do_not_travel_with_it():
    ours = from_section(OWN, where="test")
    ours.to_train(np.zeros((1, 1, 3), np.uint8), "x")  # 16 MB of colours
    assert len(pickle.dumps(ours)) < 2000


def test_best_by_takes_the_classes_of_the_space(tmp_path):
    assert small_train.config(("a", "b"), tmp_path, label_space=OWN, best_by="iou.crack").best_by == "iou.crack"
    with pytest.raises(UserError, match=r"found 'iou\.car'; choose one of .*iou\.wall, iou\.crack, iou\.rust"):
        small_train.config(("a", "b"), tmp_path, label_space=OWN, best_by="iou.car")


def picture(pixels, mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, format="PNG", **options)
    return file.getvalue()


def test_colour_pictures_become_exactly_the_classes_of_their_colours():
    ours, rng = space("camvid32"), np.random.default_rng(0)
    truth = rng.integers(0, 32, (37, 53)).astype(np.uint8)
    pixels = np.array(ours.colours, np.uint8)[truth]
    alpha = np.dstack([pixels, np.full(truth.shape, 90, np.uint8)])
    for data in (picture(pixels), picture(alpha)):
        stored, ids = decode_ids(data, ours, 10**6)
        assert stored.shape == (37, 53, 3)
        assert np.array_equal(ids, truth)
    assert np.array_equal(decode_ids(picture(truth), ours, 10**6)[1], truth)  # ids are legal beside colours


def test_a_palette_is_ids_where_the_space_has_ids_and_colours_where_it_has_none():
    indices = np.array([[0, 1, 2]], np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette([*(255, 0, 0), *(0, 0, 0), *(255, 128, 0)])
    file = io.BytesIO()
    image.save(file, format="PNG")
    by_id = from_section({"classes": ["a", "b", "c"]}, where="test")
    by_colour = from_section(
        {"classes": [{"name": "rust", "colour": [255, 128, 0]}, {"name": "crack", "colour": [255, 0, 0]}],
         "colour_labels": True, "ignore_colours": [[0, 0, 0]]}, where="test",
    )  # fmt: skip
    assert decode_ids(file.getvalue(), by_id, 100)[1].tolist() == [[0, 1, 2]]
    assert decode_ids(file.getvalue(), by_colour, 100)[1].tolist() == [[1, IGNORE, 0]]


def test_several_stored_values_mean_one_class_and_16_bit_ids_are_read():
    ours = from_section(OWN, where="test")
    stored = np.array([[0, 7, 3, 4000, 9, 255]], np.uint16)
    assert decode_ids(picture(stored), ours, 100)[1].tolist() == [[0, 0, 1, 2, IGNORE, IGNORE]]
    assert ours.to_stored(np.array([[0, 1, 2, IGNORE]], np.uint8)).tolist() == [[0, 3, 4000, 255]]
    colours = np.array([[[255, 0, 0], [200, 0, 0], [255, 128, 0], [0, 0, 0]]], np.uint8)
    assert decode_ids(picture(colours), ours, 100)[1].tolist() == [[1, 1, 2, IGNORE]]


def test_a_colour_that_is_not_in_the_space_is_named_with_its_pixels():
    ours = from_section(OWN, where="test")
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1:3, 2:4] = 12, 200, 3
    with pytest.raises(
        Reject, match=r"a\.png: label colour \(12, 200, 3\) is outside facade, .* it is on 4 pixels; add"
    ) as told:
        decode_ids(picture(pixels), ours, 100, where="a.png")
    assert told.value.reason == "label_out_of_range"
    assert pickle.loads(pickle.dumps(told.value)).found == {"(12, 200, 3)": 4}
    smooth = np.random.default_rng(0).integers(0, 255, (30, 30, 3)).astype(np.uint8)
    with pytest.raises(Reject, match="so many colours come from JPEG or from smooth scaling"):
        decode_ids(picture(smooth), ours, 10**6)


def test_where_the_space_has_no_colours_the_message_says_how_it_gets_them():
    with pytest.raises(
        Reject, match=r"mode RGB\); store class ids, not colours, or say in label_space .*colour_labels: true"
    ) as told:
        decode_ids(picture(np.zeros((4, 4, 3), np.uint8)), space("camvid11"), 100)
    assert told.value.reason == "label_not_indexed"


BAD = [
    ({"classes": ["wall", "crack", "wall"]}, "classes 0, 2 are all called 'wall'; give each class a name of its own"),
    ({"classes": [{"name": "a", "values": [1, 2]}, {"name": "b", "values": [2]}]},
     "value 2 of label pictures means both 'a' and 'b'"),
    ({"classes": [{"name": "a", "values": [1, 1]}]}, "value 1 of label pictures means both 'a' and 'a'"),
    ({"classes": ["a", "b"], "ignore_values": [1]}, r"value 1 of label pictures means both 'b' and \(ignored\)"),
    ({"classes": [{"name": "a", "stored_colours": [[1, 2, 3]]}, {"name": "b", "stored_colours": [[1, 2, 3]]}]},
     r"colour \(1, 2, 3\) of label pictures means both 'a' and 'b'; each colour belongs to one class"),
    ({"classes": [{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "colour": "#010203"}]},
     r"classes 'a' and 'b' have one colour, \(1, 2, 3\); give them different ones"),
    ({"classes": [f"c{i}" for i in range(255)]}, "255 classes: masks hold one byte a pixel, .* there can be 254 at most"),
    ({"classes": [{"name": "a", "values": 1}, "b"]}, "class 'b' has no values, and other classes have"),
    ({"classes": ["a"], "categories": {"all": ["a", "b"]}}, "category 'all' has 'b', which is not a class; choose one of a"),
    ({"classes": ["sky", "ground"], "name": "camvid11"},
     'is the name of a built-in label space, .*class 1 "building", now "ground"'),
    ({"classes": ["a", 7]}, r"label_space\.classes\.1\.name: found 7; it must be text"),
    ({"classes": [{"name": "a", "colour": [1, 2, 256]}]},
     r"label_space\.classes\.0\.colour\.2: found 256; it must be 255 or less"),
    ({"classes": [{"name": "a", "color": [1, 2, 3]}]},
     r"classes\.0\.color: unknown key; known keys here: name, colour, values"),
    ({"classes": []}, r"label_space\.classes: found \[\]; it needs at least 1 of them"),
    ({"clases": ["a"]}, r"label_space\.clases: unknown key"),
    ("ade20k",
     "label space 'ade20k' is unknown; choose one of cityscapes19, voc21, .* or give a YAML file of your own classes"),
    ("missing/own.yaml", r"missing/own\.yaml: no such file; give a YAML file of classes, or one of cityscapes19"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "sentence"), BAD)
def test_an_unsound_space_is_refused_in_one_sentence(value, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence) as told:
        small_train.config(("a", "b"), tmp_path, label_space=value)
    first, *others = str(told.value).splitlines()
    mistakes = others or [first]
    assert all(mistake.lstrip().startswith("test: label_space") for mistake in mistakes)
    assert first == f"test: {len(others)} mistakes" or not others


def test_a_file_that_is_no_section_is_refused(tmp_path):
    for text, sentence in (
        ("- a\n- b\n", "expected keys and values such as"),
        ("a: [", "own.yaml:1: not valid YAML"),
        ("classes:\n- a\n- {nme: b}\n", "own.yaml:3: classes.1.nme: unknown key.*did you mean 'name'"),
    ):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(UserError, match=sentence):
            read_label_space(str(tmp_path / "own.yaml"), where="--label-space")


NETWORK = {"name": "unet", "channels": 4, "depth": 1}


def save(uri, section, classes=3):
    torch.manual_seed(0)
    cfg = parse_model(NETWORK, where="test")
    checkpoint.save(str(uri), models.build(cfg, classes), cfg, from_section(section, where="test"), {})
    return str(uri)


def test_a_checkpoint_holds_the_whole_space(tmp_path):
    ready = checkpoint.load(save(tmp_path, OWN))
    assert ready.label_space == from_section(OWN, where="test") == checkpoint.label_space_of(str(tmp_path))
    described = json.loads((tmp_path / "checkpoint.json").read_text())
    assert described["label_space"] == ready.label_space.to_section() == ready.identity["label_space"]


def test_a_checkpoint_that_only_names_its_space_still_opens_with_the_same_identity(tmp_path):
    save(tmp_path, "camvid11", classes=11)
    now = checkpoint.load(str(tmp_path)).identity
    assert now["label_space"] == "camvid11"
    described = json.loads((tmp_path / "checkpoint.json").read_text())
    assert described["label_space"]["classes"][8]["name"] == "car"
    (tmp_path / "checkpoint.json").write_text(json.dumps(described | {"label_space": "camvid11"}))
    before = checkpoint.load(str(tmp_path))
    assert (before.label_space, before.identity) == (space("camvid11"), now)
    described["label_space"]["classes"][8]["colour"] = [1, 2, 3]
    (tmp_path / "checkpoint.json").write_text(json.dumps(described))
    with pytest.raises(
        UserError, match=r"these classes differ from it \(colour of 'car' \[64, 0, 128\], now \[1, 2, 3\]\)"
    ):
        checkpoint.load(str(tmp_path))


def begin(folder, section, classes=3):
    """A run made with a checkpoint in that space: what `maskmill segment` does before it starts a cluster."""
    cfg = SegmentConfig.model_validate(
        {"corpus": {"images": str(folder), "layout": "cityscapes"}, "checkpoint": save(folder / "model", section, classes),
         "output": str(folder / "run")}
    )  # fmt: skip
    ready = checkpoint.load(cfg.checkpoint)
    return Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space, lambda: plan_shards([], 4)
    )


def changed(path, value):
    section = json.loads(json.dumps(OWN))
    place = section
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return section


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (["classes", 1, "name"], "fissure", 'label_space: class 1 "crack", now "fissure"'),
        (["classes", 1, "colour"], [0, 255, 0], "label_space: colour of 'crack' [255, 0, 0], now [0, 255, 0]"),
        (["classes", 2, "values"], [8], "label_space: values of 'rust' [4000], now [8]"),
        (["ignore_values"], [255], "label_space: ignored values [9, 255], now [255]"),
        (["categories"], {}, 'label_space: categories {"damage": [1, 2]}, now'),
        (["name"], "front", 'label_space: name "facade", now "front"'),
    ],
)
def test_a_run_is_not_gone_on_with_in_another_space_and_what_changed_is_named(path, value, sentence, tmp_path):
    section = OWN if path != ["classes", 1, "name"] else {**OWN, "categories": {}}
    first = begin(tmp_path, section)
    assert begin(tmp_path, section).fingerprint == first.fingerprint
    other = changed(path, value) | ({"categories": {}} if section is not OWN else {})
    with pytest.raises(UserError, match=re.escape(f"run {tmp_path}/run was made with other settings: {sentence}")):
        begin(tmp_path, other)


def test_a_run_is_read_by_what_it_holds_and_not_by_code(tmp_path):
    """Its space is nowhere but in run.json; the parts hold names, colours and ids too."""
    ours = from_section(OWN, where="test")
    run = make_run(str(tmp_path / "run"), [Drawn("val/a", "012", "01."), Drawn("val/b", "0", "0")], space=ours)
    view = open_run(run)
    assert view.space == ours == Run.open(run).label_space
    assert list(view.iou().columns[:3]) == ["wall", "crack", "rust"]
    assert view.categories()["damage"] == 1.0
    assert verify(run).problems == []


def test_a_run_from_before_spaces_were_data_opens_and_verifies(tmp_path):
    """Its run.json holds name, classes and colours alone."""
    run = make_run(str(tmp_path / "run"), [Drawn("val/a", "012", "01.")])
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["label_space"].pop("section")["classes"][8]["name"] == "car"
    (tmp_path / "run/run.json").write_text(json.dumps(info))
    forget_hashes(run)
    assert open_run(run).space == space("camvid11")
    assert verify(run).problems == []
    info["label_space"]["colours"][0] = [1, 2, 3]
    (tmp_path / "run/run.json").write_text(json.dumps(info))
    assert verify(run).problems == ["run.json: label_space has other classes or colours than camvid11"]


def test_a_run_from_before_spaces_were_data_is_gone_on_with(tmp_path):
    first = begin(tmp_path, "camvid11", classes=11)
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["identity"]["label_space"] == "camvid11"  # what the fingerprints of such runs are made of
    del info["label_space"]["section"]
    (tmp_path / "run/run.json").write_text(json.dumps(info))
    again = begin(tmp_path, "camvid11", classes=11)
    assert (again.fingerprint, again.label_space) == (first.fingerprint, space("camvid11"))
    with pytest.raises(UserError, match=r'label_space: class 0 "sky", now "wall"'):
        begin(tmp_path, OWN)


def test_an_edited_space_of_a_run_is_held_against_its_identity(tmp_path):
    begin(tmp_path, OWN)
    info = json.loads((tmp_path / "run/run.json").read_text())
    info["label_space"]["section"]["classes"][2]["values"] = [5]
    (tmp_path / "run/run.json").write_text(json.dumps(info))
    with pytest.raises(
        UserError, match=r"label_space is not identity\.label_space: values of 'rust' \[4000\], now \[5\]"
    ):
        describe(str(tmp_path / "run"))


@pytest.fixture
def foreign(tmp_path):
    """Three labelled CamVid-layout images; two labels hold what camvid11 lacks."""
    for name, values in (("a", [0, 1, 12, 12]), ("b", [3, 12, 40, 3]), ("c", [0, 1, 2, 11])):
        for kind, pixels in (
            ("images", np.zeros((2, 2, 3), np.uint8)),
            ("labels", np.array(values, np.uint8).reshape(2, 2)),
        ):
            for split in ("train", "val"):
                path = tmp_path / "corpus" / kind / split / f"0001TP_{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(pixels))
    return tmp_path / "corpus"


LACKS = (
    r"label space camvid11 lacks: 12 on 6 pixels in 4 files \(\S+_a, \S+_b, .*\); "
    r"40 on 2 pixels in 2 files \(\S+_b, \S+_b\); add"
)


def test_check_collects_foreign_values_over_all_files(foreign, tmp_path):
    report = check_corpus(guess_corpus(str(foreign)).cfg, None, space("camvid11"), 10**6)
    assert report.foreign.pixels == {"12": 6, "40": 2}
    assert re.search(LACKS, report.foreign.sentence(report.label_space))
    own = {
        "classes": [f"c{i}" for i in range(10)] + [{"name": "late", "values": [12, 40]}, {"name": "x", "values": [11]}]
    }
    own["classes"] = [
        {"name": name, "values": i} if isinstance(name, str) else name for i, name in enumerate(own["classes"])
    ]
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    ours = read_label_space(str(tmp_path / "own.yaml"), where="--label-space")
    assert not check_corpus(guess_corpus(str(foreign)).cfg, None, ours, 10**6).bad
    done = maskmill("check", str(foreign), "--label-space", "camvid11")
    assert done.returncode == 2
    assert re.search(LACKS, done.stdout), done.stdout


def test_training_looks_at_labels_first_and_names_all_that_the_space_lacks(foreign, tmp_path):
    cfg = small_train.config(("x", "y"), tmp_path / "out", label_space="camvid11")
    cfg = cfg.model_copy(update={"corpus": guess_corpus(str(foreign)).cfg})
    with pytest.raises(UserError, match=LACKS):
        label_check.look_at_labels([cfg])


def test_training_looks_at_the_labels_of_its_later_stages_too(foreign, tmp_path):
    clean = shutil.copytree(foreign, tmp_path / "clean")
    for label in clean.glob("labels/*/*.png"):
        label.write_bytes(picture(np.zeros((2, 2), np.uint8)))
    whole, first = (guess_corpus(str(folder)).cfg for folder in (foreign, clean))
    stages = [{"epochs": 1}, {"corpus": whole.model_dump(mode="json", exclude_unset=True)}]
    cfg = small_train.config(("x", "y"), tmp_path / "out", label_space="camvid11", stages=stages)
    stages = stage_configs(cfg.model_copy(update={"corpus": first}))
    label_check.look_at_labels(stages[:1])
    with pytest.raises(UserError, match=LACKS):
        label_check.look_at_labels(stages)


def test_the_lists_travel_in_a_wheel(tmp_path):
    from tests.conftest import ROOT

    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"pipeline/labels/spaces/{name}.yaml" for name in labels.SPACES} <= held


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_labels_of_streamed_images_may_be_coloured_too(mode, tmp_path):
    """Read row by row, they are counted as those of the whole image; grey is ids, since the space has some."""
    pytest.importorskip("pyvips")
    ours = from_section(OWN, where="test")
    truth = np.random.default_rng(0).integers(0, 3, (120, 160)).astype(np.uint8)
    pixels = np.array([(0, 0, 0), (255, 0, 0), (255, 128, 0)], np.uint8)[truth]
    stored = {
        "RGB": picture(pixels),
        "P": picture(pixels, mode="P"),
        "L": picture(np.array([7, 3, 9], np.uint8)[truth]),
    }
    path = tmp_path / "corpus"
    for kind, data in (("images", picture(pixels)), ("labels", stored[mode])):
        (path / kind / "val").mkdir(parents=True)
        (path / kind / "val" / "0001TP_1.png").write_bytes(data)
    counts = []
    for above in (None, 10_000):
        cfg = SegmentConfig.model_validate(
            {"corpus": {"images": str(path), "layout": "camvid"}, "output": "unused",
             "checkpoint": save(tmp_path / "model", OWN), "max_reject_rate": 1,
             "predict": {"tile": [64, 64]}, "stream_above_pixels": above, "actors": 1, "cpus_per_actor": 1}
        )  # fmt: skip
        masks, rejects = ShardSegmenter(checkpoint.load(cfg.checkpoint), cfg).answer(list_items(cfg.corpus, None))
        counts.append((masks["confusion"].to_pylist(), rejects["error"].to_pylist()))
    if mode == "P":  # indices of a palette are ids where a space has ids, never colours; strips cannot read them
        assert [errors for _, errors in counts] == [["label_out_of_range"], ["label_not_indexed"]]
        return
    assert counts[0] == counts[1]
    assert np.sum(counts[0][0]) == np.sum(truth != (0 if mode == "RGB" else 2))
    assert ours.has_ids and ours.has_colours


@pytest.mark.slow
@pytest.mark.long
def test_own_classes_are_trained_segmented_and_resumed_and_a_new_colour_is_refused(tmp_path, ray_session):
    """Colour pictures as labels, from training to the report; then the space of the checkpoint is changed."""
    from pipeline.segment.driver import segment
    from pipeline.train.driver import train

    section = {
        "name": "facade",
        "colour_labels": True,
        "classes": [{"name": "wall", "colour": "#0a141e"}, {"name": "crack", "colour": "#ff0000"}],
    }
    rng = np.random.default_rng(0)
    for index in range(6):
        truth = np.zeros((32, 48), np.uint8)
        truth[:, 8 * (index % 4) : 8 * (index % 4) + 12] = 1
        pixels = np.array([(10, 20, 30), (255, 0, 0)], np.uint8)[truth]
        noisy = np.clip(pixels.astype(int) + rng.integers(-9, 9, pixels.shape), 0, 255).astype(np.uint8)
        split = "train" if index < 4 else "val"
        for kind, shown in (("images", noisy), ("labels", pixels)):
            path = tmp_path / "corpus" / kind / split / f"{index:04}TP_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(shown))
    corpus = guess_corpus(str(tmp_path / "corpus")).cfg.model_dump(mode="json")
    cfg = small_train.config(("x", "y"), tmp_path / "train", **small_train.QUICK, corpus=corpus, label_space=section, workers=1,
                             epochs=3, augment={"crop": [32, 32], "scale": [1, 1], "flip": False, "colour": 0})  # fmt: skip
    trained = train(cfg)
    run = SegmentConfig.model_validate({"corpus": corpus, "checkpoint": trained.checkpoint, "output": str(tmp_path / "run"),
                                        "split": "val", "actors": 1, "cpus_per_actor": 1})  # fmt: skip
    assert segment(run).rows == 2
    assert segment(run).answered_now == 0
    view = open_run(run.output)
    assert view.space.classes == ("wall", "crack")
    assert int(view.confusion().sum()) == 2 * 32 * 48
    assert verify(run.output).problems == []
    path = storage.join(trained.checkpoint, "checkpoint.json")
    described = json.loads(storage.read(path))
    described["label_space"]["classes"][1]["colour"] = [250, 0, 0]
    storage.put(path, json.dumps(described).encode())
    with pytest.raises(UserError, match=r"label_space: colour of 'crack' \[255, 0, 0\], now \[250, 0, 0\]"):
        segment(run)
