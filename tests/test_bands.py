"""Declared bands: what is read, what is refused, and that every package after decoding supports them."""

import io
import json
import sys

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from pipeline.config import AugmentConfig, ImageConfig, TrainConfig, parse
from pipeline.errors import Reject, UserError
from pipeline.imaging.augment import augment
from pipeline.imaging.bands import Windows, as_picture, decode_bands
from pipeline.imaging.decode import decode_image
from pipeline.labels import IGNORE
from tests.bands_corpus import CRS, DECLARED, TRANSFORM, scene, write_tif

RNG = np.random.default_rng(0)
TWELVE_BITS = RNG.permutation(np.arange(4096, dtype=np.uint16)).reshape(1, 64, 64)
GREY = ImageConfig(bands=(1,), range=(0.0, 4095.0))


def saved(bands: np.ndarray, driver: str = "GTiff", **options) -> bytes:
    with rasterio.MemoryFile() as memory:
        profile = {"driver": driver, "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
        with memory.open(**profile, dtype=bands.dtype.name, **options) as file:
            file.write(bands)
        return memory.read()


def refused(data: bytes, declared: ImageConfig = GREY, max_pixels: int = 10**6) -> tuple[str, str]:
    with pytest.raises(Reject) as error:
        decode_bands(data, declared, max_pixels)
    return error.value.reason, str(error.value)


# The config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bands": [1], "range": [5, 5]}, r"image.range: \[5, 5\] has no width; give \[low, high\]"),
        ({"bands": [1], "range": [9, 5]}, "has no width"),
        ({"bands": [1, 2], "range": [[0, 1], [3, 3]]}, r"\[3, 3\] has no width"),
        ({"bands": [1], "range": [0, float("nan")]}, "found nan; it must be a finite number"),
        ({"bands": [1, 2, 3], "range": [[0, 1], [0, 2]]}, "image.range has 2 pairs, and image.bands names 3 bands"),
        ({"bands": [], "range": [0, 1]}, "it needs at least 1"),
        ({"bands": [0], "range": [0, 1]}, "it must be 1 or more"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        parse(ImageConfig, values, where="image")


def test_one_range_is_every_band_s_and_a_pair_a_band_is_each_its_own():
    assert parse(ImageConfig, {"bands": [3, 2], "range": [0, 4095]}, where="").spans == ((0, 4095), (0, 4095))
    assert parse(ImageConfig, {"bands": [3, 2], "range": [[0, 1], [5, 9]]}, where="").spans == ((0, 1), (5, 9))


def test_a_config_without_it_is_written_as_before():
    values = {"corpus": {"images": "/x", "layout": "cityscapes"}, "label_space": "voc21", "output": "/y"}
    assert "image" not in parse(TrainConfig, values, where="").model_dump(mode="json")
    declared = parse(TrainConfig, values | {"image": {"bands": [1], "range": [0, 9]}}, where="").model_dump(mode="json")
    assert declared["image"] == {"bands": [1], "range": [0.0, 9.0]}
    assert parse(TrainConfig, declared, where="").image == ImageConfig(bands=(1,), range=(0.0, 9.0))


# Decoding


@pytest.mark.parametrize("driver", ["PNG", "GTiff"])
def test_twelve_bits_keep_all_their_levels(driver):
    levels, _ = decode_bands(saved(TWELVE_BITS, driver), GREY, 10**6)
    assert levels.shape == (64, 64, 1) and levels.dtype == np.float32
    assert len(np.unique(levels)) == 4096  # as uint8 they would be 256
    assert np.allclose(levels[..., 0], TWELVE_BITS[0].astype(np.float64) * 255 / 4095, atol=1e-4)


def test_pillow_and_libvips_wrote_what_is_read():
    import pyvips

    file = io.BytesIO()
    Image.fromarray(TWELVE_BITS[0]).save(file, format="PNG")
    assert np.array_equal(
        decode_bands(file.getvalue(), GREY, 10**6)[0], decode_bands(saved(TWELVE_BITS), GREY, 10**6)[0]
    )
    colours = RNG.integers(0, 65536, (50, 70, 3), dtype=np.uint16)
    declared = ImageConfig(bands=(3, 1), range=(0.0, 65535.0))
    for suffix in (".png", ".tif", ".tif[tile,tile-width=16,tile-height=16,compression=deflate]"):
        data = pyvips.Image.new_from_array(colours, interpretation="rgb16").write_to_buffer(suffix)
        levels, georeference = decode_bands(data, declared, 10**6)
        assert np.allclose(levels, colours[..., [2, 0]] / 257.0, atol=1e-3) and georeference is None


def test_bands_come_in_the_declared_order_each_with_its_range_clipped():
    bands = RNG.integers(0, 4096, (4, 30, 40), dtype=np.uint16)
    declared = ImageConfig(bands=(4, 2), range=((1000.0, 2000.0), (0.0, 4095.0)))
    levels, _ = decode_bands(saved(bands), declared, 10**6)
    fourth = np.clip((bands[3].astype(float) - 1000) / 1000, 0, 1) * 255
    assert np.allclose(levels[..., 0], fourth, atol=1e-3) and levels[..., 0].min() == 0 and levels[..., 0].max() == 255
    assert np.allclose(levels[..., 1], bands[1] * (255 / 4095), atol=1e-3)


def test_nodata_and_nan_in_one_band_are_no_data_in_all():
    bands = np.full((2, 4, 5), 7, np.uint16)
    bands[1, 0, 0] = 0
    two = ImageConfig(bands=(1, 2), range=(0.0, 10.0))
    levels, _ = decode_bands(saved(bands, nodata=0), two, 100)
    assert np.argwhere(np.isnan(levels)).tolist() == [[0, 0, 0], [0, 0, 1]]
    floats = bands.astype(np.float32)
    floats[0, 3, 4], floats[0, 2, 2] = np.nan, np.inf
    void = np.isnan(decode_bands(saved(floats, nodata=0), two, 100)[0]).all(axis=-1)
    assert np.argwhere(void).tolist() == [[0, 0], [2, 2], [3, 4]]
    assert not np.isnan(decode_bands(saved(bands), two, 100)[0]).any()  # the file calls no value nodata


@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"interleave": "band"}])
def test_windows_give_the_rows_of_the_whole_image(options):
    bands, _ = scene(231, 117)
    data = saved(bands, nodata=0, **options)
    whole, _ = decode_bands(data, DECLARED, 10**6)
    found, void = np.zeros_like(whole), np.zeros(whole.shape[:2], bool)
    with Windows(data, 10**6, DECLARED) as windows:
        for top, bottom in [(0, 100), (60, 180), (170, 231)]:
            stored = windows.rows(top, bottom)
            assert stored.dtype == np.uint16
            found[top:bottom] = windows.levels(stored)
            void[top:bottom] = windows.void(top, bottom)
    assert np.array_equal(found, whole, equal_nan=True)
    assert np.array_equal(void, np.isnan(whole[..., 0]))


