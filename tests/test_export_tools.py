"""Exports for annotation tools, read back by the tools' own libraries if installed, and always by other libraries."""

import io
import json
import shutil
import uuid
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import labels
from pipeline.analysis import export, open_run
from pipeline.analysis.export import hugging_face
from pipeline.analysis.export.brush import encode_brush
from pipeline.config import CorpusConfig, read_label_space
from pipeline.corpus import list_items, read
from pipeline.imaging.decode import decode_oriented, stored_orientation, upright
from pipeline.imaging.polygons import area_of, polygons_of
from tests.small_run import SPACE, Drawn, ids, make_run

NOISE = "/".join("".join(row) for row in np.random.default_rng(3).choice(list("0123."), (9, 13)).tolist())
DRAWN = (
    Drawn("val/seq/rings", "0000000/0111110/0122210/0120210/0122210/0111110/0000000", city="x", frame=7),
    Drawn("val/turned", "11112/11222/.a333", orientation=6),
    Drawn("noise", NOISE, confidence=0.25),
    Drawn("rejected", None),
)
MASKS = {one.image_id: ids(one.mask) for one in DRAWN if one.mask}
SEEN = {
    one.image_id: upright(ids(one.mask), one.orientation) for one in DRAWN if one.mask
}  # as programs show the images


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return open_run(make_run(str(tmp_path_factory.mktemp("runs") / "small"), DRAWN))


@pytest.fixture(scope="module")
def exported(view, tmp_path_factory):
    """Format -> the folder that it was written to, once."""
    found = {}

    def folder(form):
        if form not in found:
            found[form] = tmp_path_factory.mktemp(form)
            assert export(view, form, str(found[form])).masks == 3
        return found[form]

    return folder


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert np.asarray(found[name]).tolist() == mask.tolist(), name


def painted(shape, regions):
    """A mask of regions (class, (H, W) bool), none of which covers another."""
    mask = np.full(shape, 255, np.uint8)
    for index, region in regions:
        assert (mask[region != 0] == 255).all()
        mask[region != 0] = index
    return mask


# COCO


@pytest.mark.parametrize("form", ["coco-polygons", "coco-rle"])
def test_coco_s_own_tools_draw_the_masks(exported, form):
    from pycocotools.coco import COCO

    coco = COCO(str(exported(form) / "annotations.json"))
    names = {f"image{number}.png": one.image_id for number, one in enumerate(DRAWN)}  # as they lie in the corpus
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        regions = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert [one["area"] for one in regions] == [int(coco.annToMask(one).sum()) for one in regions]
        drawn = [(one["category_id"] - 1, coco.annToMask(one)) for one in regions]
        found[names[image["file_name"]]] = painted((image["height"], image["width"]), drawn)
    same(found, MASKS)


def test_polygons_come_back_as_labels_of_a_corpus(view, exported):
    corpus = CorpusConfig(
        images=view.description.config["corpus"]["images"],
        labels=str(exported("coco-polygons") / "annotations.json"),
        layout="coco_json",
    )
    found = {
        item.image_id: np.asarray(Image.open(io.BytesIO(read(item.label))))
        for item in list_items(corpus, None)
        if item.label is not None
    }
    names = {f"image{number}": one.image_id for number, one in enumerate(DRAWN)}
    stored = {names[name]: label.astype(np.uint8) - np.uint8(1) for name, label in found.items() if label.any()}
    same(stored, MASKS)  # category k + 1 is class k, and 0 is nothing


def test_polygons_of_any_noise_are_drawn_exactly():
    from pycocotools import mask as coco_mask

    random = np.random.default_rng(0)
    for classes in (2, 2, 3, 5):
        mask = random.integers(0, classes, (37, 23), np.uint8)
        drawn = []
        for index, polygon in polygons_of(mask):
            rle = coco_mask.merge(coco_mask.frPyObjects([polygon.ravel().tolist()], 37, 23))
            assert coco_mask.area(rle) == area_of(polygon)
            drawn.append((index, coco_mask.decode(rle)))
        assert (painted(mask.shape, drawn) == mask).all()


