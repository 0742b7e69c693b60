import fnmatch
import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.analysis import export, open_run
from pipeline.analysis.export.coco import file_name
from pipeline.analysis.export.rle import encode_rle
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus import list_items, plan_shards
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import space
from pipeline.labels.section import from_section
from pipeline.runs import Run
from pipeline.segment.shard import ShardSegmenter
from tests.bad_inputs import pack, pack_table, picture, put
from tests.small_run import SPACE, Drawn, ids, make_run

DRAWN = (Drawn("val/seq/a", "0112/0012"), Drawn("val/b", "33/33/35"), Drawn("c", None))


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return open_run(make_run(str(tmp_path_factory.mktemp("runs") / "small"), DRAWN))


def test_runs_go_down_the_columns_and_begin_outside():
    # column by column: 0 0 | 1 0 | 1 1
    assert encode_rle(np.array([[0, 1, 1], [0, 0, 1]], bool)) == [2, 1, 1, 2]
    assert encode_rle(np.array([[1, 0], [1, 0]], bool)) == [0, 2, 2]
    assert encode_rle(np.ones((2, 2), bool)) == [0, 4]
    assert encode_rle(np.zeros((2, 3), bool)) == [6]


def decoded(segmentation):
    height, width = segmentation["size"]
    inside = np.arange(len(segmentation["counts"])) % 2 == 1
    return np.repeat(inside, segmentation["counts"]).reshape((height, width), order="F")


def test_coco_annotations_hold_every_pixel_once_and_their_boxes(view, tmp_path):
    done = export(view, "coco-rle", str(tmp_path))
    assert (done.uri, done.masks) == (f"{tmp_path}/annotations.json", 2)
    whole = json.loads(storage.read(done.uri))
    assert [image["file_name"] for image in whole["images"]] == [
        "image0.png",
        "image1.png",
    ]  # as they lie in the corpus
    assert whole["categories"][0] == {"id": 1, "name": "sky"}
    for image, drawn in zip(whole["images"], DRAWN, strict=False):
        found = np.full((image["height"], image["width"]), 255)
        for annotation in whole["annotations"]:
            if annotation["image_id"] == image["id"]:
                region = decoded(annotation["segmentation"])
                assert annotation["area"] == region.sum()
                assert (found[region] == 255).all()
                found[region] = annotation["category_id"] - 1
        assert found.tolist() == ids(drawn.mask).tolist()
    building = next(a for a in whole["annotations"] if a["category_id"] == 2)
    assert building["bbox"] == [1, 0, 2, 2]  # left, top, width, height of the building in the first drawing


def test_coco_s_own_tools_load_the_masks(view, tmp_path):
    from pycocotools.coco import COCO

    uri = export(view, "coco-rle", str(tmp_path)).uri
    truth = COCO(uri)
    results = truth.loadRes(json.loads(storage.read(uri))["annotations"])
    assert sorted(truth.getImgIds()) == [1, 2] and len(truth.getCatIds()) == SPACE.num_classes
    for coco in (truth, results):
        for number, drawn in enumerate(DRAWN[:2], start=1):
            (image,) = coco.loadImgs(number)
            found = np.full((image["height"], image["width"]), 255)
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=number)):
                found[coco.annToMask(annotation) == 1] = annotation["category_id"] - 1
            assert found.tolist() == ids(drawn.mask).tolist()


PNG = picture()


def corpora(folder):
    """Each way of keeping images -> its config and where its files lie when they are unpacked, or None without files."""
    put(folder / "plain", "images/val/s_1.png", PNG)
    put(folder / "plain", "images/val/s_2.JPG", PNG)
    pack(folder, lambda archive: archive.writestr("images/val/s_2.jpeg", PNG))
    for path in ("all.tar", "tars/0.tar", "tars/deep/1.tar"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / path, "w") as archive:
            archive.add(folder / "plain/images/val/s_1.png", "images/val/s_1.png")
    (folder / "m.csv").write_text(f"image\nplain/images/val/s_1.png\n{folder}/plain/images/val/s_2.JPG\n")
    pack_table(folder)
    return {
        "prefix": ({"images": f"{folder}/plain", "layout": "camvid"}, "plain"),
        "prefix with a slash": ({"images": f"{folder}/plain/", "layout": "camvid"}, "plain"),
        "zip": ({"images": f"{folder}/a.zip", "layout": "camvid"}, "a"),
        "tar": ({"images": f"{folder}/all.tar", "layout": "camvid"}, "all"),
        "tars": ({"images": f"{folder}/tars", "layout": "pairs", "image_glob": "**/*.png"}, "tars"),
        "globs": ({"images": f"{folder}/plain", "layout": "pairs", "image_glob": "images/**/*.JPG"}, "plain"),
        "manifest": ({"images": f"{folder}/m.csv", "layout": "manifest"}, "."),
        "parquet": ({"images": f"{folder}/a.parquet", "layout": "parquet"}, None),
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["prefix", "prefix with a slash", "zip", "tar", "tars", "globs", "manifest", "parquet"]
)
def test_coco_s_file_names_lead_to_the_images(tmp_path, kind):
    corpus, below = corpora(tmp_path)[kind]
    cfg = parse(CorpusConfig, corpus, where="test")
    items = list_items(cfg, None)
    names = [file_name(cfg.model_dump(), item.image_id, item.image.uri, item.image.member) for item in items]
    assert names
    for archive in [*tmp_path.glob("*.zip"), *tmp_path.rglob("*.tar")]:
        shutil.unpack_archive(archive, archive.with_suffix(""))
    for name in names if below else []:
        assert (tmp_path / below / name).read_bytes() == PNG
    if below is None:
        assert names == ["val/s_1", "val/s_3"]


