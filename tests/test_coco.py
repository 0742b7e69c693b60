"""COCO annotations (panoptic pictures with JSON, polygons, run lengths) give the labels that COCO's own programs give."""

import io
import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import labels as spaces
from pipeline import storage
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus import items_of, list_items, plan_shards, read, scan_items
from pipeline.corpus.detect import find_layout
from pipeline.corpus.readers import coco
from pipeline.corpus.samples import load
from pipeline.errors import Reject, UserError
from pipeline.runs.changes import Changes, Planned, times_written
from pipeline.runs.plan import Plan, write_plan
from tests.test_archives import JPEG, write, zipped

SIZE = (40, 60)  # height, width


def photo():
    file = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (10, 20, 30)).save(file, "JPEG")
    return file.getvalue()


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def id2rgb(ids):
    """cocodataset.org/#format-data, 4. Panoptic Segmentation: ids=R+G*256+B*256^2."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def draw_panoptic(split="val2017", number=3, seed=0):
    """Files, and {image id: the category of each pixel, 0 where there is none}."""
    rng = np.random.default_rng(seed)
    files, truth, annotations = {}, {}, []
    for image in range(1, number + 1):
        name, ids, categories = f"{image:012d}", np.zeros(SIZE, np.int64), np.zeros(SIZE, np.int64)
        segments = []
        for category in rng.choice([1, 3, 44, 90, 92, 184, 200], 5):
            segment = int(rng.integers(1, 1 << 24))
            top, left = rng.integers(0, 30), rng.integers(0, 45)
            ids[top : top + 15, left : left + 20], categories[top : top + 15, left : left + 20] = segment, category
            segments.append(
                {"id": segment, "category_id": int(category), "iscrowd": 0, "area": 300, "bbox": [0, 0, 1, 1]}
            )
        segments = [part for part in segments if (ids == part["id"]).any()]
        annotations.append({"image_id": image, "file_name": f"{name}.png", "segments_info": segments})
        files[f"{split}/{name}.jpg"] = photo()
        files[f"annotations/panoptic_{split}/{name}.png"] = png(id2rgb(ids))
        truth[f"{split}/{name}"] = categories
    described = {
        "info": {"year": 2018}, "licenses": [],
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in range(1, number + 1)],
        "annotations": annotations, "categories": [{"id": 1, "name": "person", "isthing": 1}],
    }  # fmt: skip
    files[f"annotations/panoptic_{split}.json"] = json.dumps(described).encode()
    return files, truth


def labels_of(uri, **values):
    cfg = find_layout(CorpusConfig(images=uri, **values)).cfg
    items = list_items(cfg, None)
    (plan,) = plan_shards(scan_items(cfg, None), 100)
    assert items_of(plan) == items
    return cfg.layout, {item.image_id: load(item, None, 1 << 20).label for item in items}


def test_a_picture_of_segments_becomes_the_category_of_each_pixel(tmp_path):
    files, truth = draw_panoptic()
    for uri in (write(tmp_path / "coco", files), zipped(tmp_path / "a.zip", files, "coco/")):
        layout, found = labels_of(uri)
        assert (layout, sorted(found)) == ("coco", sorted(truth))
        for image_id, label in found.items():
            np.testing.assert_array_equal(label, truth[image_id])
    space = spaces.space("coco133")
    for item in list_items(CorpusConfig(images=uri), None):
        label, categories = load(item, space, 1 << 20).label, truth[item.image_id]
        named = {200: "rug-merged", 184: "tree-merged", 92: "banner", 44: "bottle", 1: "person"}
        for category, name in named.items():
            assert (label[categories == category] == space.classes.index(name)).all()
        assert (label[categories == 0] == 255).all()
    assert any(truth[name].max() >= 184 for name in truth) and all((truth[name] == 0).any() for name in truth)
    assert list_items(CorpusConfig(images=uri, layout="coco"), "val2017")[0].groups == {"split": "val2017"}


def test_a_picture_of_segments_agrees_with_panopticapi(tmp_path):
    utils = pytest.importorskip("panopticapi.utils", reason="panopticapi asks for numpy 1, so it is no extra of ours")
    files, _ = draw_panoptic(seed=1)
    folder = write(tmp_path, files)
    described = json.loads(files["annotations/panoptic_val2017.json"])
    _, found = labels_of(folder)
    for one in described["annotations"]:
        drawn = np.asarray(Image.open(f"{folder}/annotations/panoptic_val2017/{one['file_name']}"))
        np.testing.assert_array_equal(utils.id2rgb(utils.rgb2id(drawn)), drawn)
        wanted = np.zeros(SIZE, np.uint8)
        for part in one["segments_info"]:
            wanted[utils.rgb2id(drawn) == part["id"]] = part["category_id"]
        np.testing.assert_array_equal(found[f"val2017/{one['file_name'][:-4]}"], wanted)


def draw_annotations(categories=(1, 2, 18), number=2, split="val2017"):
    """instances_<split>.json with polygons of one and of several parts, runs as numbers and as text, and a crowd."""
    from pycocotools import mask as runs

    rng = np.random.default_rng(3)
    annotations = []
    for image in range(1, number + 1):
        blob = np.zeros(SIZE, np.uint8)
        blob[5:25, 10:30] = rng.integers(0, 2, (20, 20))
        text = runs.encode(np.asfortranarray(blob))
        crowd = np.zeros(SIZE, np.uint8)
        crowd[2:35, 2:50] = 1
        columns = crowd.ravel(order="F")
        counts = np.diff(np.flatnonzero(np.diff(np.r_[0, columns, 0]) != 0), prepend=0).tolist()
        shapes = [
            ([[3.5, 3.5, 40.2, 5.1, 30.7, 33.3, 4.4, 30.9]], 0),
            ([[20, 2, 58, 2, 58, 20, 20, 20], [5, 30, 12, 30, 12, 38, 5, 38]], 0),
            ({"size": list(SIZE), "counts": [*counts, SIZE[0] * SIZE[1] - sum(counts)]}, 1),
            ({"size": list(SIZE), "counts": text["counts"].decode()}, 0),
            ([[6, 6, 12, 6, 12, 12, 6, 12]], 0),
            ([[6, 6, 12, 6, 12, 12, 6, 12]], 0),  # of one size: the later lies on the earlier
        ]
        for number_, (shape, crowded) in enumerate(shapes):
            category = categories[number_ % len(categories)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "segmentation": shape,
                    "iscrowd": crowded,
                }
            )
    images = [
        {"id": n, "file_name": f"{n:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in range(1, number + 2)
    ]
    described = {"images": images, "annotations": annotations, "categories": [{"id": c} for c in categories]}
    return {f"{split}/{one['file_name']}": photo() for one in images} | {
        f"annotations/instances_{split}.json": json.dumps(described, indent=1).encode()
    }


def by_pycocotools(json_path, image, nothing=0):
    """What pycocotools decodes, laid one on the other: crowds, then from the largest to the smallest."""
    from pycocotools.coco import COCO

    api = COCO(json_path)
    canvas = np.full(SIZE, nothing, np.uint16)
    masks = [(one, api.annToMask(one)) for one in api.loadAnns(api.getAnnIds(imgIds=[image]))]
    for one, mask in sorted(masks, key=lambda pair: (not pair[0]["iscrowd"], -int(pair[1].sum()))):
        canvas[mask == 1] = 255 if one["iscrowd"] else one["category_id"]
    return canvas


@pytest.mark.parametrize(("categories", "nothing"), [((1, 2, 18), 0), ((0, 4, 9), 255)])
def test_polygons_and_runs_are_drawn_as_pycocotools_decodes_them(tmp_path, categories, nothing):
    files = draw_annotations(categories)
    folder = write(tmp_path / "coco", files)
    wanted = {
        f"val2017/{n:012d}": by_pycocotools(f"{folder}/annotations/instances_val2017.json", n, nothing)
        for n in (1, 2, 3)
    }
    for uri in (folder, zipped(tmp_path / "a.zip", files, "coco/")):
        layout, found = labels_of(uri)
        assert (layout, sorted(found)) == ("coco_json", sorted(wanted))
        for image_id, label in found.items():
            np.testing.assert_array_equal(label, wanted[image_id])
    assert set(np.unique(found["val2017/000000000001"])) == {*categories, nothing, 255}
    assert (found["val2017/000000000003"] == nothing).all()  # an image without an annotation


def test_categories_beyond_eight_bits_are_stored_in_sixteen(tmp_path):
    folder = write(tmp_path, draw_annotations((1, 300, 1000)))
    item = list_items(CorpusConfig(images=folder, layout="coco_json"), None)[0]
    stored = np.asarray(Image.open(io.BytesIO(read(item.label))))
    np.testing.assert_array_equal(stored, by_pycocotools(f"{folder}/annotations/instances_val2017.json", 1))
    assert stored.max() == 1000


def test_a_json_of_ones_own_goes_with_a_folder_of_photographs(tmp_path):
    files = draw_annotations()
    photographs = write(
        tmp_path / "photos",
        {f"may/{name.rpartition('/')[2]}": data for name, data in files.items() if name.endswith("jpg")},
    )
    storage.put(str(tmp_path / "export.json"), files["annotations/instances_val2017.json"])
    layout, found = labels_of(photographs, labels=str(tmp_path / "export.json"))
    assert (layout, sorted(found)) == ("coco_json", [f"{n:012d}" for n in (1, 2, 3)])
    np.testing.assert_array_equal(found[f"{1:012d}"], by_pycocotools(str(tmp_path / "export.json"), 1))


def test_a_json_beside_the_pictures_of_each_split_is_read(tmp_path):
    """The form of Roboflow's export, whose names are the same in each split."""
    files = {}
    for split, category in (("train", 1), ("valid", 2)):
        one = {
            "id": 1,
            "image_id": 0,
            "category_id": category,
            "segmentation": [[0, 0, 60, 0, 60, 40, 0, 40]],
            "iscrowd": 0,
        }
        images = [{"id": 0, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}]
        files[f"{split}/_annotations.coco.json"] = json.dumps({"images": images, "annotations": [one]}).encode()
        files[f"{split}/a.jpg"] = photo()
    layout, found = labels_of(write(tmp_path, files))
    assert layout == "coco_json"
    assert {name: label[20, 30] for name, label in found.items()} == {"train/a": 1, "valid/a": 2}