def test_panoptic_pictures_and_their_json_hold_the_masks(exported):
    folder = exported("coco-panoptic")
    whole = json.loads((folder / "panoptic.json").read_text())
    assert whole["categories"][1] == {"id": 2, "name": "building", "isthing": 0, "color": list(SPACE.colours[1])}
    found = {}
    for image, one in zip(whole["images"], whole["annotations"], strict=True):
        assert image["id"] == one["image_id"]
        pixels = np.asarray(Image.open(folder / "panoptic" / one["file_name"])).astype(int)
        segments = pixels @ [1, 256, 65536]
        assert {part["id"]: part["area"] for part in one["segments_info"]} == {
            int(index): int((segments == index).sum()) for index in np.unique(segments[segments > 0])
        }
        regions = [(part["category_id"] - 1, segments == part["id"]) for part in one["segments_info"]]
        found[DRAWN[image["id"] - 1].image_id] = painted(segments.shape, regions)
    same(found, MASKS)


# Label Studio


def rle_pack(data):
    """The values of packed runs, bit by bit as rle-pack defines them."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(width):
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    number, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < number:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(values)


REGION = np.array([[0, 1, 1, 0], [1, 1, 0, 0]], bool)
# label_studio_sdk 2.1.2, converter.brush.mask2rle(255 * REGION)
THEIR_BYTES = [0, 0, 0, 32, 57, 27, 252, 96, 19, 255, 198, 1, 63, 252, 224, 0]


def test_brush_regions_are_what_label_studio_s_converter_reads(exported):
    for data in (encode_brush(REGION), THEIR_BYTES):
        values = rle_pack(data).reshape(2, 4, 4)
        assert (values == 255 * REGION[..., None]).all()
    long = np.zeros((300, 120), bool)  # 144 000 values: more than one run can count
    long[-1, -1] = True
    assert (rle_pack(encode_brush(long)).reshape(300, 120, 4)[..., 3] == 255 * long).all()
    tasks = json.loads((exported("label-studio") / "tasks.json").read_text())
    same(brushed(tasks, rle_pack), SEEN)


def brushed(tasks, decode):
    found = {}
    for task in tasks:
        (prediction,) = task["predictions"]
        regions = []
        for one in prediction["result"]:
            shape = one["original_height"], one["original_width"], 4
            (name,) = one["value"]["brushlabels"]
            regions.append((SPACE.classes.index(name), np.reshape(decode(one["value"]["rle"]), shape)[..., 3]))
        found[task["data"]["image_id"]] = painted(shape[:2], regions)
    return found


def test_label_studio_reads_tasks_and_masks(exported):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    from label_studio_sdk.label_interface import LabelInterface

    folder = exported("label-studio")
    tasks = json.loads((folder / "tasks.json").read_text())
    same(brushed(tasks, brush.decode_rle), SEEN)
    interface = LabelInterface((folder / "config.xml").read_text())
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})
        assert all(interface.validate_prediction(one) for one in task["predictions"])


def test_tasks_name_images_that_are_there(view, exported):
    folder = exported("label-studio")
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        copy = folder / task["data"]["image"].removeprefix("/data/local-files/?d=")
        stored = Path(f"{view.uri}-corpus/image{number}.png")
        if number == 1:  # upright for whoever knows no EXIF orientation
            pixels, orientation = decode_oriented(stored.read_bytes(), 100)
            assert (np.asarray(Image.open(copy)) == pixels).all() and orientation == 6
            assert stored_orientation(copy.read_bytes(), 100) == 1
        else:
            assert copy.read_bytes() == stored.read_bytes()
    assert [task["predictions"][0]["score"] for task in tasks] == pytest.approx([0.9, 0.9, 0.25])


def test_images_of_a_store_are_named_where_they_are(tmp_path):
    uri = f"memory://{uuid.uuid4().hex}"
    run = open_run(make_run(uri, DRAWN[:1]))
    export(run, "label-studio", str(tmp_path))
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"]["image"] == f"{uri}-corpus/image0.png"
    assert not (tmp_path / "images").exists()


# CVAT


def cvat_masks(folder, decode):
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    labels = [label.findtext("name") for label in root.iterfind("meta/task/labels/label")]
    assert labels == list(SPACE.classes) == [one["name"] for one in json.loads((folder / "labels.json").read_text())]
    found = {}
    for image in root.iterfind("image"):
        shape = int(image.get("height")), int(image.get("width"))
        regions = []
        for mask in image.iterfind("mask"):
            left, top, width, height = (int(mask.get(name)) for name in ("left", "top", "width", "height"))
            points = [int(run) for run in mask.get("rle").split(",")]
            points += [left, top, left + width - 1, top + height - 1]  # as CVAT keeps a mask
            regions.append((labels.index(mask.get("label")), decode(points, shape)))
        found[image.get("name").removesuffix(".png")] = painted(shape, regions)
        assert (folder / "images" / image.get("name")).exists()
    return found


def by_rows(points, shape):
    *runs, left, top, right, bottom = points
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    region = np.zeros(shape, bool)
    region[top : bottom + 1, left : right + 1] = inside.reshape(bottom - top + 1, right - left + 1)
    return region


def test_masks_in_cvat_s_xml_are_runs_of_their_boxes(exported, tmp_path):
    same(cvat_masks(exported("cvat"), by_rows), SEEN)
    run = open_run(make_run(str(tmp_path / "run"), [Drawn("a", "0000/0110/1100")]))
    export(run, "cvat", str(tmp_path / "out"))
    building = ElementTree.parse(tmp_path / "out/annotations.xml").getroot().find("image/mask[@label='building']")
    # cvat_sdk 2.80, masks.encode_mask of the same region: [1, 4, 1, 0, 1, 2, 2]
    assert (building.get("rle"), building.get("left"), building.get("top")) == ("1, 4, 1", "0", "1")
    assert (building.get("width"), building.get("height")) == ("3", "2")


def test_cvat_s_coloured_pictures_are_labels_of_the_same_classes(exported):
    """Its "Segmentation mask 1.1" draws the colours of the task's labels, and black where nothing is."""
    read_back = read_label_space(str(exported("cvat") / "classes.yaml"), where="test")
    assert read_back.classes == SPACE.classes
    colours = np.array([*SPACE.colours, *[(0, 0, 0)] * (256 - SPACE.num_classes)], np.uint8)
    same({name: read_back.to_train(colours[mask], name) for name, mask in SEEN.items()}, SEEN)