def test_coordinates_come_with_the_pixels(tmp_path):
    path = write_tif(tmp_path / "a.tif", scene(8, 9)[0])
    _, georeference = decode_bands(path.read_bytes(), DECLARED, 100)
    place = json.loads(georeference)
    assert rasterio.CRS.from_wkt(place["crs"]) == CRS
    assert rasterio.Affine.from_gdal(*place["transform"]) == TRANSFORM


def test_eyes_see_the_first_three_bands():
    image = np.dstack([np.full((2, 2), level, np.float32) for level in (10.4, 20.6, 300 / 2, 40)])
    image[0, 0] = np.nan
    assert as_picture(image)[1, 1].tolist() == [10, 21, 150] and as_picture(image)[0, 0].tolist() == [0, 0, 0]
    assert as_picture(image[..., :1])[1, 1].tolist() == [10, 10, 10]
    plain = np.zeros((2, 2, 3), np.uint8)
    assert as_picture(plain) is plain


# What is refused


def test_a_band_that_the_file_has_not_is_named_with_those_that_it_has():
    reason, words = refused(saved(RNG.integers(0, 9, (3, 8, 8), dtype=np.uint16)), DECLARED)
    assert reason == "missing_band" and "asks for band 4, and the file has 3" in words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(np.zeros((1, 8, 8), np.uint8)), "image.range is [0, 4095], and band 1 of the file is uint8, 0 to 255"),
        (saved(np.zeros((1, 8, 8), np.uint16), nbits=10), "band 1 of the file is of 10 bits, 0 to 1023"),
    ],
)
def test_a_file_that_cannot_hold_the_declared_range_is_refused(data, words):
    reason, sentence = refused(data)
    assert reason == "bit_depth" and words in sentence and "convert" in sentence


