import io
import struct
import zipfile
from dataclasses import replace

import pytest

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus import BadBytes, items_of, list_items, plan_shards, read, unmatched_labels
from pipeline.corpus.archive import list_members
from pipeline.corpus.scenes import write_corpus


def make_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


@pytest.fixture(params=["folder", "two zips", "one zip", "zips on S3"])
def cityscapes(request, tmp_path, scenes) -> CorpusConfig:
    """The same corpus, stored in four ways."""
    match request.param:
        case "folder":
            images, labels = write_corpus(str(tmp_path), {"train": 8, "val": 6}, 64, 128, seed=1, packed=False)
        case "two zips":
            images, labels = scenes
        case "one zip":
            members = {}
            for uri in scenes:
                with zipfile.ZipFile(uri) as archive:
                    members |= {f"cityscapes/{name}": archive.read(name) for name in archive.namelist()}
            images = make_zip(tmp_path / "all.zip", members, zipfile.ZIP_DEFLATED)
            labels = None
        case "zips on S3":
            images, labels = write_corpus(
                storage.join(request.getfixturevalue("s3"), "corpus"), {"train": 8, "val": 6}, 64, 128, seed=1
            )
    return CorpusConfig(images=images, labels=labels, layout="cityscapes")


def test_every_way_of_storing_a_corpus_gives_the_same_items_and_bytes(cityscapes, scenes):
    reference = list_items(CorpusConfig(images=scenes[0], labels=scenes[1], layout="cityscapes"), "val")
    items = list_items(cityscapes, "val")
    assert [item.image_id for item in items] == [item.image_id for item in reference]
    assert items[5].image_id == "val/dunmere/dunmere_000001_000010"
    assert (items[5].split, items[5].city, items[5].sequence, items[5].frame) == ("val", "dunmere", "000001", 10)
    for item, other in zip(items, reference, strict=True):
        assert read(item.image) == read(other.image)
        assert read(item.label) == read(other.label)


def test_a_zip_member_costs_one_ranged_read(scenes, monkeypatch):
    items = list_items(CorpusConfig(images=scenes[0], labels=scenes[1], layout="cityscapes"), None)
    reads, real = [], storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda *args: reads.append(args) or real(*args))
    for item in items:
        read(item.image)
    assert len(reads) == len(items)


def test_listing_a_zip_reads_its_directory_and_no_images(scenes, monkeypatch):
    read_bytes, real = [], storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda *args: read_bytes.append(args[2]) or real(*args))
    assert len(list_members(scenes[0])) == 14
    assert len(read_bytes) <= 2
    assert sum(read_bytes) <= 2**18


