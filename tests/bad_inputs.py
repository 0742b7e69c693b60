"""Every kind of bad input: how it is made, and its expected outcome. tests/bad_inputs.md is this table as text.

`python -m tests.bad_inputs` prints it.
"""

import io
import struct
import tarfile
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

MAX_PIXELS = 1_000_000  # of the tests' config
_RNG = np.random.default_rng(5)
PIXELS = _RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
LABEL = _RNG.integers(0, 34, (40, 60), dtype=np.uint8)  # labelIds of Cityscapes


@dataclass(frozen=True)
class Case:
    """One bad input beside two good images, s_1 and s_3."""

    name: str  # group-number and what is wrong
    outcome: str  # `mask`; a reject's code; `refused`: a sentence before anything runs; `left out`: `check` lists it
    says: str  # for masks what the row holds, for rejects and refusals a part of the sentence
    spoil: Callable[[Path], None]  # puts the bad input into the folder, or writes the folder's archive anew
    archive: str | None = None  # the corpus is this file of the folder: a.zip, a.tar or a.parquet
    ids: tuple[str, ...] = ("val/s_2",)  # what is answered beside the good images
    space: str = "cityscapes19"


def picture(pixels: np.ndarray = PIXELS, kind: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    """The file of an array."""
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format=kind, **options)
    return file.getvalue()


def orientation(value: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = value
    return tags


def put(folder: Path, path: str, data: bytes) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)


def good(folder: Path) -> None:
    """Two images with labels."""
    for name in ("s_1", "s_3"):
        put(folder, f"images/val/{name}.png", PNG)
        put(folder, f"labels/val/{name}.png", picture(LABEL))


