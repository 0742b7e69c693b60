"""Every kind of bad input has its documented outcome, and no effect on other images: tests/bad_inputs.md."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import labels, models, storage
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.config.models import DeepLabV3PlusConfig
from pipeline.corpus import list_items, unmatched_labels
from pipeline.models import checkpoint
from pipeline.runs import SECONDS, verify
from pipeline.segment.driver import segment
from pipeline.segment.shard import ShardSegmenter
from tests.bad_inputs import (
    CASES,
    LABEL,
    MAX_PIXELS,
    PIXELS,
    good,
    orientation,
    pack,
    pack_table,
    pack_tar,
    picture,
    put,
    table,
)  # fmt: skip

PACKED = {"a.tar": pack_tar, "a.parquet": pack_table}  # two good images


def segmenter_of(uri):
    values = {
        "corpus": {"images": "/unused", "layout": "camvid"}, "checkpoint": uri, "output": "/unused",
        "max_pixels": MAX_PIXELS, "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return ShardSegmenter(checkpoint.load(uri), parse(SegmentConfig, values, where="test"))


@pytest.fixture(scope="module")
def segmenters(tiny_checkpoint, tmp_path_factory):
    """A segmenter of each label space."""
    cfg = DeepLabV3PlusConfig(
        name="deeplabv3plus", backbone="efficientnet_lite0", aspp_channels=16, low_level_channels=8, decoder_channels=16
    )
    uri = str(tmp_path_factory.mktemp("camvid11"))
    checkpoint.save(uri, models.build(cfg, 11), cfg, labels.space("camvid11"), {})
    return {"cityscapes19": segmenter_of(tiny_checkpoint), "camvid11": segmenter_of(uri)}


def camvid(uri):
    return CorpusConfig(images=str(uri), layout="parquet" if str(uri).endswith(".parquet") else "camvid")


def answer(segmenter, uri):
    """(rows by id without measured seconds, rejects by id) of the images below a folder or in a zip."""
    masks, rejects = segmenter.answer(list_items(camvid(uri), None))
    rows = {row["image_id"]: {k: v for k, v in row.items() if k not in SECONDS} for row in masks.to_pylist()}
    return rows, {row["image_id"]: row for row in rejects.to_pylist()}


def row(number, case):
    marks = [pytest.mark.scorecard("input", number)]
    marks += [pytest.mark.scorecard("security", 6)] if "overlapping" in case.name else []
    return pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", [row(number, case) for number, case in CASES.items()])
def test_a_bad_input_has_its_documented_outcome_and_its_neighbours_are_unharmed(segmenters, tmp_path, case):
    segmenter = segmenters[case.space]
    good(tmp_path) if case.space == "cityscapes19" else put(tmp_path, "images/val/s_1.png", picture())
    pack(tmp_path)
    if case.archive in PACKED:
        PACKED[case.archive](tmp_path)
    uri = tmp_path / case.archive if case.archive else tmp_path
    neighbours, none = answer(segmenter, uri)
    assert neighbours and not none
    case.spoil(tmp_path)
    if case.outcome == "refused":
        with pytest.raises(ValueError) as refusal:
            answer(segmenter, uri)
        assert case.says in str(refusal.value)
        return
    rows, rejects = answer(segmenter, uri)
    assert {name: rows[name] for name in neighbours} == neighbours  # bit for bit
    assert rows.keys() | rejects.keys() == neighbours.keys() | set(case.ids)
    assert len(rows) + len(rejects) == len(neighbours) + len(case.ids)
    for name in case.ids:
        assert ("mask" if name in rows else rejects[name]["error"]) == case.outcome
        if name in rows:
            check_mask(case, tmp_path, name, rows[name])
        else:
            assert case.says in rejects[name]["message"]
    if case.outcome == "left out":
        assert unmatched_labels(camvid(uri)) == [case.says]


@pytest.mark.slow
def test_a_run_over_a_zip_that_lies_ends_with_its_other_images(s3, ray_session, tiny_checkpoint, tmp_path):
    """Read by an actor of Ray's: 2^40 bytes for one member, 2^63 for the start of another."""

    def lie(archive):
        for name in ("s_2", "s_4"):
            archive.writestr(f"images/val/{name}.png", picture())
        archive.filelist[2].compress_size, archive.filelist[3].header_offset = 1 << 40, (1 << 63) + 5

    pack(tmp_path, lie)
    values = {
        "corpus": {"images": str(tmp_path / "a.zip"), "layout": "camvid"}, "checkpoint": tiny_checkpoint,
        "output": str(tmp_path / "run"), "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    done = segment(parse(SegmentConfig, values, where="test"))
    assert (done.rows, done.rejects, done.answered_now) == (2, {"corrupt": 2}, 4)
    assert verify(values["output"]).problems == []
    assert segment(parse(SegmentConfig, values, where="test")).answered_now == 0


def check_mask(case, folder, name, row):
    """The mask has the size of the file as it is stored, and its pixels are counted."""
    mask = Image.open(io.BytesIO(row["mask"]["bytes"]))
    (file,) = Path(folder, "images").glob(f"{name}.*") if not case.archive else [folder / "images/val/s_1.png"]
    assert mask.size == Image.open(file).size == (row["width"], row["height"])
    assert sum(row["pixels"]) == row["width"] * row["height"]
    if case.name.startswith("labels-01"):
        assert row["confusion"] is None
    if case.name.startswith("labels-04"):
        assert sum(row["confusion"]) == 0 and row["miou"] is None
    if case.name.startswith("labels-06"):
        assert sum(row["confusion"]) > 0


def test_the_table_in_the_docs_is_that_of_the_cases():
    assert Path(__file__).with_name("bad_inputs.md").read_text().endswith(table())
    groups = [case.name.rsplit(" ")[0].partition("-")[0] for case in CASES.values()]
    assert {group: groups.count(group) for group in groups} == {
        "bytes": 10, "odd": 15, "size": 4, "labels": 9, "names": 7, "archives": 9, "tables": 2,
    }  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    good(tmp_path)
    return tmp_path


def test_a_label_turns_with_its_image(segmenters, corpus):
    """Both lie in the corpus as the camera held them: the counts are those of the upright pair."""
    put(corpus, "images/val/s_2.tif", picture(kind="TIFF", exif=orientation(6)))
    put(corpus, "labels/val/s_2.png", picture(LABEL))
    put(corpus, "images/val/s_4.png", picture(np.rot90(PIXELS, -1)))
    put(corpus, "labels/val/s_4.png", picture(np.rot90(LABEL, -1)))
    rows, _ = answer(segmenters["cityscapes19"], corpus)
    turned, plain = rows["val/s_2"], rows["val/s_4"]
    assert (turned["height"], turned["width"]) == (40, 60) == (plain["width"], plain["height"])
    assert turned["confusion"] == plain["confusion"] and turned["pixels"] == plain["pixels"]
    masks = [np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]))) for row in (turned, plain)]
    assert np.array_equal(masks[0], np.rot90(masks[1], 1))