def test_the_plan_holds_everything_that_reading_needs(scenes):
    items = list_items(CorpusConfig(images=scenes[0], labels=scenes[1], layout="cityscapes"), None)
    plan = plan_shards(items, 4)
    assert plan["shard"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    assert items_of(plan) == items


def test_camvid_names_give_sequence_and_frame(tmp_path):
    members = {"images/train/Seq05VD_f00120.jpg": b"x", "labels/train/Seq05VD_f00120.png": b"y"}
    (item,) = list_items(CorpusConfig(images=make_zip(tmp_path / "a.zip", members), layout="camvid"), "train")
    assert (item.image_id, item.sequence, item.frame) == ("train/Seq05VD_f00120", "Seq05VD", 120)
    assert read(item.label) == b"y"


def test_pairs_are_matched_by_what_the_wildcards_stand_for(tmp_path):
    for path in ("in/a/1.jpg", "in/b/c/2.jpg", "truth/a/1_label.png", "truth/z/9_label.png"):
        storage.put(str(tmp_path / path), path.encode())
    cfg = CorpusConfig(
        images=str(tmp_path), layout="pairs", image_glob="in/**/*.jpg", label_glob="truth/**/*_label.png"
    )
    one, two = list_items(cfg, None)
    assert (one.image_id, two.image_id) == ("a/1", "b/c/2")
    assert read(one.label) == b"truth/a/1_label.png"
    assert two.label is None
    assert unmatched_labels(cfg) == ["truth/z/9_label.png"]


@pytest.mark.parametrize(
    ("change", "split", "sentence"),
    [
        ({"images": "/nowhere"}, None, "/nowhere: there is no file"),
        ({"images": "/nowhere.zip"}, None, r"/nowhere\.zip: there is no such zip"),
        ({"layout": "camvid"}, None, "none of its 14 files matches layout 'camvid'.*found e.g. leftImg8bit"),
        ({}, "test", "split 'test' is not there; choose one of train, val"),
        ({"labels": "images"}, None, "none of its 14 files is the label of an image"),
    ],
)
def test_a_corpus_that_does_not_fit_is_told_so(scenes, tmp_path, change, split, sentence):
    if change.get("labels") == "images":
        copy = tmp_path / "copy.zip"
        copy.write_bytes(storage.read(scenes[0]))
        change = {"labels": str(copy)}
    cfg = CorpusConfig(**{"images": scenes[0], "labels": scenes[1], "layout": "cityscapes", **change})
    with pytest.raises(ValueError, match=sentence):
        list_items(cfg, split)


def test_two_files_of_one_id_are_both_named(tmp_path):
    uri = make_zip(tmp_path / "a.zip", {"images/val/s_1.jpg": b"", "images/val/s_1.png": b""})
    with pytest.raises(ValueError, match=r"'images/val/s_1\.jpg' and 'images/val/s_1\.png' are both image 'val/s_1'"):
        list_items(CorpusConfig(images=uri, layout="camvid"), None)


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/passwd", "a/../../b.jpg"])
def test_members_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of the archive"):
        list_members(make_zip(tmp_path / "a.zip", {name: b""}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_appears_twice_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"1")
        archive.writestr("a.jpg", b"2")
    with pytest.raises(ValueError, match=r"member 'a\.jpg' appears twice"):
        list_members(str(path))


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"not a zip at all" * 10)
    with pytest.raises(ValueError, match="not a readable zip"):
        list_members(str(tmp_path / "a.zip"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_in_a_member_is_found(tmp_path, compression):
    uri = make_zip(tmp_path / "a.zip", {"a.jpg": bytes(range(256)) * 40}, compression)
    ((_, place),) = list_members(uri)
    data = bytearray(storage.read(uri))
    data[place.offset + 30 + len("a.jpg") + place.bytes // 2] ^= 1
    storage.put(uri, bytes(data))
    with pytest.raises(BadBytes) as error:
        read(place)
    assert error.value.reason == "corrupt"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data, at: struct.pack_into("<H", data, at + 6, 1), "encrypted"),
        (lambda data, at: struct.pack_into("<H", data, at + 8, 12), "unsupported_compression"),
        (lambda data, at: struct.pack_into("<H", data, at + 28, 60000), "truncated"),
        (lambda data, at: struct.pack_into("<I", data, at, 0), "corrupt"),
    ],
)
def test_members_that_cannot_be_read_have_a_reason(tmp_path, spoil, reason):
    uri = make_zip(tmp_path / "a.zip", {"a.jpg": b"0123456789"})
    ((_, place),) = list_members(uri)
    data = bytearray(storage.read(uri))
    spoil(data, place.offset)
    storage.put(uri, bytes(data))
    with pytest.raises(BadBytes) as error:
        read(place)
    assert error.value.reason == reason


def test_a_long_extra_field_costs_a_second_read_and_nothing_else(tmp_path):
    info = zipfile.ZipInfo("a.jpg")
    info.extra = struct.pack("<HH", 0xCAFE, 1000) + bytes(1000)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(info, b"content")
    storage.put(str(tmp_path / "a.zip"), file.getvalue())
    ((_, place),) = list_members(str(tmp_path / "a.zip"))
    assert read(place) == b"content"


def test_a_listed_file_that_is_gone_has_a_reason(tmp_path):
    storage.put(str(tmp_path / "images/val/s_1.jpg"), b"x")
    (item,) = list_items(CorpusConfig(images=str(tmp_path), layout="camvid"), None)
    with pytest.raises(BadBytes) as error:
        read(replace(item.image, uri=item.image.uri + ".gone"))
    assert error.value.reason == "not_found"
