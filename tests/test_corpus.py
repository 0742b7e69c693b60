import io
import resource
import struct
import tarfile
import zipfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus import Place, items_of, list_items, plan_shards, read, unmatched_labels
from pipeline.corpus.readers.tar import list_tar
from pipeline.corpus.readers.zip import list_members
from pipeline.errors import Reject, UserError
from pipeline.synthetic.scenes import write_corpus
from tests.bad_inputs import with_rows


def make_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def make_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def members_of(scenes):
    """name -> bytes of both zips."""
    members = {}
    for uri in scenes:
        with zipfile.ZipFile(uri) as archive:
            members |= {name: archive.read(name) for name in archive.namelist()}
    return members


def rows_of(scenes):
    """(item, image bytes, label bytes) of every image."""
    items = list_items(CorpusConfig(images=scenes[0], labels=scenes[1], layout="cityscapes"), None)
    return [(item, read(item.image), read(item.label)) for item in items]


def groups_of(item):
    return dict(item.groups)


def write_manifest(folder, scenes):
    lines = ["image,label,image_id,split,city,sequence,frame"]
    for index, (item, image, label) in enumerate(rows_of(scenes)):
        storage.put(str(folder / f"files/{index}.png"), image)
        storage.put(str(folder / f"files/{index}_label.png"), label)
        groups = ",".join(str(value) for value in groups_of(item).values())
        lines.append(f"files/{index}.png,files/{index}_label.png,{item.image_id},{groups}")
    storage.put(str(folder / "manifest.csv"), "\n".join(lines).encode())
    return str(folder / "manifest.csv")