def test_cvat_s_sdk_decodes_the_masks(exported):
    masks = pytest.importorskip("cvat_sdk.masks")

    def decode(points, shape):
        return masks.decode_mask(points, image_width=shape[1], image_height=shape[0])

    same(cvat_masks(exported("cvat"), decode), SEEN)


@pytest.mark.parametrize("form", ["cvat", "coco-polygons", "coco-rle", "coco-panoptic"])
def test_datumaro_imports_the_masks(exported, tmp_path, form):
    datumaro = pytest.importorskip("datumaro")
    from datumaro.util.mask_tools import rles_to_mask

    folder = tmp_path / "annotations"  # the folder of COCO's files, beside that of its images
    shutil.copytree(exported(form), folder)
    kind, file = {
        "cvat": ("cvat", "annotations.xml"),
        "coco-panoptic": ("coco_panoptic", "panoptic.json"),
    }.get(form, ("coco_instances", "instances.json"))
    if kind != "cvat":
        (tmp_path / "images").mkdir()
        (next(folder.glob("*.json"))).rename(folder / file)
    dataset = datumaro.Dataset.import_from(str(folder / file), kind)
    names = {f"image{number}": one.image_id for number, one in enumerate(DRAWN)}
    labels = dataset.categories()[datumaro.AnnotationType.label]
    masks, found = SEEN if form == "cvat" else MASKS, {}
    for item in dataset:
        image_id = names.get(item.id, item.id)
        height, width = masks[image_id].shape
        regions = []
        for one in item.annotations:
            if one.type == datumaro.AnnotationType.bbox:
                continue
            polygon = one.type == datumaro.AnnotationType.polygon
            region = rles_to_mask([np.ravel(one.points).tolist()], width, height) if polygon else one.image
            regions.append((SPACE.classes.index(labels[one.label].name), region))
        found[image_id] = painted((height, width), regions)
    same(found, masks)


# Hugging Face datasets