def pack(folder: Path, write: Callable[[zipfile.ZipFile], object] = lambda archive: None) -> None:
    """a.zip with two good images, and what `write` adds."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is written twice
        for name in ("s_1", "s_3"):
            archive.writestr(f"images/val/{name}.png", PNG)
        write(archive)


PNG, JPEG = picture(), picture(kind="JPEG", quality=95)


def deep_png(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel: (H, W, C) uint16 as LA, RGB or RGBA, which Pillow does not write."""
    height, width, channels = levels.shape
    header = struct.pack(">II5B", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return _png_of_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def _png_of_size(height: int, width: int) -> bytes:
    """A PNG whose header promises so many pixels, and little else."""
    header = struct.pack(">II5B", width, height, 1, 0, 0, 0, 0)
    return _png_of_chunks((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))


def _png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def _animation() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format="GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)])
    return file.getvalue()


def _image(name: str, data: bytes, outcome: str, says: str, suffix: str = "png") -> Case:
    return Case(name, outcome, says, lambda folder: put(folder, f"images/val/s_2.{suffix}", data))


def _label(name: str, data: bytes | None, outcome: str, says: str, space: str = "cityscapes19") -> Case:
    def spoil(folder: Path) -> None:
        put(folder, "images/val/s_2.png", PNG)
        if data is not None:
            put(folder, "labels/val/s_2.png", data)

    return Case(name, outcome, says, spoil, space=space)


def _names(name: str, outcome: str, says: str, *stems: str) -> Case:
    def spoil(folder: Path) -> None:
        for stem in stems:
            put(folder, f"images/val/{stem}.png", PNG)

    return Case(name, outcome, says, spoil, ids=tuple(f"val/{stem}" for stem in stems))


def _zip(name: str, outcome: str, says: str, write: Callable[[zipfile.ZipFile], object], **values: object) -> Case:
    return Case(name, outcome, says, partial(pack, write=write), archive="a.zip", **values)  # type: ignore[arg-type]


def _add(path: str, data: bytes = PNG) -> Callable[[zipfile.ZipFile], object]:
    return lambda archive: archive.writestr(path, data)


def _twice(archive: zipfile.ZipFile) -> None:
    for _ in range(2):
        archive.writestr("images/val/s_2.png", PNG)


def _overlapping(archive: zipfile.ZipFile) -> None:
    """Two entries of the central directory that point at one member."""
    archive.writestr("images/val/s_2.png", PNG)
    archive.filelist[2].header_offset = archive.filelist[0].header_offset


def _lying(archive: zipfile.ZipFile) -> None:
    archive.writestr("images/val/s_2.png", PNG)
    archive.filelist[2].compress_size -= 50


def _far_too_long(archive: zipfile.ZipFile) -> None:
    """The directory says in zip64 that the last member has 2^40 bytes."""
    archive.writestr("images/val/s_2.png", PNG)
    archive.filelist[2].compress_size = archive.filelist[2].file_size = 1 << 40


def _far_away(archive: zipfile.ZipFile) -> None:
    """The directory says in zip64 that the last member starts behind any offset that a signed number holds."""
    archive.writestr("images/val/s_2.png", PNG)
    archive.filelist[2].header_offset = (1 << 63) + 5


def pack_tar(folder: Path, bad_bytes: int | None = None) -> None:
    """a.tar with two good images, and between them, if asked for, one whose header says that it has so many bytes."""
    file = io.BytesIO()
    for name in ("s_1", "s_2", "s_3") if bad_bytes else ("s_1", "s_3"):
        info = tarfile.TarInfo(f"images/val/{name}.png")
        info.size = bad_bytes if bad_bytes and name == "s_2" else len(PNG)
        file.write(info.tobuf(tarfile.GNU_FORMAT) + PNG + bytes(-len(PNG) % tarfile.BLOCKSIZE))
    (folder / "a.tar").write_bytes(file.getvalue() + bytes(2 * tarfile.BLOCKSIZE))


def pack_table(folder: Path, **columns: pa.Array) -> None:
    """a.parquet with two good images, and other columns in the place of its own or beside them."""
    own = {"image_id": pa.array(["val/s_1", "val/s_3"]), "image": pa.array([PNG, PNG])}
    pq.write_table(pa.table(own | columns), folder / "a.parquet")


def with_rows(data: bytes, rows: int, said: int, which: int | None = None) -> bytes:
    """A Parquet file of so many rows (more than 64: their number must be found) whose footer says that it has others: in all
    places, or in one of them."""
    length = struct.unpack("<I", data[-8:-4])[0]
    parts = data[-8 - length : -8].split(_varint(rows))
    joints = [_varint(said if which in (None, index) else rows) for index in range(len(parts) - 1)]
    footer = parts[0] + b"".join(joint + part for joint, part in zip(joints, parts[1:], strict=True))
    return data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _varint(number: int) -> bytes:
    """A 64-bit number in thrift's compact protocol: zigzag, seven bits a byte."""
    left, found = 2 * number, bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*found, left])


def _too_many_rows(folder: Path) -> None:
    rows = 70_001  # three bytes that stand nowhere else in the footer
    pq.write_table(pa.table({"image": pa.array([b"x"] * rows)}), folder / "a.parquet")
    (folder / "a.parquet").write_bytes(with_rows((folder / "a.parquet").read_bytes(), rows, 1 << 40))


