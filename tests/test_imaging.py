import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import AugmentConfig
from pipeline.errors import Reject, UserError
from pipeline.imaging.augment import augment
from pipeline.imaging.colours import blend, colourise, error_map
from pipeline.imaging.decode import (
    _by_torchcodec,
    as_stored,
    decode_image,
    decode_label,
    decode_oriented,
    quoted,
    upright,
)
from pipeline.imaging.mask_png import MaskWriter, decode_mask, encode_mask
from pipeline.imaging.strips import Strips
from pipeline.predict.upsample_argmax import enlarge_argmax
from tests.bad_inputs import deep_png

LIMIT = 100_000
DEEP = np.random.default_rng(1).integers(0, 4096, (40, 60, 4), np.uint16)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3), np.uint8)


def encoded(pixels, kind="PNG", mode=None, **options) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(file, format=kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels_back(kind):
    assert np.array_equal(decode_image(encoded(PIXELS, kind), LIMIT), PIXELS)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1"])
def test_every_8_bit_mode_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = decode_image(encoded(PIXELS, kind, mode), LIMIT)
    assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
    if mode == "RGBA":
        assert np.array_equal(image, PIXELS)


def test_exif_orientation_is_applied_once():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    assert np.array_equal(decode_image(encoded(PIXELS, "TIFF", exif=exif), LIMIT), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_and_masks_turn_with_their_image(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PIXELS, kind, exif=exif)
    image, found = decode_oriented(data, LIMIT)
    assert found == orientation
    assert np.array_equal(upright(PIXELS, orientation), image)
    ids = PIXELS[..., 0]
    assert np.array_equal(as_stored(upright(ids, orientation), orientation), ids)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", None, {}),
        ("PNG", "L", {}),
        ("PNG", None, {"gamma": True}),
        ("JPEG", None, {"quality": 90}),
        ("JPEG", None, {"quality": 90, "progressive": True, "subsampling": 1}),
        ("JPEG", "L", {}),
    ],
)
def test_plain_pictures_are_decoded_to_pillows_pixels_by_torchcodec(kind, mode, options):
    smooth = np.kron(PIXELS[:8, :8], np.ones((9, 13, 1))).astype(np.uint8)
    gamma = options.pop("gamma", False)
    data = encoded(smooth, kind, mode, **options)
    if gamma:  # a chunk that decoders for screens would apply
        body = b"gAMA" + (100_000).to_bytes(4, "big")
        data = data[:33] + (4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + data[33:]
    picture = Image.open(io.BytesIO(data))
    fast = _by_torchcodec(picture, data)
    assert np.array_equal(fast, np.asarray(picture.convert("RGB")))
    assert np.array_equal(fast, decode_image(data, LIMIT))


def test_a_tag_behind_a_pngs_pixels_turns_it_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(PIXELS, exif=exif)
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    image, orientation = decode_oriented(data[:start] + data[end:-12] + data[start:end] + data[-12:], LIMIT)
    assert orientation == 6 and np.array_equal(image, upright(PIXELS, 6))


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (0, 255)]
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:])
    assert decode_image(file.getvalue(), LIMIT).max() == 0


JPEG, PNG = encoded(PIXELS, "JPEG"), encoded(PIXELS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"garbage" * 100, "not_an_image"),
        (b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>", "not_an_image"),
        (b"<html>404</html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),
        (PNG[: len(PNG) // 2], "truncated"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[:-8], "truncated"),
        (JPEG[:-2], "truncated"),
        (PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "corrupt"),
        (encoded(np.zeros((400, 251), np.uint8)), "too_large"),
        (encoded(np.full((4, 4), 70000, np.int32), "TIFF"), "unsupported_mode"),
        (encoded(np.full((4, 4), 700, np.uint16)), "unsupported_mode"),
    ],
)
def test_bad_images_have_a_reason(data, reason):
    with pytest.raises(Reject) as error:
        decode_image(data, LIMIT)
    assert error.value.reason == reason


def test_a_bomb_is_refused_before_a_pixel_is_decoded():
    with pytest.raises(Reject, match=r"20000x20000 pixels .* more than max_pixels 100000") as error:
        decode_image(encoded(np.zeros((20_000, 20_000), np.uint8), compress_level=1), LIMIT)
    assert error.value.reason == "too_large"


def test_labels_are_ids_and_palette_indices():
    ids = RNG.integers(0, 34, (20, 30)).astype(np.uint8)
    assert np.array_equal(decode_label(encoded(ids), LIMIT), ids)
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette(list(range(255, -1, -1)) * 3)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    assert np.array_equal(decode_label(file.getvalue(), LIMIT), np.asarray(picture))
    assert np.array_equal(decode_label(encoded(ids.astype(np.uint16)), LIMIT), ids)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(PIXELS), "label_not_indexed"),
        (b"", "empty"),
    ],
)
def test_bad_labels_have_a_reason(data, reason):
    with pytest.raises(Reject) as error:
        decode_label(data, LIMIT)
    assert error.value.reason == reason


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (37, 53)])
def test_the_mask_png_is_standard(shape):
    """Pillow's strict reader, chunk checksums included, and OpenCV's rules: signature, IHDR, IDAT, IEND, nothing else."""
    mask = RNG.integers(0, 256, shape).astype(np.uint8)
    data = encode_mask(mask)
    image = Image.open(io.BytesIO(data))
    image.verify()
    assert (image.format, image.mode, image.size) == ("PNG", "L", shape[::-1])
    assert np.array_equal(decode_mask(data), mask)
    kinds, place = [], 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kinds.append(data[place + 4 : place + 8])
        place += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"] and place == len(data)