def test_coco_s_file_names_of_a_store_and_of_signed_addresses():
    stored = {"images": "s3://box/corpus", "layout": "camvid"}
    assert file_name(stored, "a", "s3://box/corpus/images/val/a.png", None) == "images/val/a.png"
    signed = {"images": "s3://box/m.csv", "layout": "manifest"}
    assert file_name(signed, "a", "https://host/x/a.png", "s3://box/m.csv#image") == "https://host/x/a.png"
    assert file_name(signed, "a", "s3://box/x/a.png", None) == "x/a.png"


def test_png_files_keep_ids_and_carry_the_classes_colours(view, tmp_path):
    assert export(view, "png", str(tmp_path)).masks == 2
    picture = Image.open(tmp_path / "val/seq/a.png")
    assert np.asarray(picture).tolist() == ids("0112/0012").tolist()
    assert picture.convert("RGB").getpixel((3, 0)) == SPACE.colours[2]


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    hostile = open_run(make_run(str(tmp_path / "run"), [Drawn("../../evil", "01")]))
    with pytest.raises(ValueError, match="leads out of"):
        export(hostile, "png", str(tmp_path / "out"))
    assert not (tmp_path / "evil.png").exists()


def test_a_submission_has_the_servers_names_and_label_ids(scenes, tiny_checkpoint, tmp_path):
    from pipeline.models import checkpoint

    values = {"corpus": {"images": scenes[0], "layout": "cityscapes"}, "checkpoint": tiny_checkpoint,
              "output": str(tmp_path / "run"), "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1}  # fmt: skip
    cfg = parse(SegmentConfig, values, where="test")
    items = list_items(cfg.corpus, "val")[:2]
    run = Run.open_or_create(
        cfg.output, {}, cfg.model_dump(mode="json"), space("cityscapes19"), lambda: plan_shards(items, 2)
    )
    masks, rejects = ShardSegmenter(checkpoint.load(tiny_checkpoint), cfg).answer(items)
    run.commit(0, masks, rejects)
    view = open_run(cfg.output)
    first, second = (export(view, "cityscapes", str(tmp_path / name)) for name in ("one", "two"))
    assert storage.read(first.uri) == storage.read(second.uri)
    with zipfile.ZipFile(first.uri) as archive:
        assert len(archive.namelist()) == first.masks == 2
        for item, row in zip(items, masks.to_pylist(), strict=True):
            city, sequence, frame = item.image_id.rsplit("/", 1)[-1].split("_")
            (name,) = fnmatch.filter(archive.namelist(), f"{city}_{sequence}_{frame}*.png")
            stored = np.asarray(Image.open(io.BytesIO(archive.read(name))))
            assert (stored == view.space.to_stored(decode_mask(row["mask"]["bytes"]))).all()
            assert set(np.unique(stored)) <= set(view.space.stored_ids)


def test_what_cannot_be_exported_is_one_sentence(view, tmp_path):
    with pytest.raises(ValueError, match="cannot export as 'gif'; choose one of cityscapes, png, coco-rle"):
        export(view, "gif", str(tmp_path))
    with pytest.raises(ValueError, match="is in camvid11; a Cityscapes submission needs cityscapes19"):
        export(view, "cityscapes", str(tmp_path))


@pytest.mark.parametrize("classes", [2, 4, 5, 16, 17])
def test_png_files_keep_pixels_without_a_class(tmp_path, classes):
    own = from_section({"name": "own", "classes": [f"class {k}" for k in range(classes)]}, "test")
    export(open_run(make_run(str(tmp_path / "run"), [Drawn("a", "0.")], space=own)), "png", str(tmp_path / "out"))
    assert np.asarray(Image.open(tmp_path / "out/a.png")).tolist() == [[0, 255]]
