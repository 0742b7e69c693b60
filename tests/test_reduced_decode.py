"""`predict.reduced_decode`: JPEGs are decoded at a fraction of their size, and masks of the full size are made in one step."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline import labels
from pipeline.config import PredictConfig, SegmentConfig, parse, parse_model
from pipeline.corpus import list_items
from pipeline.errors import Reject, UserError
from pipeline.imaging.decode import as_stored, decode_image, decode_reduced
from pipeline.imaging.mask_png import decode_mask
from pipeline.models import Network
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict import Predictor
from pipeline.predict.tile import Tile
from pipeline.runs import SECONDS
from pipeline.segment.packed import pack, unpack
from pipeline.segment.shard import ShardSegmenter
from tests.varied_network import varied_network

RNG = np.random.default_rng(0)
ROAD_PAVEMENT_BUILDING = np.array([7, 8, 11], np.uint8)  # as Cityscapes stores them
HALF = {"scales": [0.5], "reduced_decode": True}


def smooth(height: int, width: int) -> np.ndarray:
    coarse = Image.fromarray(RNG.integers(60, 196, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("scale", "divisor"), [(1.0, 1), (0.6, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.2, 4), (0.125, 8), (0.01, 8)]
)
def test_the_least_part_that_is_not_below_the_scale_holds_the_means_of_its_blocks(scale, divisor, mode):
    data = jpeg(smooth(96, 160), mode)
    found, orientation, size = decode_reduced(data, 10**6, scale)
    blocks = decode_image(data, 10**6).reshape(96 // divisor, divisor, 160 // divisor, divisor, 3)
    assert (orientation, size, found.shape) == (1, (96, 160), (96 // divisor, 160 // divisor, 3))
    assert np.abs(found - blocks.mean((1, 3))).mean() < 2


@pytest.mark.parametrize(("height", "width"), [(97, 161), (95, 5), (4, 4)])
def test_sides_that_the_part_does_not_divide_are_rounded_up(height, width):
    found, _, size = decode_reduced(jpeg(smooth(height, width)), 10**6, 0.25)
    assert (found.shape[:2], size) == ((-(-height // 4), -(-width // 4)), (height, width))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_upright_and_so_is_its_size(orientation):
    stored, whole = smooth(64, 96), jpeg(smooth(64, 96))
    data = jpeg(stored, exif=turned(orientation))
    found, tag, size = decode_reduced(data, 10**6, 0.5)
    upright = decode_image(data, 10**6)
    blocks = upright.reshape(upright.shape[0] // 2, 2, upright.shape[1] // 2, 2, 3)
    assert (tag, size) == (orientation, upright.shape[:2])
    assert np.abs(found - blocks.mean((1, 3))).mean() < 2
    assert decode_reduced(whole, 10**6, 0.5)[2] == (64, 96)


def test_the_limit_is_of_the_whole_picture_and_a_cut_file_is_told():
    data = jpeg(smooth(96, 160))
    with pytest.raises(Reject) as large:
        decode_reduced(data, 96 * 160 - 1, 0.125)
    with pytest.raises(Reject) as cut:
        decode_reduced(data[: len(data) // 2], 10**6, 0.5)
    assert (large.value.reason, cut.value.reason) == ("too_large", "truncated")


@pytest.mark.parametrize(("height", "width"), [(64, 128), (70, 130)])  # at half size: legal, and padded
def test_the_mask_is_that_of_the_coarse_scores_enlarged_to_the_whole_size(height, width):
    image = smooth(height, width)
    network = varied_network({"name": "lraspp"}, 5, image)
    predictor = Predictor(network, PredictConfig(scales=(0.5,), reduced_decode=True))
    small = F.interpolate(
        network.normalise(torch.from_numpy(image.copy()).permute(2, 0, 1)[None]), (height // 2, width // 2),
        mode="bilinear", antialias=True,
    )  # fmt: skip
    padded = network.legal_size(height // 2, width // 2)
    x = F.pad(small, (0, padded[1] - width // 2, 0, padded[0] - height // 2))
    with torch.inference_mode():
        large = F.interpolate(network.coarse(x), (2 * padded[0], 2 * padded[1]), mode="bilinear")[0]
    expected = large[:, :height, :width].argmax(0).numpy()
    (found,) = predictor.masks([image])
    assert len(set(expected.ravel())) > 1
    assert (found.mask == expected).mean() > 0.999  # scores that are equal to rounding


class Strongest(Network):
    """Says which of the three colours is strongest, of blocks of 4x4 pixels; the other 16 classes never are."""

    min_size = multiple_of = 4
    enlarges = True

    def coarse(self, x):
        means = F.avg_pool2d(x, 4)
        return torch.cat([means, means.amin().expand(len(x), 16, *means.shape[-2:]) - 1], dim=1) * 4

    def forward(self, x):
        return [F.interpolate(self.coarse(x), x.shape[-2:], mode="bilinear")]


def answered(corpus, **changes):
    values = {
        "corpus": {"images": str(corpus), "layout": "pairs", "image_glob": "images/*.jpg", "label_glob": "labels/*.png"},
        "checkpoint": "/unused", "output": "/unused", "cpus_per_actor": 1,
    }  # fmt: skip
    cfg = parse(SegmentConfig, values | changes, where="test")
    section = parse_model({"name": "lraspp"}, where="test")  # which nothing here is built of
    ready = Checkpoint(Strongest(), section, labels.space("cityscapes19"), "0" * 64, {})
    segmenter, items = ShardSegmenter(ready, cfg), list_items(cfg.corpus, None)
    (row,) = pack(0, items, segmenter.load).to_batches()
    here, elsewhere = segmenter.answer(items), segmenter.answer(items, unpack(row))
    rows = [
        [{k: v for k, v in one.items() if k not in SECONDS} for one in masks.to_pylist()]
        for masks, _ in (here, elsewhere)
    ]
    assert rows[0] == rows[1] and not here[1].num_rows  # decoded here, and by another process
    return {one["image_id"]: one for one in rows[0]}


def test_a_run_keeps_sizes_counts_and_orientations(tmp_path):
    """Each mask lies as its file is stored, and is held against its whole label."""
    picture, label = smooth(130, 190), RNG.choice(ROAD_PAVEMENT_BUILDING, (130, 190))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "plain.jpg").write_bytes(jpeg(picture))
    (tmp_path / "images" / "turned.jpg").write_bytes(jpeg(as_stored(picture, 6), exif=turned(6)))
    Image.fromarray(picture).save(tmp_path / "images" / "png.jpg", "PNG")
    for name, stored in (("plain", label), ("turned", as_stored(label, 6)), ("png", label)):
        Image.fromarray(stored).save(tmp_path / "labels" / f"{name}.png")
    rows = answered(tmp_path, predict=HALF)
    before = answered(tmp_path, predict={"scales": [0.5]})
    sizes = {name: (row["height"], row["width"]) for name, row in rows.items()}
    assert sizes == {"plain": (130, 190), "png": (130, 190), "turned": (190, 130)}
    for name, row in rows.items():
        mask, old = (decode_mask(one[name]["mask"]["bytes"]) for one in (rows, before))
        assert mask.shape == sizes[name] and set(mask.ravel()) == {0, 1, 2} and (mask == old).mean() > 0.98
        assert sum(row["confusion"]) == label.size
    upright = decode_mask(rows["turned"]["mask"]["bytes"])
    plain = as_stored(decode_mask(rows["plain"]["mask"]["bytes"]), 6)
    assert (upright == plain).mean() > 0.98


def test_scores_that_a_metric_asks_for_have_the_whole_size(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(smooth(66, 90)))
    Image.fromarray(RNG.choice(ROAD_PAVEMENT_BUILDING, (66, 90))).save(tmp_path / "labels" / "a.png")
    row = answered(tmp_path, predict=HALF, metrics={"calibration_bins": 5}, confidence_map=True)["a"]
    assert sum(row["calibration"][:5]) == 66 * 90


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predict": {"scales": [0.5, 0.25], "reduced_decode": True}}, "one scale below 1"),
        ({"predict": {"reduced_decode": True}}, "one scale below 1"),
        ({"predict": HALF | {"tile": [64, 64]}}, "predict.tile"),
        ({"predict": HALF, "crf": {}}, "crf cannot be combined"),
    ],
)
def test_what_needs_all_pixels_is_refused(changes, words):
    values = {"corpus": {"images": "a", "layout": "camvid"}, "checkpoint": "c", "output": "o"}
    with pytest.raises(UserError, match=words):
        parse(SegmentConfig, values | changes, where="test")


def test_the_key_is_not_in_the_text_of_a_config_that_leaves_it_out():
    assert "reduced_decode" not in PredictConfig().model_dump()
    assert PredictConfig(scales=(0.5,), reduced_decode=True).model_dump()["reduced_decode"]


def test_a_part_of_a_picture_takes_as_much_of_the_network_as_its_scale_says():
    predictor = Predictor(varied_network({"name": "lraspp"}, 5, smooth(64, 64)), PredictConfig(**HALF))
    image = smooth(96, 160)
    whole, part = Tile.of(image), Tile(image[::2, ::2], (96, 160))
    shapes = {tuple(predictor._input([tile], 0.5, mirrored=False).shape) for tile in (whole, part)}
    assert shapes == {(1, 3, *predictor.model.legal_size(48, 80))}
