"""Which images are for training and which for validation if the archive does not say, and what is refused."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.config import CorpusConfig, SegmentConfig, TrainConfig, parse
from pipeline.corpus import Item, Place, list_items, scan_items
from pipeline.corpus.detect import settled
from pipeline.corpus.splits import Fractions
from pipeline.errors import UserError
from pipeline.runs import describe
from pipeline.segment.engine import as_recorded
from pipeline.train import run_folder
from pipeline.train.driver import train
from tests.test_layouts import make_run


def picture(shape=(64, 64), ids=None):
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    pixels = rng.integers(0, 255, (*shape, 3), np.uint8) if ids is None else np.full(shape, ids, np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def corpus_of(folder, names, suffix=".png"):
    for name in names:
        storage.put(str(folder / f"{name}{suffix}"), b"x")
    return str(folder)


def splits_of(**values):
    return {item.image_id: item.groups.get("split") for item in list_items(CorpusConfig(**values), None)}


def test_named_wildcards_of_a_glob_are_groups_and_one_of_them_the_split(tmp_path):
    names = [
        "train/images/rain/a_1",
        "train/images/rain/a_2",
        "val/images/sun/b_1",
        "train/masks/rain/a_1",
        "val/masks/sun/b_1",
    ]
    cfg = CorpusConfig(
        images=corpus_of(tmp_path, names),
        image_glob="{split}/images/{weather}/*_{frame}.png",
        label_glob="{split}/masks/{weather}/*_{frame}.png",
    )
    items = list_items(cfg, None)
    assert [(item.image_id, item.groups, item.label is not None) for item in items] == [
        ("train/rain/a/1", {"split": "train", "weather": "rain", "frame": 1}, True),
        ("train/rain/a/2", {"split": "train", "weather": "rain", "frame": 2}, False),
        ("val/sun/b/1", {"split": "val", "weather": "sun", "frame": 1}, True),
    ]
    assert [item.image_id for item in list_items(cfg, "val")] == ["val/sun/b/1"]
    twice = cfg.model_copy(
        update={"image_glob": "{split}/images/{weather}/*_{frame}.png", "label_glob": "{split}/{split}/*.png"}
    )
    assert not any(item.label for item in list_items(twice, None))


@pytest.mark.parametrize(
    "lines",
    [
        ("a/1\nb/3\n", "a/2\n"),  # ids
        ("images/a/1.png\nimages/b/3.png", "\nimages/a/2.png\n\n"),  # paths, empty lines
        ("1\n3", "2"),  # last parts
        ("images/a/1.png masks/1.png\nimages/b/3.png masks/3.png", "images/a/2.png masks/a/2.png"),  # two columns
        ("./images/a/1.png\tmasks/1.png\r\nb/3.png\tmasks/3.png\r\n", "2.png"),  # with tabs, Windows
    ],
)
def test_lists_say_the_split_by_id_by_path_or_by_name(tmp_path, lines):
    images = corpus_of(tmp_path / "corpus/images", ["a/1", "a/2", "b/3", "b/4"])
    for name, text in zip(("train", "val"), lines, strict=True):
        storage.put(str(tmp_path / f"{name}.txt"), text.encode())
    lists = {name: str(tmp_path / f"{name}.txt") for name in ("train", "val")}
    wanted = {"a/1": "train", "a/2": "val", "b/3": "train", "b/4": None}
    assert splits_of(images=images, splits=lists) == wanted
    pairs = splits_of(images=images.rpartition("/")[0], image_glob="images/**/*.png", splits=lists)
    assert pairs == wanted


@pytest.mark.parametrize(
    ("train_list", "val_list", "sentence"),
    [
        (
            "a/1\na/9\nc.png",
            "a/2",
            r"train\.txt: 2 of its images are not in corpus .*, e\.g\. 'a/9'; a line is an image's id",
        ),
        ("a/1", "a/1.png", r"'a/1\.png' is in the lists of both 'train' and 'val'"),
        ("a/1", "1", r"image 'a/1' is in the lists of both 'train' and 'val'"),
        ("x", "a/1", r"train\.txt: 'x' is both image 'a/x' and image 'b/x'; give more of its path"),
        ("a/1", None, r"there is no list .*val\.txt; check the path"),
        ("a/1", "\xff", r"val\.txt: it is not UTF-8 text"),
        ("a/1\na/2\na/x\nb/x", "", r"split 'val' is empty: corpus\.splits puts no image into it"),
    ],
)
def test_a_list_that_does_not_fit_the_corpus_is_told(tmp_path, train_list, val_list, sentence):
    images = corpus_of(tmp_path / "corpus", ["a/1", "a/2", "a/x", "b/x"])
    for name, text in (("train", train_list), ("val", val_list)):
        if text is not None:
            storage.put(str(tmp_path / f"{name}.txt"), text.encode("latin1"))
    lists = {name: str(tmp_path / f"{name}.txt") for name in ("train", "val")}
    with pytest.raises(UserError, match=sentence):
        list_items(CorpusConfig(images=images, splits=lists), "val")


def test_fractions_are_dealt_out_by_a_hash_that_other_images_do_not_move(tmp_path):
    splits = {"fractions": {"train": 0.6, "val": 0.3}}
    names = [f"{n:04d}" for n in range(60)]
    few = splits_of(images=corpus_of(tmp_path, names[:30]), splits=splits)
    many = splits_of(images=corpus_of(tmp_path, names), splits=splits)
    assert {name: many[name] for name in few} == few
    assert splits_of(images=str(tmp_path), splits=splits | {"seed": 1}) != many
    # For ever: `printf '0\n0000' | sha256sum`, its first 16 digits as a fraction, and so on.
    assert [few[name] for name in names[:6]] == ["val", "train", "val", "train", "val", "train"]


def test_fractions_are_shares_of_many_images():
    deal = Fractions(CorpusConfig(images="/none", splits={"fractions": {"train": 0.6, "val": 0.3}}))
    found = [deal(Item(str(number), Place("/a"))).groups.get("split") for number in range(20_000)]
    shares = [found.count(split) / 20_000 for split in ("train", "val", None)]
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.011)  # 3 standard deviations


def test_images_of_a_group_stay_together(tmp_path):
    names = [f"s{sequence:02d}_{frame}" for sequence in range(40) for frame in range(5)]
    images = corpus_of(tmp_path, names)
    splits = {"fractions": {"train": 0.5, "val": 0.5}, "by": "sequence"}
    found = splits_of(images=images, image_glob="{sequence}_{frame}.png", splits=splits)
    by_sequence = {name.partition("/")[0]: set() for name in found}
    for name, split in found.items():
        by_sequence[name.partition("/")[0]].add(split)
    assert all(len(split) == 1 for split in by_sequence.values())
    assert len({next(iter(split)) for split in by_sequence.values()}) == 2
    with pytest.raises(
        UserError,
        match=r"splits\.by is 'scene', and no image has a group of that name; its groups are: frame, sequence",
    ):
        splits_of(images=images, image_glob="{sequence}_{frame}.png", splits=splits | {"by": "scene"})


def test_groups_say_the_split(tmp_path):
    names = [f"images/train/{town}_{number}" for town in ("bonn", "ulm", 7, "jena") for number in range(2)]
    where = {"images": corpus_of(tmp_path, names), "image_glob": "images/train/{town}_*.png"}
    found = splits_of(**where, splits={"by": "town", "groups": {"train": ["ulm", 7], "val": ["bonn"]}})
    assert {name.split("/")[0]: split for name, split in found.items()} == {
        "bonn": "val", "ulm": "train", "7": "train", "jena": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        ({"groups": {"val": ["ulm"]}}, "splits.groups needs `by`"),
        ({"by": "town", "groups": {"val": ["ulm"], "train": ["ulm"]}}, "'ulm' is listed twice"),
        (
            {"by": "town", "groups": {"val": ["ulm"]}, "fractions": {"train": 1}},
            "or by groups, .*: give one of the three",
        ),
        (
            {"by": "town", "groups": {"val": ["rome"]}},
            "names 'rome', and no image has it as its town; .* there: bonn, ulm",
        ),
    ],
)
def test_groups_that_do_not_fit_the_corpus_are_told(tmp_path, splits, sentence):
    where = {"images": corpus_of(tmp_path, ["images/bonn_1", "images/ulm_1"]), "image_glob": "images/{town}_*.png"}
    with pytest.raises((UserError, ValueError), match=sentence):
        splits_of(**where, splits=splits)


def test_splits_go_over_those_that_the_layout_has(tmp_path):
    images = corpus_of(tmp_path, [f"images/train/s_{n}" for n in range(30)])
    cfg = CorpusConfig(images=images, layout="camvid", splits={"fractions": {"a": 0.5, "b": 0.5}})
    assert {item.groups["split"] for item in scan_items(cfg, None)} == {"a", "b"}
    with pytest.raises(UserError, match="there is no split 'train'; choose one of a, b"):
        list_items(cfg, "train")


def test_a_corpus_without_splits_says_how_to_make_them(tmp_path):
    images = corpus_of(tmp_path, ["a", "b"])
    with pytest.raises(
        UserError, match=r"layout 'folder' has none: .*corpus\.splits, e\.g\. \{fractions: \{train: 0\.8"
    ):
        list_items(CorpusConfig(images=images), "train")


def training(tmp_path, **values):
    for number in range(12):
        storage.put(str(tmp_path / f"photos/{number}.png"), picture())
        storage.put(str(tmp_path / f"truth/{number}.png"), picture(ids=number % 3))
    base = {
        "corpus": {"images": str(tmp_path / "photos"), "labels": str(tmp_path / "truth"),
                   "splits": {"fractions": {"train": 0.7, "val": 0.3}}},
        "train_split": "train", "val_split": "val", "label_space": "camvid11",
        "model": {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "aspp_channels": 16, "low_level_channels": 8,
                  "decoder_channels": 16},
        "weights": "random", "output": str(tmp_path / "out"), "epochs": 1, "batch_size": 2,
        "augment": {"crop": [64, 64], "scale": [1, 1], "flip": False, "colour": 0},
        "optimizer": {"name": "sgd", "lr": 0.01, "backbone_lr_factor": 1, "weight_decay": 0, "warmup_steps": 0,
                      "poly_power": 1},
        "validate_every": 1, "precision": "fp32", "seed": 0, "workers": 1, "cpus_per_worker": 1,
    }  # fmt: skip
    return parse(TrainConfig, base | values, where="test")


@pytest.mark.slow
def test_a_folder_without_splits_is_trained_on_and_its_layout_is_kept(tmp_path, ray_session):
    cfg = training(tmp_path)
    train(cfg)
    kept = json.loads(storage.read(str(tmp_path / "out/config.json")))
    assert kept["corpus"]["layout"] == "folder"
    storage.put(str(tmp_path / "photos/images/9.png"), picture())
    assert train(cfg).best_epoch == 1  # finished, and nothing is found out anew


@pytest.mark.slow
def test_pairs_are_trained_on_by_the_splits_of_their_glob(tmp_path, ray_session):
    for split, numbers in (("train", range(6)), ("val", range(6, 8))):
        for number in numbers:
            storage.put(str(tmp_path / f"data/{split}/images/{number}.png"), picture())
            storage.put(str(tmp_path / f"data/{split}/truth/{number}.png"), picture(ids=number % 3))
    globs = {"image_glob": "{split}/images/*.png", "label_glob": "{split}/truth/*.png"}
    cfg = training(tmp_path, corpus={"images": str(tmp_path / "data"), **globs})
    assert train(cfg).best_epoch == 1
    assert json.loads(storage.read(str(tmp_path / "out/config.json")))["corpus"]["layout"] == "pairs"


@pytest.mark.parametrize(
    ("corpus", "values", "sentence"),
    [
        ({}, {"val_split": "train"}, r"\d+ images of val_split 'train' are in train_split 'train' too, e\.g\. '\d+'"),
        ({"splits": None}, {}, "there is no split 'train'; layout 'folder' has none"),
        ({"splits": {"fractions": {"train": 1.0}}}, {}, "there is no split 'val'; choose one of train"),
        (
            {"splits": {"fractions": {"train": 0.999, "val": 0.001}}},
            {},
            "split 'val' is empty: corpus.splits puts no image",
        ),
    ],
)
def test_training_refuses_splits_that_are_empty_or_share_images(tmp_path, corpus, values, sentence):
    cfg = training(tmp_path, **values)
    cfg = parse(
        TrainConfig, cfg.model_dump(mode="json") | {"corpus": cfg.corpus.model_dump(mode="json") | corpus}, where="test"
    )
    with pytest.raises(UserError, match=sentence):
        train(cfg)


def test_one_file_under_two_ids_is_an_overlap(tmp_path):
    cfg = training(tmp_path)
    rows = ["image,label,image_id,split"] + [
        f"photos/{n}.png,truth/{n}.png,{i},{s}" for n, i, s in ((1, "a", "train"), (1, "b", "val"))
    ]
    storage.put(str(tmp_path / "m.csv"), "\n".join(rows).encode())
    values = cfg.model_dump(mode="json") | {"corpus": {"images": str(tmp_path / "m.csv")}}
    with pytest.raises(UserError, match=r"1 images of val_split 'val' .* e\.g\. 'a' and 'b', which are one file"):
        train(parse(TrainConfig, values, where="test"))


def test_stages_keep_the_layouts_of_their_own_corpora(tmp_path):
    cfg = training(tmp_path)
    for n in range(2):
        for split in ("train", "val"):
            storage.put(str(tmp_path / f"CamVid/{split}/s_{n}.png"), picture())
            storage.put(str(tmp_path / f"CamVid/{split}annot/s_{n}.png"), picture(ids=1))
    stage = {"corpus": {"images": str(tmp_path / "CamVid"), "labels": None, "splits": None}}
    values = cfg.model_dump(mode="json") | {"stages": [{}, stage]}
    settled = run_folder.with_layouts(parse(TrainConfig, values, where="test"))
    assert (settled.corpus.layout, settled.stages[1]["corpus"]["layout"]) == ("folder", "camvid")
    assert "corpus" not in settled.stages[0]


def segmentation(tmp_path, images):
    values = {
        "corpus": {"images": images},
        "checkpoint": "/none",
        "output": str(tmp_path / "run"),
        "max_reject_rate": 0,
    }
    return parse(SegmentConfig, values | {"actors": 1, "cpus_per_actor": 1}, where="test")


def test_a_resumed_run_takes_the_layout_that_it_was_made_with(tmp_path):
    images = corpus_of(tmp_path / "photos", ["2019/a_0", "2019/a_1"])
    cfg = as_recorded(segmentation(tmp_path, images))[0]
    assert cfg.corpus.layout == "folder"
    make_run(cfg.output, cfg.corpus, config=cfg.model_dump(mode="json"))
    assert describe(cfg.output).config["corpus"]["layout"] == "folder"
    corpus_of(tmp_path / "photos", ["JPEGImages/b"], ".jpg")
    for name in ("2019/a_0.png", "2019/a_1.png"):
        storage.delete(f"{images}/{name}")
    assert as_recorded(segmentation(tmp_path, images))[0] == cfg
    other = segmentation(tmp_path / "elsewhere", images)
    assert as_recorded(other)[0].corpus.layout == "voc"


def test_a_resumed_run_of_two_zips_in_a_folder_is_the_same_run(tmp_path, scenes):
    (tmp_path / "cityscapes").mkdir()
    for uri, name in zip(scenes, ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"), strict=True):
        (tmp_path / "cityscapes" / name).symlink_to(uri)
    given = CorpusConfig(images=str(tmp_path / "cityscapes"))
    found = settled(given)
    assert (found.layout, found.labels) == ("cityscapes", f"{given.images}/gtFine_trainvaltest.zip")
    storage.put(f"{given.images}/gtFine_more.zip", b"x")  # would be taken before the other
    assert settled(given, found.model_dump()) == found
    # What the config says is never overridden, so that a change is told.
    elsewhere = given.model_copy(update={"labels": "/other"})
    kept = found.model_dump() | {"images": given.images}
    assert settled(elsewhere, kept) == elsewhere.model_copy(update={"layout": "cityscapes"})


def test_names_with_spaces_stand_in_lists_as_they_are(tmp_path):
    images = corpus_of(tmp_path / "corpus", ["my house", "my"])
    storage.put(str(tmp_path / "train.txt"), b"my house.png\n")
    assert splits_of(images=images, splits={"train": str(tmp_path / "train.txt")}) == {"my": None, "my house": "train"}


def test_a_manifest_is_one_by_its_suffix_and_its_own_columns_are_asked_for(tmp_path, capsys):
    from tests.command import maskmill

    rows = ["image,image_id,weather,hour", "a.png,a_0,rain,9", "b.png,a_1,rain,9", "c.png,b_0,sun,10"]
    storage.put(str(tmp_path / "m.csv"), "\n".join(rows).encode())
    cfg = CorpusConfig(images=str(tmp_path / "m.csv"))
    uri = make_run(str(tmp_path / "run"), cfg)
    assert open_run(uri).iou(by=["weather"])["images"].to_dict() == {"rain": 2, "sun": 1}
    done = maskmill("evaluate", uri, "--by", "weather")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:4:2] for line in done.stdout.splitlines() if "rain" in line or "sun" in line]
    # rain: sky 2 of 3 pixels, building 1 of 2; sun: all right
    assert "58.33" in done.stdout and "100.00" in done.stdout
