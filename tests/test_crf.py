import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.config import CrfConfig
from pipeline.corpus.street import draw_scene
from pipeline.crf import dense_crf, kernel_features
from pipeline.crf.brute_force import brute_force
from pipeline.crf.lattice import build_lattice

# ANCHORS of the literature: DeepLab's style of setting and pydensecrf's example.
SHARP = CrfConfig(iterations=10, smooth_weight=3, smooth_px=3, colour_weight=4, colour_px=67, colour_levels=3)
SOFT = CrfConfig(iterations=5, smooth_weight=3, smooth_px=3, colour_weight=10, colour_px=80, colour_levels=13)


def noisy_probs(label: np.ndarray, num_classes: int, seed: int = 0) -> np.ndarray:
    """(C, H, W): a smooth guess of the label with blocks of noise, as a coarse network gives it."""
    rng = np.random.default_rng(seed)
    height, width = label.shape
    coarse = (height // 8 + 1, width // 8 + 1)
    noise = np.kron(rng.normal(0, 0.7, (num_classes, *coarse)), np.ones((1, 8, 8)))[:, :height, :width]
    logits = 2.0 * (np.arange(num_classes)[:, None, None] == label) + noise
    raised = np.exp(logits)
    return (raised / raised.sum(axis=0)).astype(np.float32)


def pydensecrf(probs: np.ndarray, image: np.ndarray, cfg: CrfConfig) -> np.ndarray:
    oracle = pytest.importorskip("pydensecrf.densecrf")
    num_classes, height, width = probs.shape
    crf = oracle.DenseCRF2D(width, height, num_classes)
    energy = -np.log(np.clip(probs, 1e-5, 1)).reshape(num_classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(energy))
    crf.addPairwiseGaussian(sxy=cfg.smooth_px, compat=cfg.smooth_weight)
    crf.addPairwiseBilateral(sxy=cfg.colour_px, srgb=cfg.colour_levels, rgbim=image.copy(), compat=cfg.colour_weight)
    return np.array(crf.inference(cfg.iterations)).reshape(probs.shape)


@pytest.fixture(scope="module")
def scene():
    image, label = draw_scene(np.random.default_rng(3), 96, 160)
    return image, noisy_probs(label, 34)[[7, 8, 11, 21, 23, 24, 26]]


@pytest.fixture(scope="module")
def scene_probs(scene):
    image, probs = scene
    return image, probs / probs.sum(axis=0)


@pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])
def test_labels_equal_pydensecrf_on_a_procedural_scene(scene_probs, cfg):
    image, probs = scene_probs
    ours, theirs = dense_crf(probs, image, cfg), pydensecrf(probs, image, cfg)
    assert (ours.argmax(0) != probs.argmax(0)).mean() > 0.01  # it did something
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])
def test_labels_agree_with_pydensecrf_on_a_photograph(camvid, cfg):
    with zipfile.ZipFile(camvid) as archive:
        name = next(n for n in archive.namelist() if n.startswith("images/val/"))
        image = np.array(Image.open(io.BytesIO(archive.read(name))))
        label = np.array(Image.open(io.BytesIO(archive.read(name.replace("images", "labels").replace("jpg", "png")))))
    probs = noisy_probs(label, 11)
    ours, theirs = dense_crf(probs, image, cfg, num_threads=2), pydensecrf(probs, image, cfg)
    assert (ours.argmax(0) != probs.argmax(0)).mean() > 0.01
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999


def test_the_lattice_approximates_the_sum_over_all_pairs():
    image, label = draw_scene(np.random.default_rng(5), 24, 32)
    probs = noisy_probs(label // 8, 5)
    cfg = CrfConfig(iterations=5, smooth_weight=2, smooth_px=2, colour_weight=3, colour_px=8, colour_levels=30)
    unary = -np.log(np.clip(probs, 1e-5, 1)).reshape(5, -1).T
    exact = brute_force(unary, kernel_features(image, cfg), cfg.iterations).T.reshape(probs.shape)
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


def test_barycentric_weights_sum_to_one_and_vertices_are_numbered_without_gaps():
    lattice = build_lattice(np.random.default_rng(0).normal(0, 3, (500, 5)).astype(np.float32))
    assert lattice.weight.sum(axis=1) == pytest.approx(np.ones(500), abs=1e-4)
    assert lattice.weight.min() > -1e-4
    assert np.unique(lattice.vertex).tolist() == list(range(lattice.num_vertices))


def test_neighbours_along_an_axis_point_back():
    lattice = build_lattice(np.random.default_rng(0).normal(0, 2, (300, 2)).astype(np.float32))
    for axis in lattice.neighbour:
        before, after = axis.T
        there = after < lattice.num_vertices
        assert (before[after[there]] == np.flatnonzero(there)).all()


@pytest.mark.parametrize("change", [{"iterations": 0}, {"smooth_weight": 0.0, "colour_weight": 0.0}])
def test_without_steps_or_weights_the_input_comes_back(scene_probs, change):
    image, probs = scene_probs
    assert np.array_equal(dense_crf(probs, image, SOFT.model_copy(update=change)), probs)


def test_one_class_stays_certain():
    image = np.zeros((4, 5, 3), np.uint8)
    assert (dense_crf(np.ones((1, 4, 5), np.float32), image, SOFT) == 1).all()


def test_permuting_the_classes_permutes_the_result(scene_probs):
    image, probs = scene_probs
    order = np.random.default_rng(1).permutation(len(probs))
    assert dense_crf(probs[order], image, SOFT) == pytest.approx(dense_crf(probs, image, SOFT)[order], abs=1e-5)


def test_the_number_of_threads_does_not_change_the_labels(scene_probs):
    image, probs = scene_probs
    one, three = dense_crf(probs, image, SOFT), dense_crf(probs, image, SOFT, num_threads=3)
    assert one == pytest.approx(three, abs=1e-5)
    assert (one.argmax(0) == three.argmax(0)).all()


def test_results_are_probabilities(scene_probs):
    image, probs = scene_probs
    result = dense_crf(probs, image, SHARP)
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.sum(axis=0) == pytest.approx(np.ones(image.shape[:2]), abs=1e-5)


@pytest.mark.parametrize(
    ("probs", "image", "sentence"),
    [
        (np.full((2, 4, 4), np.nan, np.float32), np.zeros((4, 4, 3), np.uint8), "NaN"),
        (np.full((2, 4, 4), -1, np.float32), np.zeros((4, 4, 3), np.uint8), "negative"),
        (np.ones((2, 4, 4), np.float32), np.zeros((4, 5, 3), np.uint8), r"\(2, 4, 4\).*\(4, 5, 3\)"),
        (np.ones((2, 4, 4), np.float32), np.zeros((4, 4, 3), np.float32), "uint8"),
    ],
)
def test_what_is_no_probability_or_no_image_is_refused(probs, image, sentence):
    with pytest.raises(ValueError, match=sentence):
        dense_crf(probs, image, SOFT)


def test_widths_too_small_for_the_lattice_keys_are_refused():
    features = np.random.default_rng(0).uniform(0, 1e5, (50, 5)).astype(np.float32)
    with pytest.raises(ValueError, match="widths are too small"):
        build_lattice(features)