def test_a_range_below_what_unsigned_files_hold_is_refused():
    reason, _ = refused(saved(np.zeros((1, 8, 8), np.uint16)), ImageConfig(bands=(1,), range=(-5.0, 10.0)))
    assert reason == "bit_depth"
    decode_bands(saved(np.zeros((1, 8, 8), np.int16)), ImageConfig(bands=(1,), range=(-5.0, 10.0)), 100)


def test_damaged_and_foreign_files_are_refused_with_their_reason():
    data, jpeg, palette = saved(TWELVE_BITS), io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, format="JPEG")
    Image.new("P", (8, 8)).save(palette, format="PNG")
    png = saved(TWELVE_BITS, "PNG")
    assert refused(b"")[0] == "empty"
    assert refused(jpeg.getvalue())[0] == refused(b"II, not a TIFF")[0] == "not_an_image"
    assert refused(palette.getvalue())[0] == "unsupported_mode"
    assert (
        refused(data[: len(data) // 2])[0]
        == refused(png[: len(png) // 2])[0]
        == refused(b"II*\0rubbish")[0]
        == "corrupt"
    )
    assert refused(saved(np.zeros((1, 8, 8), np.complex64)))[0] == "unsupported_mode"
    assert refused(data, max_pixels=4095) == (
        "too_large",
        "64x64 pixels (height x width) are more than max_pixels 4095; raise max_pixels, or cut the image into tiles",
    )


@pytest.mark.parametrize("bands", [1, 3, 4, 13])
@pytest.mark.parametrize("options", [{"driver": "PNG"}, {}, {"interleave": "band"}, {"bigtiff": "yes"}])
def test_sixteen_bits_without_a_declaration_stay_refused_and_hear_what_to_declare(options, bands):
    if bands == 13 and options:
        return
    with pytest.raises(
        Reject, match=r"not declared; convert it to 8 bits, or train with .* image: \{bands: \[1\], range:"
    ) as error:
        decode_image(saved(TWELVE_BITS.repeat(bands, 0), **options), 10**6)
    assert error.value.reason == "unsupported_mode"


def test_without_rasterio_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=r"pip install 'maskmill\[geo\]', on every node"):
        decode_bands(b"II*\0", GREY, 100)


# Training views


def view(image, label, seed=0, **changes):
    values = {"crop": [32, 48], "scale": [0.5, 2.0], "flip": True, "colour": 0.4} | changes
    return augment(image, label, parse(AugmentConfig, values, where=""), np.random.default_rng(seed))


def test_views_of_bands_keep_them_apart_and_ignore_what_has_no_data():
    image = np.dstack([np.full((60, 80), level, np.float32) for level in (10, 60, 120, 200)])
    image[:20] = np.nan
    label = np.ones((60, 80), np.uint8)
    for seed in range(20):
        x, y = view(image, label, seed)
        assert x.shape == (4, 32, 48) and x.dtype == torch.float32 and y.dtype == torch.uint8
        void = x.isnan().any(dim=0)
        assert bool((y[void] == IGNORE).all()) and bool(x[:, ~void].ge(0).all()) and bool(x[:, ~void].le(255).all())
        means = x[:, ~void].mean(dim=1) if (~void).any() else torch.arange(4.0)
        assert means.tolist() == sorted(means.tolist()) and len(set(means.tolist())) == 4
        assert all(
            torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip((x, y), view(image, label, seed), strict=True)
        )


def test_a_view_that_changes_nothing_is_the_image_to_the_last_level():
    bands, ids = scene(32, 48)
    image = np.moveaxis(bands, 0, -1).astype(np.float32) / 16
    x, y = view(image, ids, scale=[1, 1], flip=False, colour=0)
    assert np.array_equal(x.numpy(), np.moveaxis(image, -1, 0)) and np.array_equal(y.numpy(), ids)
