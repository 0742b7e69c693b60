"""`maskmill init` looks at a corpus and writes configs that run as they are, with the classes that it found."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.cli.next_steps import after_training
from pipeline.config import CorpusConfig, SegmentConfig, TrainConfig, load
from pipeline.corpus import list_items
from pipeline.corpus.pairing import pair
from pipeline.corpus.propose_splits import propose_splits
from pipeline.corpus.samples import load_pair
from pipeline.errors import UserError
from pipeline.synthetic.scenes import write_corpus
from tests.command import maskmill
from tests.own_pictures import _COLOURS, IGNORE, draw, scene


def initialised(folder, *arguments):
    done = maskmill("init", str(folder / "start"), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def configs(folder):
    return load(TrainConfig, str(folder / "start/train.yaml")), load(SegmentConfig, str(folder / "start/segment.yaml"))


def apart(folder):
    return ("--images", str(folder / "images"), "--labels", str(folder / "labels"))


def drawn_pixels(number):
    """Id -> pixels of what `draw` has drawn."""
    return Counter(
        np.concatenate([scene(np.random.default_rng([0, i]), 96, 128)[1].ravel() for i in range(number)]).tolist()
    )


def test_own_classes_are_those_that_the_labels_hold_with_their_pixels(tmp_path):
    draw(tmp_path, 5)
    said = initialised(tmp_path, *apart(tmp_path))
    train, segment = configs(tmp_path)
    space = train.label_space.space
    assert (space.classes, space.values) == (tuple(f"class_{i}" for i in range(5)), ((0,), (1,), (2,), (3,), (4,)))
    assert space.ignored_ids == {IGNORE}
    pixels = drawn_pixels(5)
    text = (tmp_path / "start/classes.yaml").read_text()
    for value, count in pixels.items():
        name = "ignore_values: [255]" if value == IGNORE else f"- {{name: class_{value}, values: {value}}}"
        assert re.search(
            rf"^{re.escape(name)}  # .*\b{count} pixels, {100 * count / (5 * 96 * 128):.2f} %$", text, re.M
        ), text
    assert (train.corpus.layout, train.augment.crop, segment.split) == ("folder", (96, 128), "val")
    assert segment.checkpoint == f"{train.output}/best"
    assert {len(list_items(train.corpus, split)) for split in ("train", "val")} == {4, 1}
    for words in (
        "images: 5, 5 with a label; layout folder",
        "classes: 5, by",
        "4 images of 'train'",
        "maskmill train",
    ):
        assert words in said


def test_every_key_that_is_written_is_documented_above_it_and_the_rest_has_its_default(tmp_path):
    draw(tmp_path, 3)
    initialised(tmp_path, *apart(tmp_path))
    for name in ("train", "segment"):
        text = (tmp_path / f"start/{name}.yaml").read_text()
        for key in yaml.safe_load(text):
            above = text[: text.index(f"\n{key}:")].splitlines()[-1]
            assert above.startswith("# "), f"{name}.yaml: {key}"
        assert f"`maskmill config {name}` lists them" in text


def test_colours_of_colour_labels_become_classes(tmp_path):
    draw(tmp_path, 4, form="colours")
    initialised(tmp_path, *apart(tmp_path))
    train, _ = configs(tmp_path)
    space = train.label_space.space
    drawn = {tuple(colour) for colour in _COLOURS.tolist()} | {(0, 0, 0)}
    assert set(space.colours) == drawn and space.num_classes == len(drawn)
    _, label = load_pair(list_items(train.corpus, None)[0], space, 10**6)
    truth = scene(np.random.default_rng([0, 0]), 96, 128)[1]
    expected = [
        space.colours.index(tuple(_COLOURS[value].tolist()) if value != IGNORE else (0, 0, 0)) for value in range(5)
    ]
    assert np.array_equal(label[truth != IGNORE], np.array(expected)[truth[truth != IGNORE]])


def test_zero_and_255_alone_are_background_and_a_class(tmp_path):
    draw(tmp_path, 3, form="binary")
    initialised(tmp_path, *apart(tmp_path))
    space = configs(tmp_path)[0].label_space.space
    assert (space.values, space.ignored_ids) == (((0,), (255,)), frozenset())


def test_the_classes_of_a_known_layout_are_named_where_they_fit(tmp_path):
    write_corpus(str(tmp_path / "data"), {"train": 4, "val": 2}, 32, 64, seed=0)
    said = initialised(tmp_path, "--images", str(tmp_path / "data"))
    train, _ = configs(tmp_path)
    assert train.label_space.space.name == "cityscapes19"
    assert (train.train_split, train.val_split, train.corpus.splits) == ("train", "val", None)
    assert not (tmp_path / "start/classes.yaml").exists()
    assert "classes: those of cityscapes19, which knows all" in said


def test_values_that_the_known_space_lacks_make_it_a_space_of_its_own(tmp_path):
    write_corpus(str(tmp_path / "data"), {"train": 4, "val": 2}, 32, 64, seed=0, packed=False)
    label = next((tmp_path / "data/gtFine").rglob("*_labelIds.png"))
    Image.fromarray(np.full((32, 64), 77, np.uint8)).save(label)
    initialised(tmp_path, "--images", str(tmp_path / "data"))
    space = configs(tmp_path)[0].label_space.space
    assert space.name == "classes" and (77,) in space.values


def test_without_labels_there_is_a_segmentation_alone(tmp_path):
    draw(tmp_path, 2)
    said = initialised(tmp_path, "--images", str(tmp_path / "images"), "--checkpoint", "s3://bucket/model")
    assert [path.name for path in (tmp_path / "start").iterdir()] == ["segment.yaml"]
    cfg = load(SegmentConfig, str(tmp_path / "start/segment.yaml"))
    assert (cfg.checkpoint, cfg.split, len(list_items(cfg.corpus, None))) == ("s3://bucket/model", None, 2)
    assert "no labels, so there is nothing to train on" in said


def test_images_and_labels_side_by_side_need_one_place_alone(tmp_path):
    draw(tmp_path / "pictures", 3)
    said = initialised(tmp_path, "--images", str(tmp_path / "pictures"))
    assert "images: 3, 3 with a label; layout images_labels" in said
    assert configs(tmp_path)[0].label_space.space.num_classes == 5


@pytest.mark.parametrize("form", ["{}_mask.png", "gt_{}.png", "{}.png"])
def test_labels_are_found_by_what_their_names_have_beside_the_image_s(tmp_path, form):
    draw(tmp_path, 3)
    for path in sorted((tmp_path / "labels").iterdir()):
        path.rename(path.with_name(form.format(path.stem)))
    items = list_items(pair(str(tmp_path / "images"), str(tmp_path / "labels")), None)
    assert [Path(item.label.uri).name for item in items] == [form.format(f"{i:03}") for i in range(3)]


@pytest.mark.parametrize("number", [2, 3, 5, 20, 60])
def test_images_are_dealt_out_so_that_both_splits_have_some(tmp_path, number):
    for index in range(number):
        for name in ("images", "labels"):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / name / f"{index}.png")
    cfg = CorpusConfig(images=str(tmp_path / "images"), labels=str(tmp_path / "labels"), layout="folder")
    dealt, splits = propose_splits(cfg, list_items(cfg, None))
    assert splits.num_train + splits.num_val == number
    assert abs(splits.num_val - 0.2 * number) <= max(0.6, 0.05 * number) and splits.num_val
    assert len(list_items(dealt, "val")) == splits.num_val


def test_a_network_is_not_judged_by_frames_of_a_sequence_that_it_learnt_from(tmp_path):
    for index in range(60):
        for name in ("images", "labels"):
            folder = tmp_path / name / f"clip{index % 12}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / f"{index}.png")
    globs = {"image_glob": "images/{sequence}/*.png", "label_glob": "labels/{sequence}/*.png"}
    cfg = CorpusConfig(images=str(tmp_path), layout="pairs", **globs)
    dealt, _ = propose_splits(cfg, list_items(cfg, None))
    train, val = ({item.groups["sequence"] for item in list_items(dealt, split)} for split in ("train", "val"))
    assert train and val and not train & val


def test_images_of_16_bits_are_taken_with_their_bands_and_range(tmp_path):
    pytest.importorskip("rasterio")
    draw(tmp_path, 3)
    for path in sorted((tmp_path / "images").iterdir()):
        Image.fromarray(np.full((96, 128), 4000, np.uint16)).save(path.with_suffix(".png"))
        path.unlink()
    initialised(tmp_path, *apart(tmp_path), "--bands", "1,1,1", "--range", "0,4095")
    image = configs(tmp_path)[0].image
    assert (image.bands, image.spans) == ((1, 1, 1), ((0, 4095),) * 3)


def test_what_is_there_is_never_overwritten(tmp_path):
    draw(tmp_path, 2)
    (tmp_path / "start").mkdir()
    (tmp_path / "start/segment.yaml").write_text("mine")
    done = maskmill("init", str(tmp_path / "start"), *apart(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "start/segment.yaml already exists and is never overwritten" in done.stderr
    assert [(path.name, path.read_text()) for path in (tmp_path / "start").iterdir()] == [("segment.yaml", "mine")]


def bad_input(folder, case):
    """The arguments of a case, and the sentence that names what is wrong."""
    images, labels, start = (str(folder / name) for name in ("images", "labels", "start"))
    match case:
        case "a folder that is a file":
            return ["init", f"{images}/000.jpg/start", *apart(folder)], f"{images}/000.jpg is a file; give a folder"
        case "a folder in a store":
            return ["init", "s3://bucket/start", *apart(folder)], "configs are read from a disk; give a local folder"
        case "no images":
            return ["init", start, "--images", f"{folder}/nowhere"], "there is no file; check the path"
        case "no pictures":
            (folder / "texts").mkdir()
            (folder / "texts/a.txt").write_text("x")
            return ["init", start, "--images", f"{folder}/texts"], "none of them is a picture"
        case "labels of other images":
            for path in sorted((folder / "labels").iterdir()):
                path.rename(path.with_name(f"other{path.stem[-1]}x.png"))
            return ["init", start, *apart(folder)], "none of them belongs to an image of"
        case "labels that are the images":
            return ["init", start, "--images", images, "--labels", images], "that is where the images lie"
        case "labels among the images":
            images, labels = (str((folder / old).rename(folder / new)) for old, new in
                              (("images", "photos"), ("labels", "segmentation")))  # fmt: skip
            return ["init", start, "--images", str(folder)], f"--images {images} --labels {labels}"
        case "photographs as labels":
            for path in sorted((folder / "labels").iterdir()):
                noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
                Image.fromarray(noise).save(path)
            return ["init", start, *apart(folder)], "its labels contain more than"
        case "labels of one value":
            for path in sorted((folder / "labels").iterdir()):
                Image.fromarray(np.full((96, 128), 3, np.uint8)).save(path)
            return ["init", start, *apart(folder)], "hold one value, 3; a network needs at least two classes"
        case "one labelled image":
            (folder / "labels/001.png").unlink()
            return ["init", start, *apart(folder)], "1 image has a label; training needs at least two"
        case "labels of another size":
            for path in sorted((folder / "labels").iterdir()):
                Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
            return ["init", start, *apart(folder)], "none of 2 images can be used, e.g. 000: the label: it is 9x9"
        case "ids and colours":
            Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(folder / "labels/000.png")
            return ["init", start, *apart(folder)], "some labels are pictures of class ids and some are colour pictures"
        case "too few pixels allowed":
            return ["init", start, *apart(folder), "--max-pixels", "0"], "Invalid value for '--max-pixels'"
        case "bands without a range":
            return ["init", start, *apart(folder), "--bands", "1"], "--bands and --range belong together"
        case "bands that are no numbers":
            return [
                "init",
                start,
                *apart(folder),
                "--bands",
                "red",
                "--range",
                "0,1",
            ], "bands.0: found 'red'; it must be a whole"
        case "a range without width":
            return ["init", start, *apart(folder), "--bands", "1", "--range", "9,1"], "image.range: [9, 1] has no width"
        case "images of 16 bits":
            for path in sorted((folder / "images").iterdir()):
                Image.fromarray(np.full((96, 128), 4000, np.uint16)).save(path.with_suffix(".png"))
                path.unlink()
            return ["init", start, *apart(folder)], "for init these are --bands and --range"
        case "no images option":
            return ["init", start], "Missing option '--images'"
    raise AssertionError(case)


CASES = [
    "a folder that is a file", "a folder in a store", "no images", "no pictures", "labels of other images",
    "labels that are the images", "labels among the images", "photographs as labels", "labels of one value",
    "bands without a range", "bands that are no numbers", "a range without width", "images of 16 bits",
    "one labelled image", "labels of another size", "ids and colours", "too few pixels allowed", "no images option",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, case):
    draw(tmp_path, 2)
    arguments, sentence = bad_input(tmp_path, case)
    done = maskmill(*arguments)
    first, *others = done.stderr.splitlines()
    several = re.search(r": (\d+) mistakes$", first)  # one a line
    assert (done.returncode, len(others)) == (1, int(several[1]) if several else 0), done.stderr
    assert sentence in done.stderr
    assert not (tmp_path / "start").exists()


def test_a_bad_label_is_told_and_the_others_are_used(tmp_path):
    draw(tmp_path, 4)
    (tmp_path / "labels/002.png").write_bytes(b"")
    said = initialised(tmp_path, *apart(tmp_path))
    assert "bad: 1 empty, e.g. 002: the file is empty" in said
    assert configs(tmp_path)[0].label_space.space.num_classes == 5


def test_a_training_says_which_config_comes_next(tmp_path):
    (tmp_path / "train.yaml").write_text("output: x")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- 1")
    assert "maskmill init DIR --images URI --checkpoint /model/best" in after_training(
        str(tmp_path / "train.yaml"), "/model/best"
    )
    (tmp_path / "masks.yaml").write_text("checkpoint: /model/best/")
    assert after_training(str(tmp_path / "train.yaml"), "/model/best") == f"maskmill segment {tmp_path}/masks.yaml"


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("png", r"say which are which: --images-glob '\*\*/\*\.jpg' --labels-glob '\*\*/\*_mask\.png'"),
        ("jpg", "move the labels into a folder of their own"),
    ],
)
def test_labels_in_the_folder_of_their_images_are_not_taken_for_images(tmp_path, suffix, said):
    for number in range(3):
        for name in (f"{number}.jpg", f"{number}_mask.{suffix}"):
            Image.new("L", (8, 8), number).save(tmp_path / name)
    with pytest.raises(UserError, match=rf"'0_mask\.{suffix}' looks like the label of '0\.jpg'; {said}"):
        pair(str(tmp_path), None)
    for number in range(3):
        (tmp_path / f"{number}_mask.{suffix}").unlink()
    assert pair(str(tmp_path), None).layout == "folder"
