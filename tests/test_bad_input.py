"""Every kind of bad input, its documented outcome, and its neighbours as if it were not there. The README has the list."""

import io
import struct
import unicodedata
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline import checkpoint, storage
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus import list_items, unmatched_labels
from pipeline.run import SECONDS
from pipeline.shard import ShardSegmenter

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
LABEL = RNG.integers(0, 34, (40, 60), dtype=np.uint8)
MAX_PIXELS = 1_000_000


def picture(pixels=PIXELS, kind="PNG", mode=None, **options):
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format=kind, **options)
    return file.getvalue()


def png_of_size(height, width):
    """A PNG whose header promises so many pixels, and little else."""
    header = struct.pack(">II5B", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


PNG, JPEG = picture(), picture(kind="JPEG", quality=95)
XML = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code></Error>'
FRAMES = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
GIF = io.BytesIO()
FRAMES[0].save(GIF, format="GIF", save_all=True, append_images=FRAMES[1:])

# What is wrong with the image -> its bytes, and the outcome: "mask", or the reject's code.
IMAGES = {
    "empty": (b"", "empty"),
    "garbage": (bytes(range(256)) * 4, "not_an_image"),
    "S3 error XML": (XML, "not_an_image"),
    "HTML": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "not_an_image"),
    "half PNG": (PNG[: len(PNG) // 2], "truncated"),
    "half JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "tail-cut JPEG": (JPEG[:-2], "truncated"),
    "tail-cut PNG": (PNG[:-12], "truncated"),
    "flipped bit in a PNG": (flipped(PNG, len(PNG) // 2), "corrupt"),
    "flipped bit in a JPEG": (flipped(JPEG, len(JPEG) // 2), "mask"),  # JPEG has no checksum; inside a zip: corrupt
    "CMYK": (picture(kind="JPEG", mode="CMYK"), "mask"),
    "16-bit PNG": (picture(PIXELS[..., 0].astype(np.uint16) * 200), "unsupported_mode"),
    "16-bit TIFF": (picture(PIXELS[..., 0].astype(np.uint16) * 200, kind="TIFF"), "unsupported_mode"),
    "RGBA": (picture(mode="RGBA"), "mask"),
    "LA": (picture(mode="LA"), "mask"),
    "palette": (picture(mode="P"), "mask"),
    "bilevel": (picture(mode="1"), "mask"),
    "animated GIF": (GIF.getvalue(), "mask"),  # its first frame
    "EXIF-rotated": (picture(kind="JPEG", exif=exif(6)), "mask"),  # predicted upright, its mask as the file is stored
    "wrong suffix": (JPEG, "mask"),
    "1x1": (picture(PIXELS[:1, :1]), "mask"),
    "extreme aspect": (picture(np.tile(PIXELS[:1], (1, 40, 1))), "mask"),
    "a bomb over Pillow's limit": (png_of_size(20_000, 20_000), "too_large"),
    "a bomb under Pillow's limit": (png_of_size(8_000, 8_000), "too_large"),
    "over our limit": (picture(np.zeros((1001, 1000), np.uint8)), "too_large"),
}

# What is wrong with the label -> its bytes (None: there is none), and the outcome.
LABELS = {
    "missing": (None, "mask"),
    "another size": (picture(LABEL[:20]), "label_size"),
    "id out of range": (picture(np.full_like(LABEL, 77)), "label_out_of_range"),
    "all ignored": (picture(np.zeros_like(LABEL)), "mask"),
    "palette": (picture(LABEL, mode="P"), "mask"),
    "16-bit": (picture(LABEL.astype(np.uint16)), "mask"),
    "16-bit out of range": (picture(LABEL.astype(np.uint16) + 500), "label_out_of_range"),
    "colours for ids": (picture(), "label_not_indexed"),
    "extra channel": (picture(LABEL, mode="LA"), "label_not_indexed"),
}


@pytest.fixture(scope="module")
def segmenter(tiny_checkpoint):
    values = {
        "corpus": {"images": "/unused", "layout": "camvid"}, "checkpoint": tiny_checkpoint, "output": "/unused",
        "max_pixels": MAX_PIXELS, "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return ShardSegmenter(checkpoint.load(tiny_checkpoint), parse(SegmentConfig, values, where="test"))


def camvid(uri):
    return CorpusConfig(images=str(uri), layout="camvid")


def answer(segmenter, uri):
    """(rows by id without measured seconds, rejects by id) of the images below a folder or in a zip."""
    masks, rejects = segmenter.answer(list_items(camvid(uri), None))
    rows = {row["image_id"]: {k: v for k, v in row.items() if k not in SECONDS} for row in masks.to_pylist()}
    return rows, {row["image_id"]: row for row in rejects.to_pylist()}


@pytest.fixture
def corpus(tmp_path):
    """A folder of two good images around the place of a bad one."""
    for name in ("s_1", "s_3"):
        put(tmp_path, f"images/val/{name}.png", PNG)
        put(tmp_path, f"labels/val/{name}.png", picture(LABEL))
    return tmp_path


def put(folder, path, data):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)


def check(segmenter, corpus, outcome, good):
    rows, rejects = answer(segmenter, corpus)
    found = "mask" if "val/s_2" in rows else rejects["val/s_2"]["error"]
    assert found == outcome
    assert len(rows) + len(rejects) == 3
    assert {name: rows[name] for name in good} == good  # neighbours bit for bit
    return rows.get("val/s_2") or rejects["val/s_2"]


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_has_its_documented_outcome_and_its_neighbours_are_unharmed(segmenter, corpus, kind):
    data, outcome = IMAGES[kind]
    good, _ = answer(segmenter, corpus)
    put(corpus, "images/val/s_2.png", data)
    row = check(segmenter, corpus, outcome, good)
    if outcome == "mask":
        stored = Image.open(io.BytesIO(data))
        assert (row["width"], row["height"]) == stored.size
        assert Image.open(io.BytesIO(row["mask"]["bytes"])).size == stored.size
    else:
        assert len(row["message"]) > 20


@pytest.mark.parametrize("kind", LABELS)
def test_a_bad_label_has_its_documented_outcome_and_its_neighbours_are_unharmed(segmenter, corpus, kind):
    data, outcome = LABELS[kind]
    good, _ = answer(segmenter, corpus)
    put(corpus, "images/val/s_2.png", PNG)
    if data is not None:
        put(corpus, "labels/val/s_2.png", data)
    row = check(segmenter, corpus, outcome, good)
    if kind == "missing":
        assert row["confusion"] is None
    if kind == "all ignored":
        assert sum(row["confusion"]) == 0 and row["miou"] is None


def test_a_label_turns_with_its_image(segmenter, corpus):
    """Both lie in the corpus as the camera held them: the counts are those of the upright pair."""
    put(corpus, "images/val/s_2.tif", picture(kind="TIFF", exif=exif(6)))
    put(corpus, "labels/val/s_2.png", picture(LABEL))
    put(corpus, "images/val/s_4.png", picture(np.rot90(PIXELS, -1)))
    put(corpus, "labels/val/s_4.png", picture(np.rot90(LABEL, -1)))
    rows, _ = answer(segmenter, corpus)
    turned, plain = rows["val/s_2"], rows["val/s_4"]
    assert (turned["height"], turned["width"]) == (40, 60) == (plain["width"], plain["height"])
    assert turned["confusion"] == plain["confusion"] and turned["pixels"] == plain["pixels"]
    masks = [np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]))) for row in (turned, plain)]
    assert np.array_equal(masks[0], np.rot90(masks[1], 1))


def test_a_label_without_an_image_is_listed_by_check_and_changes_nothing(segmenter, corpus):
    good, _ = answer(segmenter, corpus)
    put(corpus, "labels/val/s_9.png", picture(LABEL))
    rows, rejects = answer(segmenter, corpus)
    assert rows == good and not rejects
    assert unmatched_labels(camvid(corpus)) == ["labels/val/s_9.png"]


NAMES = {
    "NFC and NFD": [unicodedata.normalize(form, "s_\u00e9") for form in ("NFC", "NFD")],
    "case alone": ["s_a", "s_A"],
    "spaces and %2F": ["s_a b", "s_a%2Fb"],
    "newline": ["s_a\nb"],
    "brackets and quotes": ["s_[bold]", "s_<b>'\""],
}


@pytest.mark.parametrize("kind", NAMES)
def test_odd_names_stay_apart_and_are_answered(segmenter, corpus, kind):
    for name in NAMES[kind]:
        put(corpus, f"images/val/{name}.png", PNG)
    rows, rejects = answer(segmenter, corpus)
    assert rows.keys() >= {f"val/{name}" for name in NAMES[kind]} and not rejects
    assert len(rows) == 2 + len(NAMES[kind])


def test_a_name_of_a_thousand_letters_is_answered(segmenter, tmp_path):
    name = "s_" + "n" * 1000
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"images/val/{name}.png", PNG)
    rows, _ = answer(segmenter, tmp_path / "a.zip")
    assert list(rows) == [f"val/{name}"]


def test_a_name_that_is_not_utf8_is_refused_before_anything_runs(segmenter, corpus):
    put(corpus, "images/val/s_2.png", PNG)
    (corpus / "images/val/s_2.png").rename(corpus / "images/val/s_\udcff.png")
    with pytest.raises(ValueError, match=r"s_\\xff.png' is not UTF-8; rename it"):
        answer(segmenter, corpus)


def overlapping(archive):
    """Two entries of the central directory that point at one member."""
    archive.writestr("images/val/s_1.png", PNG)
    archive.writestr("images/val/s_2.png", PNG)
    archive.filelist[1].header_offset = archive.filelist[0].header_offset


def symlink(archive):
    info = zipfile.ZipInfo("images/val/s_2.png")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


# What is in a zip -> how it is written, and the outcome: a reject's code, or the sentence that refuses the corpus.
ARCHIVES = {
    "a member twice": (
        lambda a: [a.writestr("images/val/s_2.png", PNG) for _ in range(2)],
        ValueError("appears twice"),
    ),
    "a member that leads out": (
        lambda a: a.writestr("images/../../s_2.png", PNG),
        ValueError("leads out of the archive"),
    ),
    "overlapping members": (overlapping, ValueError("overlap; zip the corpus again")),
    "a symlink": (symlink, "not_an_image"),  # its target's path, never its target's bytes
    "a nested zip": (lambda a: a.writestr("images/val/s_2.png", b"PK\3\4" + bytes(100)), "not_an_image"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_bad_archive_has_its_documented_outcome(segmenter, tmp_path, kind):
    write, outcome = ARCHIVES[kind]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        write(archive)
    if isinstance(outcome, ValueError):
        with pytest.raises(ValueError, match=str(outcome)):
            answer(segmenter, tmp_path / "a.zip")
    else:
        rows, rejects = answer(segmenter, tmp_path / "a.zip")
        assert not rows and [row["error"] for row in rejects.values()] == [outcome]


def test_a_truncated_zip_is_refused(segmenter, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("images/val/s_1.png", PNG)
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data[:-30])
    with pytest.raises(ValueError, match="not a readable zip"):
        answer(segmenter, tmp_path / "a.zip")


def test_a_member_that_lies_about_its_size_is_rejected_alone(segmenter, tmp_path):
    """The directory promises fewer bytes than are there; the bytes that come do not match the checksum."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("s_1", "s_2"):
            archive.writestr(f"images/val/{name}.png", PNG)
        archive.filelist[1].compress_size -= 50
    rows, rejects = answer(segmenter, tmp_path / "a.zip")
    assert list(rows) == ["val/s_1"] and rejects["val/s_2"]["error"] == "corrupt"


def test_an_encrypted_member_is_rejected_alone(segmenter, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("s_1", "s_2"):
            archive.writestr(f"images/val/{name}.png", PNG)
        offset = archive.filelist[1].header_offset
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[offset + 6] |= 1  # the flag of encryption, in the member's own header
    (tmp_path / "a.zip").write_bytes(data)
    rows, rejects = answer(segmenter, tmp_path / "a.zip")
    assert list(rows) == ["val/s_1"] and rejects["val/s_2"]["error"] == "encrypted"


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


@pytest.mark.parametrize("uri", ["/etc/passwd", "file:///etc/passwd"])
def test_a_remote_manifest_names_no_local_file(s3, uri):
    manifest = storage.join(s3, "manifests/m.csv")
    storage.put(manifest, f"image\n{uri}\n".encode())
    with pytest.raises(ValueError, match=r"is a local path, and the manifest is not|allowed here: s3"):
        list_items(CorpusConfig(images=manifest, layout="manifest"), None)