def test_a_json_is_read_once_a_process(tmp_path, monkeypatch):
    uri = zipped(tmp_path / "a.zip", draw_annotations())
    taken = []
    made = coco.CocoFile
    monkeypatch.setattr(coco, "CocoFile", lambda text: taken.append(1) or made(text))
    for item in list_items(CorpusConfig(images=uri, layout="coco_json"), None):
        read(item.label)
    assert len(taken) == 1


def test_a_split_whose_pictures_are_not_there_is_passed_over_and_a_missing_picture_is_told(tmp_path):
    files = draw_annotations() | {
        "annotations/instances_train2017.json": draw_annotations(split="train2017")[
            "annotations/instances_train2017.json"
        ].replace(b"0000000", b"9999999")
    }
    folder = write(tmp_path / "val only", files)
    assert len(list_items(CorpusConfig(images=folder, layout="coco_json"), None)) == 3
    del files["val2017/000000000002.jpg"]
    with pytest.raises(
        UserError, match=r"instances_val2017\.json names 1 pictures that are not there.* '000000000002\.jpg'"
    ):
        list_items(CorpusConfig(images=write(tmp_path / "less", files), layout="coco_json"), None)


def test_what_a_panoptic_archive_lacks_is_told(tmp_path):
    files, _ = draw_panoptic()
    without = {name: data for name, data in files.items() if not name.endswith(".json")}
    with pytest.raises(UserError, match=r"it has panoptic_val2017/ and no panoptic_val2017\.json"):
        list_items(CorpusConfig(images=write(tmp_path / "a", without), layout="coco"), None)
    described = json.loads(files["annotations/panoptic_val2017.json"])
    gone = described["annotations"][0]["segments_info"].pop()
    del described["annotations"][1]
    files["annotations/panoptic_val2017.json"] = json.dumps(described).encode()
    first, second, third = list_items(CorpusConfig(images=write(tmp_path / "b", files), layout="coco"), None)
    with pytest.raises(Reject, match=f"segment {gone['id']} of the picture is not described") as rejected:
        load(first, None, 1 << 20)
    assert (rejected.value.stage, rejected.value.reason) == ("label", "corrupt")
    with pytest.raises(Reject, match=r"the JSON describes no picture 000000000002\.png"):
        load(second, None, 1 << 20)
    load(third, None, 1 << 20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[]", "no { at letter 0"),
        (b'{"images": [', "not a JSON in COCO's form"),
        (b'{"images": [{"id": 1}]}', "file_name"),
        (b'{"images": [] "annotations": []}', "not a JSON in COCO's form"),
        (b"\xff\xfe", "not a JSON in COCO's form"),
    ],
)
def test_a_json_that_is_none_is_told(tmp_path, text, words):
    folder = write(tmp_path, {"val2017/1.jpg": JPEG, "annotations/instances_val2017.json": text})
    with pytest.raises(UserError, match=f"{words}.*export it again"):
        list_items(CorpusConfig(images=folder, layout="coco_json"), None)


