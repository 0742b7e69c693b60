"""The dense CRF on the CPU equals pydensecrf, and approximates the sum over all pixel pairs."""

import numpy as np
import pytest

from pipeline.config import CrfConfig
from pipeline.crf import dense_crf
from pipeline.synthetic.street import draw_scene
from tests.bench import crf_fidelity
from tests.brute_force import brute_force
from tests.crf_cases import (
    SHARP,
    SOFT,
    energies_of,
    noisy_probs,
    original,
    photograph,
    position_and_colour,
    pydensecrf,
    smooth_probs,
    street_scene,
)

SETTINGS = pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])


def assert_equal_to_the_original(
    ours: np.ndarray, theirs: np.ndarray, probs: np.ndarray, within: float = 1e-5, changed: float = 0.01
) -> None:
    """The bars of an exact mode: labels on 99.999 % of the pixels, marginals within 1e-5."""
    assert (ours.argmax(0) != probs.argmax(0)).mean() > changed  # it did something
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.99999
    assert np.abs(ours - theirs).max() <= within


@SETTINGS
def test_it_equals_pydensecrf_on_a_procedural_scene(cfg):
    image, probs = street_scene()
    # Flat colours put thousands of pixels on one vertex: the original's own float32 sums are 1e-5 off those in float64 here.
    assert_equal_to_the_original(dense_crf(probs, image, cfg), pydensecrf(probs, image, cfg), probs, within=2e-5)


@SETTINGS
@pytest.mark.parametrize("number", [0, 50, 100])
def test_it_equals_pydensecrf_on_photographs(camvid, cfg, number):
    image, label = photograph(camvid, number)
    probs = noisy_probs(label, 11)
    assert_equal_to_the_original(dense_crf(probs, image, cfg, num_threads=2), pydensecrf(probs, image, cfg), probs)


@SETTINGS
@pytest.mark.parametrize("num_classes", [2, 5, 8, 21, 150])
def test_it_equals_pydensecrf_with_few_and_with_many_classes(camvid, cfg, num_classes):
    image, label = photograph(camvid, 7)
    image, label = image[100:220, 60:262], label[100:220, 60:262].astype(int)
    probs = noisy_probs(label * 13 % num_classes, num_classes)
    assert_equal_to_the_original(dense_crf(probs, image, cfg), pydensecrf(probs, image, cfg), probs)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (5, 5), (33, 131), (65, 3)])
def test_it_equals_pydensecrf_at_odd_sizes_and_in_the_dark(size):
    # Not a multiple of 4 pixels: the original lets the missing ones touch the lattice at features 0.
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size).transpose(2, 0, 1).astype(np.float32)
    image = rng.integers(0, 30, (*size, 3), np.uint8)
    ours, theirs = dense_crf(probs, image, SOFT, num_threads=3), pydensecrf(probs, image, SOFT)
    assert np.abs(ours - theirs).max() <= 1e-5


def test_the_lattice_approximates_the_sum_over_all_pairs():
    image, label = draw_scene(np.random.default_rng(5), 24, 32)
    probs = noisy_probs(label // 8, 5)
    cfg = CrfConfig(iterations=5, smooth_weight=2, smooth_px=2, colour_weight=3, colour_px=8, colour_levels=30)
    position = position_and_colour(image, cfg.smooth_px, 1)[:, :2]
    kernels = [(cfg.smooth_weight, position), (cfg.colour_weight, position_and_colour(image, 8, 30))]
    exact = brute_force(energies_of(probs).T, kernels, cfg.iterations).T.reshape(probs.shape)
    ours = dense_crf(probs, image, cfg)
    # The lattice's kernel is piecewise linear, not Gaussian: a few pixels near ties may differ.
    assert (ours.argmax(0) == exact.argmax(0)).mean() > 0.96
    assert np.abs(ours - exact).mean() < 0.03


def test_brute_force_on_two_pixels_equals_the_formula():
    unary = np.array([[0.0, 1.0], [1.0, 0.0]])
    features = np.array([[0.0], [1.0]])
    near = np.exp(-0.5)
    q = np.exp(-unary) / np.exp(-unary).sum(1, keepdims=True)
    scores = -unary + 2.0 * (np.array([[1, near], [near, 1]]) @ q) / (1 + near)
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert brute_force(unary, [(2.0, features)], 1) == pytest.approx(expected)


@SETTINGS
@pytest.mark.parametrize(("num_classes", "number"), [(5, 20), (11, 40), (19, 60), (150, 80)])
def test_it_equals_pydensecrf_on_smooth_scores(camvid, cfg, num_classes, number):
    image, label = photograph(camvid, number)
    image, label = image[60:300, 100:420], label[60:300, 100:420].astype(int)
    probs = smooth_probs(label * 13 % num_classes, num_classes)
    ours, theirs = dense_crf(probs, image, cfg, num_threads=2), pydensecrf(probs, image, cfg)
    assert_equal_to_the_original(ours, theirs, probs, changed=0.001)


@SETTINGS
@pytest.mark.parametrize("kind", crf_fidelity.KINDS)
def test_it_is_as_near_to_float64_as_the_original_is(camvid, cfg, kind):
    """Whatever the scores are: the distance of two float32 programs says nothing of which of them is right."""
    image, label = photograph(camvid, 90)
    image, label = image[100:200, 100:260], label[100:200, 100:260]
    energies = energies_of(crf_fidelity.scores(kind, label, 3))
    exact = crf_fidelity.in_float64(energies, image, cfg)
    ours = crf_fidelity.crf_of(energies, image, cfg).inference(cfg.iterations)
    theirs = original(energies, image, cfg)
    assert (ours.argmax(0) == exact.argmax(0)).mean() >= 0.99999
    assert np.abs(ours - exact).mean() <= 1.5 * np.abs(theirs - exact).mean()
    assert np.abs(ours - exact).max() <= 3e-5