@pytest.mark.scorecard("fault", 24)
def test_a_file_of_another_size_than_the_plans_is_rejected(segmenters, corpus):
    items = list_items(camvid(corpus), None)
    put(corpus, "images/val/s_1.png", picture(PIXELS[:20]))
    masks, rejects = segmenters["cityscapes19"].answer(items)
    assert (masks["image_id"].to_pylist(), rejects["error"].to_pylist()) == (["val/s_3"], ["source_changed"])
    assert "restore the file" in rejects["message"][0].as_py()


@pytest.mark.scorecard("security", 9)
@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("../../etc/passwd", "leads out of the manifest's folder"),
        ("zip://x.png::s3://b/a.zip", "a chain of stores"),
        ("ftp://host/a.png", "has the scheme 'ftp'; allowed here: file, s3"),
        ("http://169.254.169.254/latest/meta-data", "a host of this machine or its network"),
        ("http://localhost/a.png", "a host of this machine or its network"),
        ("http://[::1]/a.png", "a chain of stores"),
    ],
)
def test_a_manifest_reaches_only_what_it_may(tmp_path, uri, sentence):
    (tmp_path / "m.csv").write_text(f"image\n{uri}\n")
    with pytest.raises(ValueError, match=sentence):
        list_items(CorpusConfig(images=str(tmp_path / "m.csv"), layout="manifest"), None)


@pytest.mark.scorecard("security", 9)
@pytest.mark.parametrize("uri", ["/etc/passwd", "file:///etc/passwd"])
def test_a_remote_manifest_names_no_local_file(s3, uri):
    manifest = storage.join(s3, "manifests/m.csv")
    storage.put(manifest, f"image\n{uri}\n".encode())
    with pytest.raises(ValueError, match=r"is a local path, and the manifest is not|allowed here: s3"):
        list_items(CorpusConfig(images=manifest, layout="manifest"), None)