def test_an_annotation_that_cannot_be_drawn_rejects_its_image_alone(tmp_path):
    files = draw_annotations()
    described = json.loads(files["annotations/instances_val2017.json"])
    described["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": "0"}
    files["annotations/instances_val2017.json"] = json.dumps(described).encode()
    first, second, _ = list_items(CorpusConfig(images=write(tmp_path, files), layout="coco_json"), None)
    with pytest.raises(Reject, match=r"annotation 1 cannot be drawn .*its size is"):
        load(first, None, 1 << 20)
    load(second, None, 1 << 20)


def test_drawing_says_which_package_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(UserError, match=r"pip install 'maskmill\[coco\]'"):
        list_items(CorpusConfig(images=write(tmp_path, draw_annotations()), layout="coco_json"), None)


def test_no_file_is_called_as_if_it_were_such_a_label(tmp_path):
    """A manifest could else reach a file that it may not name."""
    storage.put(str(tmp_path / "m.csv"), b"image\na.png#coco_panoptic=/etc/secret.json\n")
    with pytest.raises(
        UserError, match="contains '#coco_', which is reserved for generated labels; name the file itself"
    ):
        list_items(CorpusConfig(images=str(tmp_path / "m.csv")), None)
    folder = write(tmp_path / "a", {"b.png#coco_json=/1.png": JPEG})
    with pytest.raises(UserError, match=r"'b\.png#coco_json=/1\.png' contains '#coco_'.*; rename it"):
        list_items(CorpusConfig(images=folder), None)


