"""Tiles, blending, mixed sizes and too little memory give the same answer as one whole image at a time."""

import logging
from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.config import PredictConfig, SegmentConfig, parse
from pipeline.models import Network, checkpoint
from pipeline.predict import Predictor
from pipeline.predict.tiles import Blend, Grid, ramps, spread

RNG = np.random.default_rng(3)


class Levels(Network):
    """Three classes that win by the brightness of a pixel and its eight neighbours: sees one pixel far."""

    mean = std = (0.5,) * 3
    min_size = multiple_of = 8

    def forward(self, x):
        self.check_size(x)
        near = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False).mean(dim=1, keepdim=True)
        return [torch.cat([-near, 0.3 - near.abs(), near], dim=1) * 4]


class Place(Network):
    """Class 1 by the column within the input, whatever the image: tiles differ, so their blend shows."""

    min_size = multiple_of = 1

    def forward(self, x):
        columns = torch.linspace(0, 1, x.shape[-1]).expand(x.shape[0], 1, *x.shape[-2:])
        return [torch.cat([torch.zeros_like(columns), columns], dim=1)]


class Constant(Network):
    min_size = multiple_of = 8

    def forward(self, x):
        return [torch.tensor([0.0, 1.0, -1.0]).view(1, 3, 1, 1).expand(x.shape[0], 3, *x.shape[-2:])]


class Bounded(Levels):
    """A network whose device's memory ends above a number of pixels."""

    def __init__(self, most_pixels):
        super().__init__()
        self.most_pixels, self.passes = most_pixels, []

    def forward(self, x):
        self.passes.append(tuple(x.shape))
        if x.shape[0] * x.shape[2] * x.shape[3] > self.most_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 is full.")
        return super().forward(x)


def predictor(network, batch_size=1, **settings):
    return Predictor(network, PredictConfig(**settings), batch_size=batch_size)


def image(height, width):
    smooth = RNG.integers(0, 256, (height // 7 + 2, width // 7 + 2, 3), dtype=np.uint8).repeat(7, 0).repeat(7, 1)
    return np.ascontiguousarray(smooth[:height, :width])


def by_place(model, images, keep_probs=False):
    return [
        assembly for _, assembly in sorted(model.answers(enumerate(images), keep_probs), key=lambda answer: answer[0])
    ]


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "spans"),
    [
        (10, 10, 3, [(0, 10)]),
        (7, 10, 3, [(0, 7)]),
        (17, 10, 3, [(0, 10), (7, 17)]),
        (24, 10, 3, [(0, 10), (7, 17), (14, 24)]),
        (20, 10, 0, [(0, 10), (10, 20)]),
        (22, 10, 0, [(0, 10), (6, 16), (12, 22)]),  # evenly spread: more overlap than asked for
    ],
)
def test_tiles_cover_the_image_evenly(size, tile, overlap, spans):
    assert spread(size, tile, overlap) == spans


@pytest.mark.parametrize(("size", "tile", "overlap"), [(17, 10, 3), (101, 16, 8), (1000, 64, 13), (23, 20, 10)])
def test_weights_sum_to_one_at_every_pixel(size, tile, overlap):
    spans, total = spread(size, tile, overlap), np.zeros(size)
    assert all(first[1] - second[0] >= overlap for first, second in pairwise(spans))
    for (start, stop), weights in zip(spans, ramps(spans), strict=True):
        assert (weights > 0).all()
        total[start:stop] += weights
    assert total == pytest.approx(np.ones(size), abs=1e-6)


def test_a_ramp_is_linear_over_the_overlap():
    first, second = ramps([(0, 6), (2, 8)])
    assert first == pytest.approx([1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8])
    assert second == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1])