ENLARGED = pytest.mark.parametrize(
    "small, full, size",
    [
        ((16, 32), (128, 256), (128, 256)),
        ((16, 32), (64, 128), (61, 120)),  # an image padded to a legal size
        ((9, 13), (65, 97), (65, 97)),  # no whole factor
        ((1, 1), (8, 8), (5, 8)),
        ((8, 8), (8, 8), (8, 8)),
    ],
)


def smooth_scores(classes, height, width, seed=0):
    """Scores as networks give them: smooth, with clear regions."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, max(1, height // 4), max(1, width // 4), generator=rng) * 4
    noise = torch.randn(1, classes, height, width, generator=rng) * 0.3
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic") + noise


@pytest.mark.parametrize("threads", [1, 3])
@ENLARGED
def test_the_enlarged_winner_is_that_of_interpolate_and_argmax(small, full, size, threads):
    for scores in (smooth_scores(19, *small), torch.randn(1, 19, *small, generator=torch.Generator().manual_seed(1))):
        large = torch.nn.functional.interpolate(scores, full, mode="bilinear", align_corners=False)
        expected = large[0, :, : size[0], : size[1]].argmax(0).to(torch.uint8).numpy()
        found = enlarge_argmax(scores[0].numpy(), full, size, threads)
        differ = np.flatnonzero(found != expected)
        # Where two classes are equal to the last bit, either may win.
        values = large[0, :, : size[0], : size[1]].flatten(1)[:, differ]
        gap = values.gather(0, torch.from_numpy(expected.ravel()[differ]).long()[None]) - values.gather(
            0, torch.from_numpy(found.ravel()[differ]).long()[None]
        )
        assert len(differ) <= found.size * 1e-4 and (gap.abs() < 1e-5).all()


def test_of_equal_classes_the_lowest_wins():
    scores = np.zeros((5, 3, 3), np.float32)
    scores[2:4] = 1
    assert set(enlarge_argmax(scores, (12, 12), (12, 12)).ravel()) == {2}


def test_masks_survive_their_encoding_and_equal_masks_have_equal_bytes():
    mask = RNG.integers(0, 19, (37, 53)).astype(np.uint8)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
    assert encode_mask(mask) == encode_mask(mask.copy())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_mask(mask)))), mask)


@pytest.mark.parametrize("heights", [[37], [1, 36], [16, 16, 5]])
def test_a_mask_written_row_by_row_is_the_same_picture(heights):
    mask = RNG.integers(0, 19, (37, 53)).astype(np.uint8)
    writer = MaskWriter(37, 53)
    for top, height in zip(np.cumsum([0, *heights]), heights, strict=False):
        writer.add(mask[top : top + height])
    assert np.array_equal(decode_mask(writer.finish()), mask)


def test_each_damage_of_a_mask_is_seen_or_changes_nothing():
    """As Pillow sees it: one bit of each byte, each beginning of the file, and a file without a mask in it."""
    mask = RNG.integers(0, 3, (9, 14)).astype(np.uint8)
    data = encode_mask(mask)
    flipped = [data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :] for place in range(len(data))]
    for damaged in (*flipped, *(data[:length] for length in range(len(data))), data[:33] + data[-12:]):
        try:
            expected = np.asarray(Image.open(io.BytesIO(damaged), formats=("PNG",)))
        except (OSError, SyntaxError, ValueError):
            with pytest.raises(UserError):
                decode_mask(damaged)
        else:
            assert np.array_equal(decode_mask(damaged), expected)


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}, {"dpi": (72, 72)}])
def test_masks_that_other_programs_wrote_are_read_too(options):
    mask = RNG.integers(0, 19, (37, 53)).astype(np.uint8)
    assert np.array_equal(decode_mask(encoded(mask, **options)), mask)


def test_overlays_use_the_class_colours():
    mask = np.array([[0, 1, 255]], np.uint8)
    colours = ((10, 20, 30), (200, 100, 0))
    assert colourise(mask, colours)[0].tolist() == [[10, 20, 30], [200, 100, 0], [0, 0, 0]]
    assert blend(np.zeros((1, 3, 3), np.uint8), mask, colours, 0.5)[0, 1].tolist() == [100, 50, 0]
    errors = error_map(np.array([[0, 0, 255]], np.uint8), mask)
    assert len({tuple(pixel) for pixel in errors[0].tolist()}) == 3


AUGMENT = AugmentConfig(crop=(24, 32), scale=(0.5, 2.0), flip=True, colour=0.5)


def test_views_have_the_crop_size_and_depend_on_their_rng_alone():
    label = RNG.integers(0, 5, (40, 60)).astype(np.uint8)
    for seed in range(20):
        first = augment(PIXELS, label, AUGMENT, np.random.default_rng(seed))
        again = augment(PIXELS, label, AUGMENT, np.random.default_rng(seed))
        assert (first[0].shape, first[1].shape) == ((3, 24, 32), (24, 32))
        assert (first[0] == again[0]).all()
        assert (first[1] == again[1]).all()
        assert set(first[1].unique().tolist()) <= {*range(5), 255}


def test_image_and_label_are_moved_together():
    label = np.zeros((40, 60), np.uint8)
    label[10:25, 20:50] = 1
    image = np.repeat(label[..., None] * 200, 3, axis=2)
    cfg = AUGMENT.model_copy(update={"colour": 0.0})
    for seed in range(20):
        x, y = augment(image, label, cfg, np.random.default_rng(seed))
        inside = y != 255
        wrong = ((x[0] > 100) != (y == 1)) & inside
        assert wrong.float().mean() < 0.06  # the image is resized bilinearly, the label by nearest: edges only


def test_a_view_past_the_edge_is_ignored_there():
    small = np.ones((10, 10), np.uint8)
    cfg = AugmentConfig(crop=(20, 20), scale=(1.0, 1.0), flip=False, colour=0)
    _, y = augment(np.zeros((10, 10, 3), np.uint8), small, cfg, np.random.default_rng(0))
    assert (y == 1).sum() == 100
    assert (y == 255).sum() == 300


def deep_tiff(bands, compression):
    """A 16-bit TIFF by libvips; Pillow writes none in colour."""
    pyvips = pytest.importorskip("pyvips")
    pixels = np.ascontiguousarray(DEEP[..., :bands])
    image = pyvips.Image.new_from_memory(pixels.tobytes(), 60, 40, bands, "ushort")
    return image.copy(interpretation="grey16" if bands < 3 else "rgb16").write_to_buffer(
        ".tif", compression=compression
    )


@pytest.mark.parametrize(
    "make",
    [
        *(lambda bands=bands: deep_png(DEEP[..., :bands]) for bands in (2, 3, 4)),
        lambda: encoded(DEEP[..., 0]),
        *(lambda bands=bands, how=how: deep_tiff(bands, how) for bands in (1, 3, 4) for how in ("none", "deflate")),
    ],
)
def test_16_bits_a_channel_are_refused_in_every_mode_whole_and_in_strips(make):
    """12 bits in 16 would be almost black."""
    data = make()
    for read in (lambda: decode_image(data, LIMIT), lambda: Strips(data, LIMIT)):
        with pytest.raises(Reject, match="more than 8 bits a channel") as error:
            read()
        assert error.value.reason == "unsupported_mode"


@pytest.mark.parametrize(("kind", "mode"), [("PNG", m) for m in ("1", "L", "LA", "P", "RGB", "RGBA")]
                         + [("TIFF", m) for m in ("1", "L", "P", "RGB", "RGBA", "CMYK")] + [("BMP", "RGB")])  # fmt: skip
def test_up_to_8_bits_are_read_in_every_mode(kind, mode):
    assert decode_image(encoded(PIXELS, kind, mode), LIMIT).shape == PIXELS.shape


@pytest.mark.parametrize("data", [b"PK\x03\x04\x14\x00q", b"<?xml\n\\", bytes(range(128, 256)), b'say "', b""])
def test_bytes_of_a_message_stand_in_single_quotes_as_python_writes_them(data):
    assert quoted(data) == repr(data)[1:]
    assert quoted(data + b"'q") == quoted(data)[:-1] + "'q'"


@pytest.mark.parametrize("colours", [False, True])
def test_a_tiff_label_with_an_orientation_of_its_own_is_returned_as_stored(colours):
    """That of its image counts, and is applied later; Pillow applies a TIFF's own while it decodes."""
    stored = np.arange(24 * (3 if colours else 1), dtype=np.uint8).reshape((4, 6, 3) if colours else (4, 6))
    for orientation in range(1, 9):
        file = io.BytesIO()
        Image.fromarray(stored).save(file, "TIFF", tiffinfo={0x0112: orientation})
        assert np.array_equal(decode_label(file.getvalue(), LIMIT, colours=colours), stored)


def test_a_grey_label_with_a_transparent_value_is_read_in_strips():
    stored = (np.arange(64, dtype=np.uint8) % 3).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "PNG", transparency=0)
    assert np.array_equal(Strips(file.getvalue(), LIMIT, ids=True).rows(0, 8), stored)