def test_parquet_files_hold_images_and_masks_and_describe_themselves(exported):
    folder = exported("huggingface")
    (file,) = folder.glob("data/*.parquet")
    table = pq.read_table(file)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["label"] == {"_type": "Image"}
    assert features["frame"] == {"_type": "Value", "dtype": "int32"}
    rows = table.to_pylist()
    assert [(row["city"], row["frame"]) for row in rows] == [("x", 7), (None, None), (None, None)]
    for row in rows:
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert (image[..., 0] == 20 * SEEN[row["image_id"]].astype(int) % 256).all()  # as the images are drawn
    pictures = {row["image_id"]: np.asarray(Image.open(io.BytesIO(row["label"]["bytes"]))) for row in rows}
    same(pictures, SEEN)
    assert json.loads((folder / "id2label.json").read_text())["2"] == SPACE.classes[2]
    items = list_items(CorpusConfig(images=str(file), layout="parquet"), None)
    assert {item.image_id for item in items} == SEEN.keys()  # a corpus with labels
    assert all(item.label is not None for item in items)


def test_datasets_loads_images_and_masks(exported, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(exported("huggingface")), cache_dir=str(tmp_path))
    assert list(loaded) == ["train"]
    assert isinstance(loaded["train"].features["label"], datasets.Image)
    rows = list(loaded["train"])
    same({row["image_id"]: np.asarray(row["label"]) for row in rows}, SEEN)
    for row in rows:  # turned as its photograph says
        assert (np.asarray(row["image"])[..., 0] == 20 * SEEN[row["image_id"]].astype(int) % 256).all()


def test_large_exports_are_several_files_and_row_groups(view, tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "_FILE_BYTES", 1)
    monkeypatch.setattr(hugging_face, "_GROUP_ROWS", 2)
    assert export(view, "huggingface", str(tmp_path)).masks == 3
    sizes = [pq.read_metadata(file).num_rows for file in sorted(tmp_path.glob("data/*.parquet"))]
    assert sizes == [2, 1]


# FiftyOne


def test_fiftyone_s_folder_pairs_images_and_masks(exported):
    folder = exported("fiftyone")
    images = {path.relative_to(folder / "data").with_suffix("").as_posix() for path in folder.rglob("data/**/*.png")}
    assert images == SEEN.keys()
    masks = {name: np.asarray(Image.open(folder / f"labels/{name}.png")) for name in images}
    same({name: mask - np.uint8(1) for name, mask in masks.items()}, SEEN)  # 0 is no data
    assert json.loads((folder / "mask_targets.json").read_text())["1"] == SPACE.classes[0]


# Any format


def test_chosen_images_alone_are_exported(view, tmp_path):
    chosen = ["noise", "val/seq/rings"]
    assert export(view, "png", str(tmp_path / "png"), chosen).masks == 2
    assert {path.stem for path in (tmp_path / "png").rglob("*.png")} == {"noise", "rings"}
    export(view, "cvat", str(tmp_path / "cvat"), chosen)
    same(cvat_masks(tmp_path / "cvat", by_rows), {name: SEEN[name] for name in chosen})
    with pytest.raises(ValueError, match=r"1 of the 2 chosen images have no mask, such as 'rejected'"):
        export(view, "png", str(tmp_path / "none"), ["noise", "rejected"])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("form", ["label-studio", "cvat", "huggingface", "fiftyone"])
def test_an_image_that_is_gone_is_one_sentence(tmp_path, form):
    run = open_run(make_run(str(tmp_path / "run"), [Drawn("a", "01")]))
    (tmp_path / "run-corpus/image0.png").unlink()
    with pytest.raises(ValueError, match=r"image 'a' cannot be read again from .*image0\.png.*put it back"):
        export(run, form, str(tmp_path / "out"))


@pytest.mark.parametrize("form", ["label-studio", "cvat", "huggingface", "fiftyone"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, form):
    hostile = open_run(make_run(str(tmp_path / "run"), [Drawn("../../evil", "01")]))
    with pytest.raises(ValueError, match="leads out of"):
        export(hostile, form, str(tmp_path / "out"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_the_orientation_is_that_of_a_decoded_image(orientation, form):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (5, 3)).save(file, form, exif=exif)
    assert stored_orientation(file.getvalue(), 100) == decode_oriented(file.getvalue(), 100)[1] == orientation


@pytest.mark.parametrize("name", ["ade20k150", "cityscapes34", "mapillary124"])
def test_classes_of_one_colour_come_back_from_cvat(tmp_path, name):
    run = open_run(make_run(str(tmp_path / "run"), [Drawn("a", "01")], space=labels.space(name)))
    export(run, "cvat", str(tmp_path / "out"))
    found = read_label_space(str(tmp_path / "out/classes.yaml"), where="test")
    assert found.classes == run.space.classes and len(set(found.colours)) == run.space.num_classes
