"""The `DenseCRF` class: kernels, compatibilities, normalisations and unaries equal those of pydensecrf."""

import tracemalloc

import numpy as np
import pytest

from pipeline.crf import DenseCRF
from pipeline.crf.cpu.threads import _kept, _lock
from pipeline.synthetic.street import draw_scene
from tests.brute_force import brute_force
from tests.crf_cases import energies_of, noisy_probs, position_and_colour, street_scene

NORMALISATIONS = ["symmetric", "before", "after", "none"]


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
def test_normalisations_and_compatibilities_are_those_of_pydensecrf(normalisation, kind):
    oracle = pytest.importorskip("pydensecrf.densecrf")
    image, probs = street_scene()
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


def test_any_number_of_kernels_with_any_features():
    oracle = pytest.importorskip("pydensecrf.densecrf")
    image, probs = street_scene()
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
def test_labels_give_the_unary_of_pydensecrf(unsure):
    utils = pytest.importorskip("pydensecrf.utils")
    label = street_scene()[1].argmax(0) + (0 if unsure is None else 1)
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


def test_the_number_of_threads_changes_nothing_in_a_kernel_of_another_kind():
    image, probs = street_scene()
    crf = DenseCRF.from_probs(probs)
    crf.add_bilateral(image, 30, 10, -3 * np.eye(len(probs)), "after")
    assert np.array_equal(crf.inference(3, num_threads=3), crf.inference(3))


def test_a_full_compatibility_takes_two_tables_of_the_pixels_and_the_result():
    """What lies between scores and marginals is made for some pixels at a time."""
    probs = np.random.default_rng(0).dirichlet(np.ones(19), (256, 512)).transpose(2, 0, 1).astype(np.float32)
    crf = DenseCRF.from_probs(probs)
    crf.add_gaussian(3, -3 * np.eye(19), "after")
    crf.inference(1)  # compiles
    with _lock:
        _kept.clear()  # the lattice's memory is counted too
    tracemalloc.start()
    try:
        crf.inference(2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    table = 256 * 512 * 24 * 4  # 19 classes in three vectors
    assert 2 * table < peak < 4 * table


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


def test_halving_colours_and_their_width_leaves_the_labels():
    image, probs = street_scene()
    even = image - image % 2
    labels = []
    for colours, levels in ((even, 10), (even // 2, 5)):
        crf = DenseCRF.from_probs(probs)
        crf.add_bilateral(colours, px=(30, 15), levels=levels, compat=3)
        labels.append(crf.inference(4).argmax(0))
    assert (labels[0] == labels[1]).all()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 50])
def test_a_number_that_is_unfit_is_found_wherever_it_stands(size):
    for value in (np.nan, np.inf, -np.inf, -1e-3):
        for place in range(size):
            probs = np.full((1, 1, size), 0.5, np.float32)
            probs[..., place] = value
            with pytest.raises(ValueError, match="probs hold NaN, infinity or negative values"):
                DenseCRF.from_probs(probs).inference(1, num_threads=2)
    DenseCRF.from_probs(np.zeros((1, 1, size), np.float32)).inference(1)