def test_a_blended_overlap_equals_hand_arithmetic():
    """Two tiles of six columns over eight: column 4 is tile one's column 4 times 3/8, tile two's column 2 times 5/8."""
    (answer,) = by_place(predictor(Place(), tile=(5, 6), overlap=4), [image(5, 8)], keep_probs=True)
    one, two = (1 / (1 + np.exp(-column / 5)) for column in (4, 2))
    assert answer.probs[1, 0, 4].item() == pytest.approx(one * 3 / 8 + two * 5 / 8, abs=1e-6)
    assert answer.probs.sum(0) == pytest.approx(torch.ones(5, 8), abs=1e-6)


@pytest.mark.parametrize("overlap", [0, 5, 8, 13])
def test_a_constant_stays_constant_through_tiles(overlap):
    expected = torch.tensor([0.0, 1.0, -1.0]).softmax(0)
    (answer,) = by_place(predictor(Constant(), 3, tile=(16, 24), overlap=overlap), [image(50, 61)], keep_probs=True)
    assert torch.allclose(answer.probs, expected.view(3, 1, 1).expand(3, 50, 61), atol=1e-6)
    assert (answer.prediction.mask == 1).all()
    assert answer.confidence == pytest.approx(expected.max().item(), abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"flip": True, "scales": (1.0, 0.5)}])
def test_a_tile_as_large_as_the_image_is_the_whole_image(settings):
    picture = image(41, 53)
    (whole,) = by_place(predictor(Levels(), **settings), [picture])
    for tile in ((41, 53), (100, 99)):
        (tiled,) = by_place(predictor(Levels(), tile=tile, overlap=16, **settings), [picture])
        assert np.array_equal(tiled.prediction.mask, whole.prediction.mask)
        assert (tiled.confidence, tiled.entropy) == (whole.confidence, whole.entropy)


@pytest.mark.parametrize("tile", [(16, 24), (41, 16), (24, 53)])
def test_tiles_that_see_far_enough_give_the_labels_of_the_whole(tile):
    """The network sees one pixel far, and a ramp gives nearly nothing to the pixels at a tile's edge."""
    picture = image(41, 53)
    (whole,) = by_place(predictor(Levels()), [picture])
    (tiled,) = by_place(predictor(Levels(), batch_size=3, tile=tile, overlap=8), [picture])
    assert (tiled.prediction.mask == whole.prediction.mask).mean() > 0.98
    assert tiled.confidence == pytest.approx(whole.confidence, abs=0.02)


def test_images_of_mixed_sizes_share_batches_and_answer_as_alone():
    pictures = [image(*size) for size in [(30, 40), (33, 50), (8, 8), (30, 41), (25, 35), (60, 10), (32, 40)]]
    network = Bounded(10**9)
    alone = [by_place(predictor(network, pad_multiple=32), [picture])[0] for picture in pictures]
    assert len(network.passes) == 7
    network.passes.clear()
    together = by_place(predictor(network, batch_size=3, pad_multiple=32), pictures)
    assert sorted(network.passes) == [
        (1, 3, 32, 32), (1, 3, 32, 64), (1, 3, 64, 32), (1, 3, 64, 64), (3, 3, 32, 64)
    ]  # fmt: skip
    for one, other, picture in zip(alone, together, pictures, strict=True):
        assert other.prediction.mask.shape == picture.shape[:2]
        assert np.array_equal(one.prediction.mask, other.prediction.mask)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


def test_tiles_of_several_images_share_batches():
    network = Bounded(10**9)
    pictures = [image(16, 40), image(20, 24), image(48, 16)]
    answers = by_place(predictor(network, batch_size=4, tile=(16, 16), overlap=4), pictures)
    assert network.passes == [(4, 3, 16, 16), (4, 3, 16, 16), (3, 3, 16, 16)]  # of 3 + 4 + 4 tiles
    assert [answer.prediction.mask.shape for answer in answers] == [(16, 40), (20, 24), (48, 16)]