def test_labels_of_a_store_are_made_as_on_a_disk_and_a_json_that_changed_is_noticed(s3, monkeypatch):
    for files, layout in ((draw_panoptic()[0], "coco"), (draw_annotations(), "coco_json")):
        for name, data in files.items():
            storage.put(f"{s3}/{layout}/{name}", data)
    _, truth = draw_panoptic()
    layout, found = labels_of(f"{s3}/coco")
    assert layout == "coco"
    for image_id, label in found.items():
        np.testing.assert_array_equal(label, truth[image_id])
    panoptic, drawn = (list_items(CorpusConfig(images=f"{s3}/{name}"), None)[0] for name in ("coco", "coco_json"))
    assert load(drawn, None, 1 << 20).label.any()
    changed = draw_annotations((5, 6, 7))["annotations/instances_val2017.json"]
    storage.put(f"{s3}/coco_json/annotations/instances_val2017.json", changed)
    storage.put(f"{s3}/coco/annotations/panoptic_val2017.json", changed)
    monkeypatch.setattr(coco, "_held", {})  # another process
    for item in (panoptic, drawn):
        with pytest.raises(Reject, match="its etag is not the planned one") as rejected:
            load(item, None, 1 << 20)
        assert rejected.value.reason == "source_changed"


@pytest.mark.slow
def test_coco_is_trained_on_segmented_and_counted_pixel_for_pixel(tmp_path, ray_session):
    from pipeline.segment.driver import segment
    from pipeline.train.driver import train
    from tests.test_splits import training

    truth = draw_panoptic("val2017", 3, seed=5)[1]
    uri = zipped(
        tmp_path / "coco.zip", draw_panoptic("train2017", 4)[0] | draw_panoptic("val2017", 3, seed=5)[0], "coco/"
    )
    weighted = {"terms": [{"name": "cross_entropy", "class_weights": "inverse"}]}  # labels are counted before
    splits = {"train_split": "train2017", "val_split": "val2017"}
    train(training(tmp_path, corpus={"images": uri}, label_space="coco133", loss=weighted, **splits))
    values = {
        "corpus": {"images": uri}, "split": "val2017", "checkpoint": str(tmp_path / "out/best"),
        "output": str(tmp_path / "run"),
        "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    assert segment(parse(SegmentConfig, values, where="test")).rows == 3
    rows = pq.read_table(f"{values['output']}/masks", columns=["image_id", "confusion"]).to_pylist()
    space = spaces.space("coco133")
    for row in rows:
        labelled = np.array(row["confusion"]).reshape(133, 133).sum(axis=1)
        for category, name in ((1, "person"), (3, "car"), (44, "bottle"), (184, "tree-merged"), (200, "rug-merged")):
            assert labelled[space.classes.index(name)] == (truth[row["image_id"]] == category).sum()
        assert labelled.sum() == (truth[row["image_id"]] != 0).sum()


def described(tmp_path, size=None, category=1):
    (tmp_path / "p").mkdir(exist_ok=True)
    (tmp_path / "p/a.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    one = {"id": 1, "file_name": "a.png"} | (size or {})
    drawn = {"id": 1, "image_id": 1, "category_id": category, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    (tmp_path / "a.json").write_text(json.dumps({"images": [one], "annotations": [drawn]}))
    return CorpusConfig(images=str(tmp_path / "p"), labels=str(tmp_path / "a.json"), layout="coco_json")


def test_a_coco_image_without_a_size_is_rejected(tmp_path):
    (item,) = list_items(described(tmp_path), None)
    with pytest.raises(Reject, match="the JSON gives the image no height and width"):
        load(item, None, 100)


@pytest.mark.parametrize("category", [-1, 65536])
def test_a_coco_category_that_no_label_picture_can_hold_is_refused(tmp_path, category):
    with pytest.raises(UserError, match=f"category_id {category}; ids of classes are 0..65535"):
        list_items(described(tmp_path, {"height": 8, "width": 8}, category), None)


def test_a_changed_json_of_a_folder_replaces_its_labels(tmp_path):
    cfg = described(tmp_path, {"height": 8, "width": 8})
    for name in (tmp_path / "p/a.png", tmp_path / "a.json"):
        os.utime(name, (1000, 1000))
    plan = Plan(str(tmp_path / "run"), write_plan(str(tmp_path / "run"), plan_shards(scan_items(cfg, None), 8)))

    def changed():
        changes = Changes()
        list(
            Planned(plan, [0], [2000.0], written=times_written(cfg.images, cfg.labels)).to_answer(
                scan_items(cfg, None), changes
            )
        )
        return changes.words()

    assert changed() == ""
    os.utime(tmp_path / "a.json", (3000, 3000))
    assert changed() == "1 replaced (a)"