def _symlink(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("images/val/s_2.png")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


def _encrypted(folder: Path) -> None:
    pack(folder, _add("images/val/s_2.png"))
    with zipfile.ZipFile(folder / "a.zip") as archive:
        offset = archive.filelist[2].header_offset
    data = bytearray((folder / "a.zip").read_bytes())
    data[offset + 6] |= 1  # the flag of encryption, in the member's own header
    (folder / "a.zip").write_bytes(data)


def _cut(folder: Path) -> None:
    data = (folder / "a.zip").read_bytes()
    (folder / "a.zip").write_bytes(data[:-30])


def _not_utf8(folder: Path) -> None:
    put(folder, "images/val/s_\udcff.png", PNG)


def _nested() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("s_2.png", PNG)
    return file.getvalue()


_DEEP = _RNG.integers(0, 4096, (40, 60, 4), dtype=np.uint16)  # 12 bits in 16, as many cameras write them
_LEVELS_16 = PIXELS[..., 0].astype(np.uint16) * 200
_XML = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code></Error>'
_HTML = b"<!DOCTYPE html><html><body>Sign in</body></html>"
_SAME_SIZE = "a mask of the image's own size"

_FIRST = (
    _image("bytes-01 empty", b"", "empty", "the file is empty"),
    _image("bytes-02 garbage", bytes(range(256)) * 4, "not_an_image", "no PNG, JPEG"),
    _image("bytes-03 S3 error XML saved as .jpg", _XML, "not_an_image", "it starts with '<?xml", suffix="jpg"),
    _image("bytes-04 HTML saved as .jpg", _HTML, "not_an_image", "it starts with '<!DOCTYPE", suffix="jpg"),
    _image("bytes-05 half a PNG", PNG[: len(PNG) // 2], "truncated", "copy it again"),
    _image("bytes-06 half a JPEG", JPEG[: len(JPEG) // 2], "truncated", "copy it again", suffix="jpg"),
    _image("bytes-07 tail-cut JPEG", JPEG[:-2], "truncated", "the JPEG has no end mark", suffix="jpg"),
    _image("bytes-08 tail-cut PNG", PNG[:-12], "truncated", "the PNG has no end mark"),
    _image("bytes-09 flipped bit in a PNG", _flipped(PNG), "corrupt", "cannot be decoded"),
    _image("bytes-10 flipped bit in a JPEG", _flipped(JPEG), "mask", "JPEG has no checksum; in a zip: `corrupt`", suffix="jpg"),
    _image("odd-01 CMYK", picture(kind="JPEG", mode="CMYK"), "mask", "converted to RGB", suffix="jpg"),
    _image("odd-02 16-bit PNG", picture(_LEVELS_16), "unsupported_mode", "more than 8 bits a channel"),
    _image("odd-03 16-bit TIFF", picture(_LEVELS_16, kind="TIFF"), "unsupported_mode", "convert it to 8 bits", suffix="tif"),
    _image("odd-04 RGBA", picture(mode="RGBA"), "mask", "alpha is dropped"),
    _image("odd-05 LA", picture(mode="LA"), "mask", "grey becomes RGB, alpha is dropped"),
    _image("odd-06 palette", picture(mode="P"), "mask", "the palette's colours"),
    _image("odd-07 bilevel", picture(mode="1"), "mask", "black and white"),
    _image("odd-08 animated GIF", _animation(), "mask", "its first frame"),
    _image("odd-09 EXIF-rotated", picture(kind="JPEG", exif=orientation(6)), "mask",
           "predicted upright, its mask as the file is stored", suffix="jpg"),
    _image("odd-10 wrong suffix", JPEG, "mask", "the bytes tell the format"),
    _image("odd-11 1x1", picture(PIXELS[:1, :1]), "mask", _SAME_SIZE),
    _image("odd-12 extreme aspect", picture(np.tile(PIXELS[:1], (1, 40, 1))), "mask", _SAME_SIZE),
    _image("size-01 bomb over Pillow's limit", _png_of_size(20_000, 20_000), "too_large", "more than max_pixels"),
    _image("size-02 bomb under Pillow's limit", _png_of_size(8_000, 8_000), "too_large", "more than max_pixels"),
    _image("size-03 over our limit", picture(np.zeros((1001, 1000), np.uint8)), "too_large", "raise max_pixels"),
    _zip("size-04 zip entry that lies about its size", "corrupt", "do not match its checksum", _lying),
    _label("labels-01 missing", None, "mask", "no counts"),
    _label("labels-02 another size", picture(LABEL[:20]), "label_size", "it is 20x60, the image 40x60"),
    _label("labels-03 id out of range", picture(np.full_like(LABEL, 77)), "label_out_of_range", "label id 77 is outside"),
    _label("labels-04 all ignore", picture(np.zeros_like(LABEL)), "mask", "counts of zero"),
    _label("labels-05 RGB colours for ids", picture(), "label_not_indexed", "store class ids, not colours"),
    _label("labels-06 16-bit", picture(LABEL.astype(np.uint16)), "mask", "its ids"),
    _label("labels-07 labelIds where train ids are meant", picture(LABEL), "label_out_of_range",
           "is outside camvid11, whose stored ids are 0..11, 255", space="camvid11"),
    _label("labels-08 extra channel", picture(LABEL, mode="LA"), "label_not_indexed", "mode LA"),
    Case("labels-09 label without an image", "left out", "labels/val/s_9.png",
         lambda folder: put(folder, "labels/val/s_9.png", picture(LABEL)), ids=()),
    _names("names-01 NFC and NFD of one name", "mask", "two images",
           *(unicodedata.normalize(form, "s_\u00e9") for form in ("NFC", "NFD"))),
    _zip("names-02 zip member twice", "refused", "appears twice", _twice, ids=()),
    _names("names-03 case alone differs", "mask", "two images", "s_a", "s_A"),
    _names("names-04 spaces and %2F", "mask", "the name as it is", "s_a b", "s_a%2Fb"),
    _names("names-05 newline", "mask", "the name as it is", "s_a\nb"),
    _zip("names-06 key of 1 kB", "mask", "the name as it is", _add(f"images/val/s_{'n' * 1000}.png"),
         ids=(f"val/s_{'n' * 1000}",)),
    Case("names-07 not UTF-8", "refused", "s_\\xff.png' is not UTF-8; rename it", _not_utf8, ids=()),
    _zip("archives-01 member that leads out", "refused", "leads out of the archive", _add("images/../../s_2.png"), ids=()),
    _zip("archives-02 symlink", "not_an_image", "it starts with '/etc/passwd'", _symlink),  # its path, never its target
    _zip("archives-03 nested archive", "not_an_image", "it starts with 'PK", _add("images/val/s_2.png", _nested())),
    Case("archives-04 encrypted", "encrypted", "store it without a password", _encrypted, archive="a.zip"),
    Case("archives-05 truncated", "refused", "not a readable zip", _cut, archive="a.zip", ids=()),
    _zip("archives-06 overlapping entries", "refused", "overlap; zip the corpus again", _overlapping, ids=()),
)  # fmt: skip

# By their rows of the scorecard, where 52 to 58 are no images.
CASES: dict[int, Case] = dict(enumerate(_FIRST, start=1)) | {
    49: _image("odd-13 16-bit RGB PNG", deep_png(_DEEP[..., :3]), "unsupported_mode", "8 bits a channel (RGB;16B)"),
    50: _image("odd-14 16-bit RGBA PNG", deep_png(_DEEP), "unsupported_mode", "8 bits a channel (RGBA;16B)"),
    51: _image("odd-15 16-bit LA PNG", deep_png(_DEEP[..., :2]), "unsupported_mode", "8 bits a channel (LA;16B)"),
    59: _zip("archives-07 zip entry of 2^40 bytes", "corrupt", "a size that the archive does not have", _far_too_long),
    60: Case("tables-01 image column of another type", "refused", "column 'image' has type list<element: int64>, but must be",
             partial(pack_table, image=pa.array([[1], [2, 3]])), archive="a.parquet", ids=()),
    61: _zip("archives-08 zip entry beyond 2^63", "corrupt", "a place or a size that the archive does not", _far_away),
    62: Case("archives-09 tar header of 2^40 bytes", "refused", "after 'images/val/s_2.png' (its header says 1099511627776",
             partial(pack_tar, bad_bytes=1 << 40), archive="a.tar", ids=()),
    63: Case("tables-02 Parquet footer of 2^40 rows", "refused", "says it has 1099511627776 rows, in a file of",
             _too_many_rows, archive="a.parquet", ids=()),
}  # fmt: skip


def table() -> str:
    """Markdown: every input, its outcome and what is said of it."""
    lines = ["| input | outcome | what the row or the sentence says |", "| --- | --- | --- |"]
    for case in CASES.values():
        code = f"`{case.outcome}`" if case.outcome not in ("mask", "refused", "left out") else case.outcome
        says = case.says if case.outcome == "mask" else f'"{case.says.replace("|", chr(92) + "|")}"'
        lines.append(f"| {case.name} | {code} | {says} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