def test_scores_that_wait_to_be_blended_are_bounded():
    """What is kept after each tile: an edge of the tile, and one overlap's height of the image; never the image's height."""
    kept = {}
    for height in (64, 640):
        grid = Grid.over((height, 96), (16, 16), 4)
        blend = Blend(grid)
        for row in range(len(grid.rows)):
            for column in range(len(grid.columns)):
                assert blend.add(row, column, torch.full((3, 16, 16), 0.25)).shape[1:] <= (16, 16)
        kept[height] = sum(part.untyped_storage().nbytes() for part in blend.waiting)
    assert kept[64] == 4 * 3 * (16 * 5 + 2 * 4 * 96)
    assert kept[640] <= 4 * 3 * (16 * 5 + 2 * 5 * 96)


def test_too_little_memory_halves_the_batch_and_says_so_once(caplog):
    pictures = [image(32, 32) for _ in range(9)]
    network = Bounded(3 * 32 * 32)
    model = predictor(network, batch_size=8)
    with caplog.at_level(logging.WARNING):
        answers = by_place(model, pictures)
    assert [shape[0] for shape in network.passes] == [8, 4, 2, 2, 2, 2, 1]  # nothing is tried twice in vain
    assert len(caplog.records) == 1 and "does not hold 8 x 32x32 pixels" in caplog.text
    for picture, answer in zip(pictures, answers, strict=True):
        (alone,) = by_place(predictor(Levels()), [picture])
        assert np.array_equal(answer.prediction.mask, alone.prediction.mask)


def test_too_little_memory_for_one_tile_halves_it_without_changing_a_label(caplog):
    pictures = [image(300, 520), image(300, 520), image(530, 290)]
    network = Bounded(330 * 300)
    answers = by_place(predictor(network, batch_size=2), pictures)
    assert len(caplog.records) == 1
    assert network.passes[0][0] == 2 and sum(shape[2:] == (304, 520) for shape in network.passes) == 2
    for picture, answer in zip(pictures, answers, strict=True):
        (alone,) = by_place(predictor(Levels()), [picture])
        assert np.array_equal(answer.prediction.mask, alone.prediction.mask)
        assert answer.confidence == pytest.approx(alone.confidence, abs=1e-5)


def test_a_device_that_holds_no_part_of_an_image_still_answers_its_neighbours():
    large, small = by_place(predictor(Bounded(32 * 32)), [image(64, 64), image(32, 32)])
    with pytest.raises(MemoryError, match="does not hold an image of 64x64 pixels"):
        large.prediction  # noqa: B018  # a property that raises
    (alone,) = by_place(predictor(Levels()), [image(32, 32)])
    assert small.prediction.mask.shape == alone.prediction.mask.shape


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"predict": {"overlap": 4}}, "there are no tiles"),
        ({"predict": {"tile": (8, 16), "overlap": 8}}, "tiles would not advance"),
        ({"stream_above_pixels": 100}, "needs predict.tile"),
        ({"stream_above_pixels": 1000}, "none would be streamed"),
        (
            {"stream_above_pixels": 100, "predict": {"tile": (8, 8)}, "metrics": {"boundary_px": [1]}},
            "cannot be combined with metrics",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, sentence):
    values = {
        "corpus": {"images": "/unused", "layout": "camvid"}, "checkpoint": "/unused", "output": "/unused",
        "max_pixels": 1000, "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=sentence):
        parse(SegmentConfig, values | settings, where="test")


def test_a_fused_enlargement_over_tiles_equals_the_whole_where_tiles_meet_the_grid(tiny_checkpoint):
    """Without overlap each tile is enlarged on its own; a tile is an image of its own size to the network."""
    ready = checkpoint.load(tiny_checkpoint)
    picture = image(64, 96)
    tiled, *_ = by_place(Predictor(ready.model, PredictConfig(tile=(32, 96))), [picture])
    plain = Predictor(ready.model, PredictConfig())
    halves = by_place(plain, [picture[:32], picture[32:]])
    assert np.array_equal(tiled.prediction.mask, np.concatenate([half.prediction.mask for half in halves]))
    assert tiled.entropy == pytest.approx((halves[0].entropy + halves[1].entropy) / 2, abs=1e-5)
