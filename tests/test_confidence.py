"""The confidence of each pixel equals the largest probability of an independent softmax, within half a level of 1/255."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import PredictConfig
from pipeline.models import Network
from pipeline.predict import Predictor, shift_and_stitch, slide_window
from pipeline.predict.modes import sub_windows
from pipeline.predict.tiles import Grid, ramps
from pipeline.predict.upsample_confidence import enlarge_confidence
from tests.test_imaging import ENLARGED, smooth_scores
from tests.test_lineage import Constant, Tiny, build

CLASSES = 6
SIZE = (45, 70)
HALF_A_LEVEL = 0.5 / 255 + 1e-4


class Small(Network):
    """Random weights; logits on a grid of stride 4 that are enlarged, or at every pixel."""

    mean, std = (0.45,) * 3, (0.25,) * 3

    def __init__(self, seed=0, stride=4):
        super().__init__()
        torch.manual_seed(seed)
        self.min_size = self.multiple_of = stride
        self.enlarges = stride > 1
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride, 2), nn.ReLU(), nn.Conv2d(8, CLASSES, 3, padding=1)
        ).eval()  # fmt: skip
        self.layers[-1].weight.data.mul_(8)

    def coarse(self, x):
        return self.layers(x)

    def forward(self, x):
        return [F.interpolate(self.layers(x), x.shape[-2:], mode="bilinear") if self.enlarges else self.layers(x)]


@pytest.fixture(scope="module")
def picture():
    rng = torch.Generator().manual_seed(4)
    coarse = torch.rand(1, 3, 9, 14, generator=rng) * 255
    smooth = F.interpolate(coarse, SIZE, mode="bicubic") + torch.randn(1, 3, *SIZE, generator=rng) * 8
    return smooth[0].permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()


def view(network, picture, scale=1.0, mirrored=False):
    """Input of a pass, its pixels at a scale, and their size: padded with zeros to a legal size."""
    x = network.normalise(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
    if scale != 1:
        size = [round(n * scale) for n in picture.shape[:2]]
        x = F.interpolate(x, size, mode="bilinear", antialias=scale < 1)
    height, width = x.shape[-2:]
    x = x.flip(-1) if mirrored else x
    return F.pad(x, (0, -width % network.multiple_of, 0, -height % network.multiple_of)), (height, width)


@torch.inference_mode()
def softmax_of(network, picture, scale=1.0, mirrored=False, logits=lambda network, x: network(x)[-1]):
    """(C, H, W) of one pass, by the network's own logits and torch's softmax."""
    x, (height, width) = view(network, picture, scale, mirrored)
    found = logits(network, x)[..., :height, :width]
    found = found.flip(-1) if mirrored else found
    if scale != 1:
        found = F.interpolate(found, picture.shape[:2], mode="bilinear", antialias=scale > 1)
    return found[0].softmax(dim=0)


def blended(network, picture, tile, overlap):
    """Softmax of each tile alone, summed with its weights."""
    grid, total = Grid.over(SIZE, tile, overlap), torch.zeros(CLASSES, *SIZE)
    for (top, bottom), down in zip(grid.rows, ramps(grid.rows), strict=True):
        for (left, right), across in zip(grid.columns, ramps(grid.columns), strict=True):
            probs = softmax_of(network, picture[top:bottom, left:right])
            total[:, top:bottom, left:right] += probs * torch.from_numpy(down[:, None] * across[None])
    return total


def many(network, picture):
    return sum(softmax_of(network, picture, scale, flip) for scale in (0.5, 1, 1.5) for flip in (False, True)) / 6


def check(predictor, picture, probs):
    """Masks and maps, of whole images and of strips, against probabilities (C, H, W)."""
    (found,) = predictor.masks([picture])
    strips = list(
        predictor.strips(Grid.over(SIZE, predictor.cfg.tile, predictor.cfg.overlap), lambda a, b: picture[a:b])
    )
    rows = [band for _, band in strips]
    for mask, sure in ((found.mask, found.confidence_map), [np.concatenate(part) for part in zip(*rows, strict=True)]):
        assert sure.dtype == np.uint8 and sure.shape == mask.shape == SIZE
        assert np.abs(sure / 255 - probs.amax(0).numpy()).max() <= HALF_A_LEVEL
        taken = probs.gather(0, torch.from_numpy(mask).long()[None])[0]  # the confidence is that of the mask's class
        assert np.abs(sure / 255 - taken.numpy()).max() <= HALF_A_LEVEL
    assert len(np.unique(found.confidence_map)) > 50


@pytest.mark.parametrize("stride", [4, 1])
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, softmax_of),
        ({"flip": True, "scales": (0.5, 1, 1.5)}, many),
        ({"tile": (24, 32), "overlap": 8}, lambda network, picture: blended(network, picture, (24, 32), 8)),
        ({"tile": (15, 14)}, lambda network, picture: blended(network, picture, (15, 14), 0)),
    ],
    ids=["whole", "scales and flip", "overlapping tiles", "tiles side by side"],
)
def test_the_map_holds_the_largest_probability_of_each_pixel(stride, settings, expected, picture):
    network = Small(stride=stride)
    predictor = Predictor(network, PredictConfig(**settings), num_threads=2, confidence_map=True)
    assert predictor.fuses == (stride == 4 and "scales" not in settings)
    check(predictor, picture, expected(network, picture))


def test_an_ensembles_map_is_of_the_mean_probability(picture):
    networks = [Small(seed=1), Small(seed=2, stride=1)]
    predictor = Predictor(networks[0], PredictConfig(), others=networks[1:], confidence_map=True)
    check(predictor, picture, sum(softmax_of(network, picture) for network in networks) / 2)


@pytest.mark.parametrize("mode", ["shift_and_stitch", "sliding_window", "sub_windows"])
def test_the_other_modes_have_maps_of_their_own_probabilities(mode, picture):
    torch.manual_seed(0)
    classifier = {"name": "classifier", "backbone": "alexnet", "padding": "valid", "fc_channels": 16}
    network, logits = {
        "shift_and_stitch": (Tiny(False), shift_and_stitch),
        "sliding_window": (build(CLASSES, **classifier), slide_window),
        "sub_windows": (Constant(), lambda network, x: sub_windows(network, x, (1, 0.5))),
    }[mode]  # fmt: skip
    if mode == "sub_windows":
        picture = 24 + picture // 64  # its scores are levels: they may differ little
    predictor = Predictor(network, PredictConfig(mode=mode, windows=(1, 0.5)), confidence_map=True)
    (found,) = predictor.masks([picture])
    probs = softmax_of(network, picture, logits=logits)
    assert np.abs(found.confidence_map / 255 - probs.amax(0).numpy()).max() <= HALF_A_LEVEL


@pytest.mark.parametrize("threads", [1, 3])
@ENLARGED
def test_the_confidence_of_enlarged_logits_is_that_of_interpolate_and_softmax(small, full, size, threads):
    rng = torch.Generator().manual_seed(1)
    smooth, random = smooth_scores(19, *small), torch.randn(1, 19, *small, generator=rng)
    steep = torch.randn(1, 150, *small, generator=rng) * 12  # most classes are negligible
    for scores in (smooth, random, steep):
        large = F.interpolate(scores, full, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]]
        found = enlarge_confidence(scores[0].numpy(), full, size, threads)
        assert found.shape == size
        assert np.abs(found - 255 * large.softmax(0).amax(0).numpy()).max() <= 0.5 + 1 / 200


def test_scores_that_are_not_finite_have_no_confidence():
    network = Small()
    network.layers[-1].bias.data[0] = float("nan")
    (found,) = Predictor(network, PredictConfig(), confidence_map=True).masks([np.zeros((8, 8, 3), np.uint8)])
    assert np.isnan(found.entropy) and not found.confidence_map.any()


def test_a_map_is_made_only_where_asked_for(picture):
    (found,) = Predictor(Small(), PredictConfig()).masks([picture])
    assert found.confidence_map is None