def write_parquet(folder, scenes):
    rows = [
        {
            "image": {"bytes": image, "path": f"{item.image_id}.png"},
            "label": {"bytes": label, "path": None},
            **groups_of(item),
        }
        for item, image, label in rows_of(scenes)
    ]
    (folder / "parts").mkdir()
    for number, part in enumerate((rows[:9], rows[9:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"parts/part-{number}.parquet", row_group_size=4)
    return str(folder / "parts")


@pytest.fixture(params=["folder", "two zips", "one zip", "zips on S3", "tar", "tars on S3", "manifest", "parquet"])
def cityscapes(request, tmp_path, scenes) -> CorpusConfig:
    """The same corpus, stored in eight ways."""
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
        case "tar":
            images, labels = make_tar(tmp_path / "all.tar", members_of(scenes)), None
        case "tars on S3":  # one shard a city, as WebDataset writes them
            images, labels = storage.join(request.getfixturevalue("s3"), "tars"), None
            for city in sorted({name.split("/")[2] for name in members_of(scenes)}):
                shard = {name: data for name, data in members_of(scenes).items() if name.split("/")[2] == city}
                local = make_tar(tmp_path / f"{city}.tar", shard)
                storage.put(storage.join(images, f"{city}.tar"), storage.read(local))
        case "manifest":
            images, labels = write_manifest(tmp_path, scenes), None
        case "parquet":
            images, labels = write_parquet(tmp_path, scenes), None
    tables = {"manifest": "manifest", "parquet": "parquet"}
    return CorpusConfig(images=images, labels=labels, layout=tables.get(request.param, "cityscapes"))


def test_every_way_of_storing_a_corpus_gives_the_same_items_and_bytes(cityscapes, scenes):
    reference = list_items(CorpusConfig(images=scenes[0], labels=scenes[1], layout="cityscapes"), "val")
    items = list_items(cityscapes, "val")
    assert [item.image_id for item in items] == [item.image_id for item in reference]
    assert items[5].image_id == "val/dunmere/dunmere_000001_000010"
    assert items[5].groups == {"split": "val", "city": "dunmere", "sequence": "000001", "frame": 10}
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
    (plan,) = plan_shards(items, 4)
    assert plan["shard"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    assert items_of(plan) == items


def test_camvid_names_give_sequence_and_frame(tmp_path):
    members = {"images/train/Seq05VD_f00120.jpg": b"x", "labels/train/Seq05VD_f00120.png": b"y"}
    (item,) = list_items(CorpusConfig(images=make_zip(tmp_path / "a.zip", members), layout="camvid"), "train")
    assert item.image_id == "train/Seq05VD_f00120"
    assert item.groups == {"split": "train", "sequence": "Seq05VD", "frame": 120}
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
        ({}, "test", "there is no split 'test'; choose one of train, val"),
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
    (place,) = list_members(uri).values()
    data = bytearray(storage.read(uri))
    data[place.offset + 30 + len("a.jpg") + place.bytes // 2] ^= 1
    storage.put(uri, bytes(data))
    with pytest.raises(Reject) as error:
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
    (place,) = list_members(uri).values()
    data = bytearray(storage.read(uri))
    spoil(data, place.offset)
    storage.put(uri, bytes(data))
    with pytest.raises(Reject) as error:
        read(place)
    assert error.value.reason == reason


def test_a_long_extra_field_costs_a_second_read_and_nothing_else(tmp_path):
    info = zipfile.ZipInfo("a.jpg")
    info.extra = struct.pack("<HH", 0xCAFE, 1000) + bytes(1000)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(info, b"content")
    storage.put(str(tmp_path / "a.zip"), file.getvalue())
    (place,) = list_members(str(tmp_path / "a.zip")).values()
    assert read(place) == b"content"


def test_a_listed_file_that_is_gone_has_a_reason(tmp_path):
    storage.put(str(tmp_path / "images/val/s_1.jpg"), b"x")
    (item,) = list_items(CorpusConfig(images=str(tmp_path), layout="camvid"), None)
    with pytest.raises(Reject) as error:
        read(replace(item.image, uri=item.image.uri + ".gone"))
    assert error.value.reason == "not_found"


def test_a_tar_member_costs_one_ranged_read_and_listing_skips_the_images(tmp_path, monkeypatch):
    members = {f"images/val/s_{i}.jpg": bytes([i]) * 2_000_000 for i in range(5)}
    uri = make_tar(tmp_path / "a.tar", members)
    reads, real = [], storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda *args: reads.append(args[2]) or real(*args))
    items = list_items(CorpusConfig(images=uri, layout="camvid"), None)
    assert sum(reads) < 2_000_000  # of 10
    reads.clear()
    assert [read(item.image) for item in items] == list(members.values())
    assert reads == [2_000_000] * 5


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path):
    """tar stores a file with several names once, and its other names as links; one that leads out of the tar is rejected."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, target in (
            ("./in/one.jpg", tarfile.REGTYPE, ""),
            ("./in/hard.jpg", tarfile.LNKTYPE, "./in/one.jpg"),
            ("./to/soft.jpg", tarfile.SYMTYPE, "../in/hard.jpg"),
            ("./to/out.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("./to/folder.jpg", tarfile.SYMTYPE, "../in"),
            ("./to/self.jpg", tarfile.SYMTYPE, "self.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"one"))
    members = list_tar(str(tmp_path / "a.tar"))
    assert list(members) == ["in/hard.jpg", "in/one.jpg", "to/out.jpg", "to/self.jpg", "to/soft.jpg"]
    assert [read(members[name]) for name in ("in/hard.jpg", "in/one.jpg", "to/soft.jpg")] == [b"one"] * 3
    for name in ("to/out.jpg", "to/self.jpg"):
        with pytest.raises(Reject, match="a place or a size that the archive does not have"):
            read(members[name])


def test_webdataset_shards_pair_by_key(tmp_path):
    for shard in range(2):
        members = {f"{shard}{n}.{suffix}": suffix.encode() for n in range(3) for suffix in ("jpg", "seg.png", "json")}
        make_tar(tmp_path / f"train-{shard:04d}.tar", members)
    cfg = CorpusConfig(images=str(tmp_path), layout="pairs", image_glob="**/*.jpg", label_glob="**/*.seg.png")
    items = list_items(cfg, None)
    assert [item.image_id for item in items][:2] == ["train-0000/00", "train-0000/01"]
    assert all(read(item.image) == b"jpg" and read(item.label) == b"seg.png" for item in items)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: b"not a tar" * 100, "not a readable tar"),
        (lambda data: data[:1500], "not a readable tar after 'a.jpg' .*copy it again"),
        (lambda data: data.replace(b"b.jpg", b"../b\0"), "not a readable tar"),
    ],
)
def test_a_damaged_tar_is_refused(tmp_path, spoil, sentence):
    uri = make_tar(tmp_path / "a.tar", {"a.jpg": b"x" * 600, "b.jpg": b"y" * 600})
    storage.put(uri, spoil(storage.read(uri)))
    with pytest.raises(ValueError, match=sentence):
        list_tar(uri)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.jpg", "a/../../x.jpg"])
def test_tar_members_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of the archive"):
        list_tar(make_tar(tmp_path / "a.tar", {name: b""}))


def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"compressed tar cannot be read in place; store it as a plain \.tar"):
        list_items(CorpusConfig(images=str(tmp_path / "a.tar.gz"), layout="camvid"), None)


def test_a_compressed_tar_beside_its_unpacked_pictures_is_left_out_and_alone_refused(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.tar\.gz: a compressed tar cannot be read in place"):
        list_items(CorpusConfig(images=str(tmp_path), layout="folder"), None)
    (tmp_path / "b.png").write_bytes(b"x")
    assert [item.image_id for item in list_items(CorpusConfig(images=str(tmp_path), layout="folder"), None)] == ["b"]


def test_a_truncated_tar_member_has_a_reason(tmp_path):
    uri = make_tar(tmp_path / "a.tar", {"a.jpg": b"x" * 6000})
    (place,) = list_tar(uri).values()
    storage.put(uri, storage.read(uri)[:3000])
    with pytest.raises(Reject) as error:
        read(place)
    assert error.value.reason == "truncated"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("picture\na.png", "it has no column 'image', found picture"),
        ("image,label\n,b.png", "row 1 names no image"),
        ("image\na.png\na.png", "two rows have the image id"),
        ("image\n", "there is no row in it"),
        ("image,frame\na.png,first", "not a readable CSV"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path, text, sentence):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        list_items(CorpusConfig(images=str(tmp_path / "m.csv"), layout="manifest"), None)


def test_an_empty_cell_and_a_file_that_is_no_parquet_have_a_reason(tmp_path):
    pq.write_table(pa.table({"image": pa.array([b"x", None])}), tmp_path / "a.parquet")
    cfg = CorpusConfig(images=str(tmp_path / "a.parquet"), layout="parquet")
    full, empty = list_items(cfg, None)
    assert (full.image_id, read(full.image)) == ("a/00000000", b"x")
    with pytest.raises(Reject) as error:
        read(empty.image)
    assert error.value.reason == "empty"
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        list_items(cfg, None)


def test_parquet_cells_read_each_row_group_once(tmp_path, scenes, monkeypatch):
    uri = write_parquet(tmp_path, scenes)
    items = list_items(CorpusConfig(images=uri, layout="parquet"), None)
    groups, real = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **k: groups.append(i) or real(self, i, **k))
    for item in items:
        read(item.image)
    assert groups == [0, 1, 2, 0, 1]  # 9 rows and 5 rows in groups of 4


def test_a_shard_ends_at_its_images_or_its_bytes(tmp_path):
    for index, size in enumerate((10, 10, 10, 50, 10, 10, 90)):
        storage.put(str(tmp_path / f"images/val/s_{index}.jpg"), b"x" * size)
    items = list_items(CorpusConfig(images=str(tmp_path), layout="camvid"), None)
    assert [table["shard"].to_pylist() for table in plan_shards(items, 3)] == [[0, 0, 0, 1, 1, 1, 2]]
    assert [table["shard"].to_pylist() for table in plan_shards(items, 3, 60)] == [[0, 0, 0, 1, 1, 2, 3]]


def test_members_beyond_four_gigabytes_are_read_in_place_and_as_zipfile_lists_them(tmp_path):
    """A sparse zip64 of 5 GB, with a comment and something before its start."""
    path = tmp_path / "a.zip"
    path.write_bytes(b"stub")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK and more"
        archive.writestr("a/", b"")
        archive.writestr("a/é.jpg", b"near")
        archive.fp.seek(5 << 30)
        archive.start_dir = 5 << 30
        archive.writestr("a/far.jpg", b"far")
        listed = {info.filename: info.header_offset for info in archive.infolist() if not info.is_dir()}
    members = list_members(str(path))
    assert {name: place.offset for name, place in members.items()} == listed
    assert [read(place) for place in members.values()] == [b"far", b"near"]


def tar_of(*headers):
    """A tar of headers (name, type, size as it is said, bytes as they are), and its end."""
    blocks = []
    for name, kind, said, data in headers:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, said
        blocks.append(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))
    return b"".join(blocks) + bytes(2 * tarfile.BLOCKSIZE)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (("b.jpg", tarfile.REGTYPE, 1 << 40, b"y"), r"after 'b\.jpg' \(its header says 1099511627776 bytes"),
        (("b.jpg", tarfile.REGTYPE, 1 << 70, b"y"), r"after 'b\.jpg' \(its header says 1180591620717411303424 bytes"),
        (("b.jpg", tarfile.REGTYPE, -1024, b"y"), r"after 'b\.jpg' \(its header says -1024 bytes"),
        (("long", tarfile.GNUTYPE_LONGNAME, 1 << 40, b"n"), "a header that says it has 1099511627776 bytes"),
        (("pax", tarfile.XHDTYPE, 1 << 40, b"n"), "a header that says it has 1099511627776 bytes"),
        (("pax", tarfile.XHDTYPE, -1024, b"n"), "a header that says it has -1024 bytes"),
        (("pax", tarfile.XHDTYPE, 22, b"22 GNU.sparse.size=x1\n"), "not a readable tar after 'a.jpg'"),
    ],
)
@pytest.mark.timeout(30)
def test_a_tar_header_that_lies_is_refused_before_memory_is_taken_for_it(tmp_path, monkeypatch, header, sentence):
    most, real = [], storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda *args: most.append(args[2]) or real(*args))
    uri = str(tmp_path / "a.tar")
    storage.put(uri, tar_of(("a.jpg", tarfile.REGTYPE, 600, b"x" * 600), header, ("c.jpg", tarfile.REGTYPE, 1, b"z")))
    with pytest.raises(UserError, match=sentence):
        list_tar(uri)
    assert max(most) <= storage.size(uri)


def test_a_sparse_tar_member_is_rejected_and_its_neighbours_are_read(tmp_path):
    """Its header says how long the file is with its holes: 2^40 bytes, of which the tar holds six."""
    info = tarfile.TarInfo("b.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 6
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 6)  # the one piece that is there
    header[483:495] = (1 << 40).to_bytes(12, "big")
    header[483] = 0x80
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(b" " * 8) + sum(header[156:512]))
    good = (tar_of((name, tarfile.REGTYPE, 1, name[:1].encode()))[:1024] for name in ("a.jpg", "c.jpg"))
    uri = str(tmp_path / "s.tar")
    storage.put(uri, next(good) + bytes(header) + b"sparse" + bytes(506) + next(good) + bytes(1024))
    members = list_tar(uri)
    assert [read(members[name]) for name in ("a.jpg", "c.jpg")] == [b"a", b"c"]
    with pytest.raises(Reject, match="a place or a size that the archive does not have") as error:
        read(members["b.jpg"])
    assert error.value.reason == "corrupt"


@pytest.mark.parametrize("field", ["compress_size", "header_offset"])
@pytest.mark.parametrize("said", [20_000, (1 << 32) + 5, 1 << 40, (1 << 63) + 5, (1 << 64) - 2])
def test_a_zip_entry_that_lies_is_rejected_alone(tmp_path, field, said):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            archive.writestr(name, name.encode() * 1000)
        setattr(archive.filelist[1], field, said)
    members = list_members(str(tmp_path / "a.zip"))
    assert [read(members[name]) for name in ("a.jpg", "c.jpg")] == [b"a.jpg" * 1000, b"c.jpg" * 1000]
    with pytest.raises(Reject, match="a place or a size that the archive does not have") as error:
        read(members["b.jpg"])
    assert error.value.reason == "corrupt"


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_an_archive_that_became_shorter_is_looked_at_before_memory_is_taken_for_a_large_member(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"PK\3\4" + bytes(1000))
    with pytest.raises(Reject, match="reach beyond the archive's 1004; copy it again") as error:
        read(Place(str(tmp_path / f"a.{suffix}"), "a.jpg", 0, 1 << 40, 0))
    assert error.value.reason == "truncated"


ROWS = 70_001


@pytest.mark.parametrize("lie", [7, 1 << 22, 1 << 40, 1 << 61])
@pytest.mark.parametrize("which", [0, 1, 3])  # of the file, of the column, of the row group; 2 is a histogram
def test_a_parquet_footer_that_lies_about_rows_costs_no_memory_and_gives_no_wrong_row(tmp_path, lie, which):
    uri = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([b"%d" % row for row in range(ROWS)])}), uri, write_statistics=False)
    honest = storage.read(uri)
    assert with_rows(honest, ROWS, ROWS) == honest
    storage.put(uri, with_rows(honest, ROWS, lie, which))
    cfg = CorpusConfig(images=uri, layout="parquet")
    if which == 1 and lie > ROWS:  # Arrow takes memory for the pages that are there
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        items = list_items(cfg, None)
        assert len(items) == ROWS and read(items[5].image) == b"5"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # kB
        return
    if which != 1:  # the numbers of the images' column are read with them
        with pytest.raises(UserError, match="not a readable Parquet file"):
            list_items(cfg, None)
    with pytest.raises(Reject, match="cannot be read") as error:
        read(Place(uri, "image", 5))
    assert error.value.reason == "corrupt"


def test_a_manifest_with_a_name_that_no_file_has_is_refused(tmp_path):
    pq.write_table(pa.table({"image": ["a\0.png"]}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="is not a file name"):
        list_items(CorpusConfig(images=str(tmp_path / "m.parquet"), layout="manifest"), None)


def test_damaged_pages_and_names_of_a_table_are_told_as_such(tmp_path):
    """Arrow has a bare OSError for the first and a UnicodeDecodeError for the second."""
    uri = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [b"x"], "city": ["marks"]}), uri, compression="none", use_dictionary=False)
    whole = storage.read(uri)
    for spoilt in (
        whole.replace(b"marks", b"m\xffrks"),
        whole.replace(struct.pack("<I", 5) + b"marks", b"\xff\0\0\0marks"),
    ):
        storage.put(uri, spoilt)
        with pytest.raises(UserError, match="not a readable Parquet file"):
            list_items(CorpusConfig(images=uri, layout="parquet"), None)


TYPES = {
    "image": {"parquet": pa.array([b"x"]), "manifest": pa.array(["a.png"])},
    "text": pa.array(["a.png"]), "binary": pa.array([b"x"]), "int": pa.array([1]), "float": pa.array([1.5]),
    "list": pa.array([[b"x"]]), "null": pa.nulls(1), "date": pa.array([1], pa.date32()),
    "struct without bytes": pa.array([{"data": b"x"}]), "struct of text": pa.array([{"bytes": "x", "path": "a.png"}]),
    "struct": pa.array([{"bytes": b"x", "path": "a.png"}]), "fixed": pa.array([b"x"], pa.binary(1)),
    "dictionary": pa.array(["a.png"]).dictionary_encode(), "large": pa.array(["a.png"], pa.large_string()),
    "large binary": pa.array([b"x"], pa.large_binary()), "view": pa.array(["a.png"], pa.string_view()),
}  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "column", "kind"),
    [
        *(("parquet", "image", kind) for kind in
          ("text", "int", "float", "list", "null", "date", "struct without bytes", "struct of text", "dictionary")),
        *(("parquet", "label", kind) for kind in ("text", "int", "list")),
        *(("manifest", "image", kind) for kind in ("int", "binary", "list", "null", "struct")),
        *(("manifest", "label", kind) for kind in ("int", "binary", "struct")),
        *((layout, name, kind) for layout in ("parquet", "manifest") for name, kind in
          (("image_id", "float"), ("image_id", "binary"), ("city", "date"), ("sequence", "list"), ("frame", "text"))),
    ],
)  # fmt: skip
def test_a_column_of_another_type_is_refused_when_the_schema_is_read(tmp_path, layout, column, kind):
    columns = {"image": TYPES["image"][layout]} | {column: TYPES[kind]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", store_schema=True)
    found = pq.read_schema(tmp_path / "t.parquet").field(column).type
    found = found.value_type if pa.types.is_dictionary(found) else found
    with pytest.raises(UserError) as error:
        list_items(CorpusConfig(images=str(tmp_path / "t.parquet"), layout=layout), None)
    assert f"column '{column}' has type {found}, but must be " in str(error.value)


@pytest.mark.parametrize(
    ("layout", "column", "kind"),
    [
        *(("parquet", "image", kind) for kind in ("binary", "struct", "fixed", "large binary")),
        *(("manifest", "image", kind) for kind in ("text", "dictionary", "large", "view")),
        *((layout, name, kind) for layout in ("parquet", "manifest") for name, kind in
          (("image_id", "int"), ("sequence", "int"), ("frame", "int"), ("city", "dictionary"), ("label", "null"))),
    ],
)  # fmt: skip
def test_every_type_that_holds_the_same_values_is_read(tmp_path, layout, column, kind):
    columns = {"image": TYPES["image"][layout]} | {column: TYPES[kind]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (tmp_path / "a.png").write_bytes(b"x")
    (item,) = list_items(CorpusConfig(images=str(tmp_path / "t.parquet"), layout=layout), None)
    assert read(item.image) == b"x" and item.label is None
    if column in ("image_id", "sequence", "frame"):
        assert {"image_id": item.image_id, **item.groups}[column] == (1 if column == "frame" else "1")


def test_a_frame_of_more_than_32_bits_is_refused(tmp_path):
    pq.write_table(pa.table({"image": [b"x"], "frame": [1 << 40]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="frame 1099511627776 does not fit into 32 bits"):
        list_items(CorpusConfig(images=str(tmp_path / "t.parquet"), layout="parquet"), None)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("image,image\na.png,b.png\n")
    with pytest.raises(UserError, match="it has two columns 'image'; rename one of them"):
        list_items(CorpusConfig(images=str(tmp_path / "m.csv"), layout="manifest"), None)
