import numpy as np
import pytest

from pipeline.config import CrfConfig
from pipeline.corpus.street import draw_scene
from pipeline.crf import DenseCRF, dense_crf
from pipeline.crf.brute_force import brute_force
from pipeline.crf.lattice import build_lattice
from pipeline.crf.team import Team
from tests.crf_cases import SHARP, SOFT, energies_of, noisy_probs, photograph, pydensecrf

SETTINGS = pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])
NORMALISATIONS = ["symmetric", "before", "after", "none"]


@pytest.fixture(scope="module")
def scene():
    image, label = draw_scene(np.random.default_rng(3), 96, 160)
    return image, noisy_probs(label, 34)[[7, 8, 11, 21, 23, 24, 26]]


@pytest.fixture(scope="module")
def scene_probs(scene):
    image, probs = scene
    return image, probs / probs.sum(axis=0)


def position_and_colour(image: np.ndarray, px: float, levels: float) -> np.ndarray:
    """(P, 5) features of the appearance kernel."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].reshape(2, -1).astype(np.float32)
    colour = image.reshape(-1, 3).astype(np.float32) / np.float32(levels)
    return np.column_stack([np.column_stack([x, y]) / np.float32(px), colour])


def assert_equal_to_the_original(ours: np.ndarray, theirs: np.ndarray, probs: np.ndarray, within: float = 1e-5) -> None:
    """The bars of an exact mode: labels on 99.999 % of the pixels, marginals within 1e-5."""
    assert (ours.argmax(0) != probs.argmax(0)).mean() > 0.01  # it did something
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.99999
    assert np.abs(ours - theirs).max() <= within


@SETTINGS
def test_it_equals_pydensecrf_on_a_procedural_scene(scene_probs, cfg):
    image, probs = scene_probs
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


@pytest.mark.parametrize("normalisation", NORMALISATIONS[:3])
def test_a_compatibility_that_is_not_symmetric_acts_as_in_the_sum_over_all_pairs(normalisation):
    image, label = draw_scene(np.random.default_rng(5), 24, 32)
    probs = noisy_probs(label // 8, 5)
    compat = np.random.default_rng(0).normal(0, 2, (5, 5)) - 2 * np.eye(5)
    features = position_and_colour(image, 8, 30)
    exact = brute_force(energies_of(probs).T, [(compat, features)], 3, normalisation).T.reshape(probs.shape)
    crf = DenseCRF(energies_of(probs).reshape(probs.shape))
    crf.add_kernel(features, compat, normalisation)
    right = (crf.inference(3).argmax(0) == exact.argmax(0)).mean()
    crf = DenseCRF(energies_of(probs).reshape(probs.shape))
    crf.add_kernel(features, compat.T, normalisation)
    turned = (crf.inference(3).argmax(0) == exact.argmax(0)).mean()
    assert right > 0.96 > turned


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", ["potts", "diagonal", "matrix"])
def test_normalisations_and_compatibilities_are_those_of_pydensecrf(scene_probs, normalisation, kind):
    oracle = pytest.importorskip("pydensecrf.densecrf")
    image, probs = scene_probs
    num_classes, height, width = probs.shape
    rng = np.random.default_rng(0)
    # Unnormalised responses reach hundreds: weights are small enough that no pixel is a matter of rounding.
    scale = 0.01 if normalisation == "none" else 1
    symmetric = rng.normal(0, 1, (num_classes, num_classes))
    compat = {
        "potts": np.float32(2 * scale),
        "diagonal": (-scale * rng.uniform(1, 3, num_classes)).astype(np.float32),
        "matrix": (scale * (symmetric + symmetric.T - 2 * np.eye(num_classes))).astype(np.float32),
    }[kind]
    named = getattr(oracle, {"none": "NO_NORMALIZATION"}.get(normalisation, f"NORMALIZE_{normalisation.upper()}"))
    reference = oracle.DenseCRF2D(width, height, num_classes)
    reference.setUnaryEnergy(energies_of(probs))
    theirs = float(compat) if kind == "potts" else compat
    reference.addPairwiseGaussian((4, 2), theirs, normalization=named)
    reference.addPairwiseBilateral((20, 30), (9, 10, 11), image.copy(), theirs, normalization=named)
    crf = DenseCRF(energies_of(probs).reshape(probs.shape))
    crf.add_gaussian((2, 4), compat, normalisation)
    crf.add_bilateral(image, (30, 20), (9, 10, 11), compat, normalisation)
    expected = np.array(reference.inference(3)).reshape(probs.shape)
    assert np.abs(expected - probs).max() > 0.1
    assert np.abs(crf.inference(3, num_threads=2) - expected).max() <= 1e-5


def test_any_number_of_kernels_with_any_features(scene_probs):
    oracle = pytest.importorskip("pydensecrf.densecrf")
    image, probs = scene_probs
    features = [
        position_and_colour(image, 20, 12),
        position_and_colour(image, 5, 40)[:, :4],
        position_and_colour(image, 1, 9)[:, 2:3],
    ]
    reference = oracle.DenseCRF(probs[0].size, len(probs))
    reference.setUnaryEnergy(energies_of(probs))
    crf = DenseCRF.from_probs(probs)
    for weight, points in enumerate(features, start=1):
        reference.addPairwiseEnergy(np.ascontiguousarray(points.T), float(weight))
        crf.add_kernel(points, weight)
    expected = np.array(reference.inference(4)).reshape(probs.shape)
    assert np.abs(crf.inference(4, num_threads=2) - expected).max() <= 1e-5


def test_a_crf_without_kernels_normalises_its_unary():
    energies = np.random.default_rng(0).normal(0, 3, (4, 5, 6)).astype(np.float32)
    expected = np.exp(-energies) / np.exp(-energies).sum(axis=0)
    assert DenseCRF(energies).inference(3) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("unsure", [None, 0])
def test_labels_give_the_unary_of_pydensecrf(scene_probs, unsure):
    utils = pytest.importorskip("pydensecrf.utils")
    label = scene_probs[1].argmax(0) + (0 if unsure is None else 1)
    label[:10] = 0
    expected = utils.unary_from_labels(label, 7, 0.6, zero_unsure=unsure == 0)
    expected = np.exp(-expected).reshape(7, *label.shape)
    assert DenseCRF.from_labels(label, 7, 0.6, unsure).inference(0) == pytest.approx(
        expected / expected.sum(0), rel=1e-5
    )


def test_an_ignored_label_outside_the_classes_is_unsure():
    marginals = DenseCRF.from_labels(np.array([[1, 255]]), 4, 0.7, unsure=255).inference(0)
    assert marginals[:, 0, 0] == pytest.approx([0.1, 0.7, 0.1, 0.1])
    assert marginals[:, 0, 1] == pytest.approx([0.25] * 4)


def test_brute_force_on_two_pixels_equals_the_formula():
    unary = np.array([[0.0, 1.0], [1.0, 0.0]])
    features = np.array([[0.0], [1.0]])
    near = np.exp(-0.5)
    q = np.exp(-unary) / np.exp(-unary).sum(1, keepdims=True)
    scores = -unary + 2.0 * (np.array([[1, near], [near, 1]]) @ q) / (1 + near)
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert brute_force(unary, [(2.0, features)], 1) == pytest.approx(expected)


@pytest.fixture
def small_lattice():
    features = np.zeros((5, 504), np.float32)
    features[:, :500] = np.random.default_rng(0).normal(0, 3, (5, 500))
    return lambda num_threads: build_lattice(Team(num_threads), [features, features[:2]], 500)


def test_barycentric_weights_sum_to_one_and_rows_are_numbered_without_gaps(small_lattice):
    lattice = small_lattice(1)
    for columns in (slice(0, 6), slice(6, 9)):
        assert lattice.weight[:, columns].sum(axis=1) == pytest.approx(np.ones(500), abs=1e-4)
    assert lattice.weight.min() > -1e-4
    assert np.unique(lattice.vertex).tolist() == list(range(lattice.num_rows))


def test_a_row_is_in_at_most_one_chain_of_an_axis(small_lattice):
    for sweep in small_lattice(1).sweeps:
        rows = np.where(sweep.rows < 0, ~sweep.rows, sweep.rows)[:-1]
        assert len(np.unique(rows)) == len(rows)
        assert [stop for _, stop in sweep.parts][-1] == len(rows)


@pytest.mark.parametrize("change", [{"iterations": 0}, {"smooth_weight": 0.0, "colour_weight": 0.0}])
def test_without_steps_or_weights_the_input_comes_back(scene_probs, change):
    image, probs = scene_probs
    assert np.array_equal(dense_crf(probs, image, SOFT.model_copy(update=change)), probs)


def test_one_class_stays_certain():
    image = np.zeros((4, 5, 3), np.uint8)
    assert (dense_crf(np.ones((1, 4, 5), np.float32), image, SOFT) == 1).all()


def test_on_a_constant_image_every_pixel_of_constant_scores_stays_equal():
    probs = np.broadcast_to(np.array([0.5, 0.3, 0.2], np.float32)[:, None, None], (3, 40, 50))
    result = dense_crf(probs, np.full((40, 50, 3), 90, np.uint8), SOFT)
    assert (result.argmax(0) == 0).all()
    assert result[0].min() > 0.5  # neighbours agree: it can only become surer
    assert result[:, 20, 25].sum() == pytest.approx(1)


def test_on_a_constant_image_a_lone_pixel_is_outvoted():
    probs = np.full((2, 40, 50), 0.3, np.float32)
    probs[0] = 0.7
    probs[:, 20, 25] = 0.4, 0.6
    assert (dense_crf(probs, np.full((40, 50, 3), 90, np.uint8), SOFT).argmax(0) == 0).all()


def test_permuting_the_classes_permutes_the_result(scene_probs):
    image, probs = scene_probs
    order = np.random.default_rng(1).permutation(len(probs))
    assert dense_crf(probs[order], image, SOFT) == pytest.approx(dense_crf(probs, image, SOFT)[order], abs=1e-5)


def test_halving_colours_and_their_width_leaves_the_labels(scene_probs):
    image, probs = scene_probs
    even = image - image % 2
    labels = []
    for colours, levels in ((even, 10), (even // 2, 5)):
        crf = DenseCRF.from_probs(probs)
        crf.add_bilateral(colours, px=(30, 15), levels=levels, compat=3)
        labels.append(crf.inference(4).argmax(0))
    assert (labels[0] == labels[1]).all()


def test_scaling_image_and_widths_together_leaves_the_labels():
    image, label = draw_scene(np.random.default_rng(3), 48, 80)
    probs = noisy_probs(label // 5, 7)
    cfg = CrfConfig(iterations=4, smooth_weight=2, smooth_px=3, colour_weight=4, colour_px=12, colour_levels=12)
    large = cfg.model_copy(update={"smooth_px": 6.0, "colour_px": 24.0})
    small = dense_crf(probs, image, cfg).argmax(0)
    twice = dense_crf(probs.repeat(2, 1).repeat(2, 2), image.repeat(2, 0).repeat(2, 1), large).argmax(0)
    # Each pixel became four, half a pixel off its old place: only pixels near ties may differ.
    assert (twice[::2, ::2] == small).mean() > 0.98


@pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])
def test_the_number_of_threads_changes_nothing(cfg):
    image, label = draw_scene(np.random.default_rng(3), 200, 330)
    probs = noisy_probs(label // 5, 7)
    one = dense_crf(probs, image, cfg)
    for num_threads in (2, 3, 8):
        assert np.array_equal(dense_crf(probs, image, cfg, num_threads), one)


def test_the_number_of_threads_changes_nothing_in_a_kernel_of_another_kind(scene_probs):
    image, probs = scene_probs
    crf = DenseCRF.from_probs(probs)
    crf.add_bilateral(image, 30, 10, -3 * np.eye(len(probs)), "after")
    assert np.array_equal(crf.inference(3, num_threads=3), crf.inference(3))


def test_results_are_probabilities(scene_probs):
    image, probs = scene_probs
    result = dense_crf(probs, image, SHARP)
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.sum(axis=0) == pytest.approx(np.ones(image.shape[:2]), abs=1e-5)


def test_certain_scores_and_absent_classes_are_taken():
    probs = np.zeros((4, 30, 40), np.float32)
    probs[0, :, :20], probs[2, :, 20:] = 1, 1
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, 20:] = 200
    assert (dense_crf(probs, image, SHARP).argmax(0) == probs.argmax(0)).all()


@pytest.mark.parametrize(
    ("probs", "image", "sentence"),
    [
        (np.full((2, 4, 4), np.nan, np.float32), np.zeros((4, 4, 3), np.uint8), "NaN"),
        (np.full((2, 4, 4), np.inf, np.float32), np.zeros((4, 4, 3), np.uint8), "infinity"),
        (np.full((2, 4, 4), -1, np.float32), np.zeros((4, 4, 3), np.uint8), "negative"),
        (np.ones((2, 4, 4), np.float32), np.zeros((4, 5, 3), np.uint8), r"\(2, 4, 4\).*\(4, 5, 3\)"),
        (np.ones((2, 4, 4), np.float32), np.zeros((4, 4, 3), np.float32), "uint8"),
    ],
)
@pytest.mark.parametrize("iterations", [0, 5])
def test_what_is_no_probability_or_no_image_is_refused(probs, image, sentence, iterations):
    with pytest.raises(ValueError, match=sentence):
        dense_crf(probs, image, SOFT.model_copy(update={"iterations": iterations}))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda crf: DenseCRF(np.zeros((3, 4), np.float32)), r"energies are \(3, 4\); they must be \(C, H, W\)"),
        (lambda crf: DenseCRF(np.full((3, 4, 5), np.nan, np.float32)).inference(1), "energies hold NaN"),
        (lambda crf: DenseCRF.from_labels(np.zeros((4, 5)), 3, 0.7), "labels are .* float64"),
        (lambda crf: DenseCRF.from_labels(np.full((4, 5), 3), 3, 0.7), "labels reach from 3 to 3"),
        (lambda crf: DenseCRF.from_labels(np.zeros((4, 5), int), 3, 1.0), "certainty is 1.0"),
        (lambda crf: crf.add_gaussian(0, 3), "px is 0"),
        (lambda crf: crf.add_gaussian((3, 4, 5), 3), r"px is \(3, 4, 5\)"),
        (lambda crf: crf.add_gaussian(3, np.ones(4)), r"the compatibility is \(4,\)"),
        (lambda crf: crf.add_gaussian(3, np.nan), "compatibility holds NaN"),
        (lambda crf: crf.add_gaussian(3, 3, "both"), "normalisation 'both' is none of symmetric, before, after, none"),
        (lambda crf: crf.add_kernel(np.zeros((2, 20)), 3), r"features are \(2, 20\); they must be \(20, d\)"),
        (lambda crf: crf.add_kernel(np.full((20, 2), np.nan), 3), "features hold NaN"),
        (lambda crf: crf.inference(-1), "iterations is -1"),
        (lambda crf: crf.inference(1, num_threads=0), "num_threads is 0"),
    ],
)
def test_what_a_crf_cannot_be_made_of_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(DenseCRF(np.zeros((3, 4, 5), np.float32)))


def test_widths_too_small_for_the_lattice_keys_are_refused():
    crf = DenseCRF(np.zeros((2, 5, 10), np.float32))
    crf.add_kernel(np.random.default_rng(0).uniform(0, 1e5, (50, 5)), 3)
    with pytest.raises(ValueError, match="widths are too small"):
        crf.inference(1)
