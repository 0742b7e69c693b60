"""Energies and compatibilities of any size give a result; widths near 0, and values that are not numbers, give a message."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.config import CrfConfig
from pipeline.crf import DenseCRF, dense_crf
from pipeline.crf.cpu.lattice import MOST_AXES
from pipeline.crf.gpu import dense_crf_batch, inference, sharpen, torch_steps
from pipeline.errors import UserError
from tests.brute_force import brute_force
from tests.conftest import ROOT
from tests.crf_cases import SOFT, energies_of, noisy_probs, position_and_colour, street_scene

CLASSES = pytest.mark.parametrize("num_classes", [3, 8, 11])


def scene(num_classes):
    """Image and energies (C, H, W) in steps of 2^-7, so that a number below 2^16 is added without rounding."""
    image, probs = street_scene()
    image, label = image[:30, :50], probs.argmax(0)[:30, :50]
    energies = energies_of(noisy_probs(label % num_classes, num_classes)).reshape(num_classes, *label.shape)
    return image, np.round(energies * 128) / np.float32(128)


def fused(energies, image):
    crf = DenseCRF(energies)
    crf.add_gaussian(3, 3)
    crf.add_bilateral(image, 20, 9, 4)
    return crf.inference(5)


def general(energies, image):
    crf = DenseCRF(energies)
    crf.add_gaussian(3, -3 * np.eye(len(energies)), "after")
    crf.add_bilateral(image, 20, 9, 4, "before")
    return crf.inference(5)


def without_kernels(energies, image):
    return DenseCRF(energies).inference(5)


def on_device(energies, image):
    source, pixels = torch.from_numpy(energies).flatten(1)[None], torch.from_numpy(image)[None]
    return (
        inference.infer(source, False, inference.kernels_of(pixels, SOFT), 5, torch_steps)[0]
        .view(energies.shape)
        .numpy()
    )


@pytest.mark.scorecard("input", 53)
@CLASSES
@pytest.mark.parametrize("added", [1.1e4, -(2.0**15)])
@pytest.mark.parametrize("run", [fused, general, without_kernels, on_device])
def test_a_number_added_to_all_energies_of_a_pixel_changes_nothing(run, num_classes, added):
    image, energies = scene(num_classes)
    moved = energies.copy()
    moved[:, :, 20:] += np.float32(added)
    expected = run(energies, image)
    assert np.abs(run(moved, image) - expected).max() <= 1e-5
    assert run is without_kernels or (expected.argmax(0) != energies.argmin(0)).any()


@pytest.mark.scorecard("input", 53)
@CLASSES
@pytest.mark.parametrize("run", [fused, general, without_kernels, on_device])
@pytest.mark.parametrize("size", [1e5, float(np.finfo(np.float32).max)])
def test_any_finite_energies_give_probabilities_and_leave_no_doubt(run, num_classes, size):
    image, energies = scene(num_classes)
    for sign in (1, -1):
        energies = np.full_like(energies, sign * size)
        energies[1] *= np.float32(0.5 if sign > 0 else 1)  # sure of class 1, or
        energies[0] *= np.float32(1 if sign > 0 else 0.5)  # of all but class 0
        result = run(energies, image)
        assert result.sum(axis=0) == pytest.approx(np.ones(image.shape[:2]), abs=1e-5)
        if sign > 0:
            assert (result[1] == 1).all()
        else:
            assert (result[0] == 0).all() and result[1:] == pytest.approx(1 / (num_classes - 1), abs=1e-5)
    mixed = np.where(np.arange(num_classes)[:, None, None] == 1, -size, size) * np.ones_like(energies)
    assert (run(mixed.astype(np.float32), image)[1] == 1).all()


@pytest.mark.scorecard("input", 53)
@CLASSES
@pytest.mark.parametrize("normalisation", ["symmetric", "before", "after", "none"])
@pytest.mark.parametrize("size", [100, 1e6, 1e30])
def test_large_penalties_between_classes_are_those_of_the_sum_over_all_pairs(num_classes, normalisation, size):
    _, energies = scene(num_classes)
    energies = energies[:, 4:28, 10:34]
    y, x = np.mgrid[:24, :24].reshape(2, -1)
    features = np.stack([x, y], axis=1) / 2
    compat = size * (1 - np.eye(num_classes))
    crf = DenseCRF(energies)
    crf.add_kernel(features, compat, normalisation)
    exact = brute_force(energies.reshape(num_classes, -1).T, [(compat, features)], 3, normalisation)
    ours = crf.inference(3)
    assert ours.sum(axis=0) == pytest.approx(np.ones((24, 24)), abs=1e-5)
    # The lattice's kernel is not quite the Gaussian: where both say yes or no, pixels along borders may differ.
    assert (ours.argmax(0).ravel() == exact.argmax(1)).mean() > 0.95


@pytest.mark.scorecard("input", 53)
def test_penalties_and_energies_beyond_1e4_are_those_of_pydensecrf():
    oracle = pytest.importorskip("pydensecrf.densecrf")
    image, energies = scene(3)
    for added, compat in ((0, 100 * (1 - np.eye(3))), (1.1e4, 100 * (1 - np.eye(3))), (1.1e4, 3.0)):
        moved = energies + np.float32(added)
        reference = oracle.DenseCRF2D(image.shape[1], image.shape[0], 3)
        reference.setUnaryEnergy(moved.reshape(3, -1).copy())
        theirs = float(compat) if np.ndim(compat) == 0 else compat.astype(np.float32)
        reference.addPairwiseGaussian(3, theirs)
        reference.addPairwiseBilateral(20, 9, image.copy(), theirs)
        crf = DenseCRF(moved)
        crf.add_gaussian(3, compat)
        crf.add_bilateral(image, 20, 9, compat)
        expected, ours = np.array(reference.inference(5)).reshape(energies.shape), crf.inference(5)
        # Behind 1.1e4 the original's float32 has steps of 1e-3 left for its messages.
        assert (ours.argmax(0) == expected.argmax(0)).mean() >= (0.999 if added else 0.99999)


@pytest.mark.scorecard("input", 53)
def test_a_large_weight_of_a_config_works_on_both_paths():
    image, probs = street_scene()
    cfg = SOFT.model_copy(update={"smooth_weight": 1e20, "colour_weight": 1e5})
    ours = dense_crf(probs, image, cfg)
    device = sharpen(torch.from_numpy(probs), image, cfg).numpy()
    batch = dense_crf_batch(torch.from_numpy(probs)[None], torch.from_numpy(image)[None], cfg)[0].numpy()
    for result in (ours, device, batch):
        assert result.sum(axis=0) == pytest.approx(np.ones(image.shape[:2]), abs=1e-5)
    for run in (dense_crf, lambda p, i, c: dense_crf_batch(torch.from_numpy(p)[None], torch.from_numpy(i)[None], c)):
        with pytest.raises(UserError, match=r"at most 1e\+30|holds NaN or infinity"):
            run(probs, image, cfg.model_copy(update={"smooth_weight": 1e35}))


# Each corrupted the heap or read outside of its tables: in a process of its own.
NARROW = {
    "gaussian 1e-7": "crf.add_gaussian(1e-7, 3)",
    "gaussian 1e-8": "crf.add_gaussian(1e-8, 3)",
    "gaussian 1e-7 by 3": "crf.add_gaussian((1e-7, 3), 3)",
    "gaussian 1e-44": "crf.add_gaussian(1e-44, 3)",
    "gaussian 1e-300": "crf.add_gaussian(1e-300, 3)",
    "gaussian, general path": "crf.add_gaussian(1e-7, 3, 'after')",
    "bilateral px": "crf.add_bilateral(image, 1e-7, 1e30, 3)",
    "bilateral levels": "crf.add_bilateral(image, 1e30, (1e-7, 1e30, 1e30), 3)",
    "kernel 1e8": "crf.add_kernel(ramp * 1e8, 3)",
    "kernel 1e10": "crf.add_kernel(ramp * 1e10, 3)",
    "kernel 1e12": "crf.add_kernel(ramp * 1e12, 3)",
    "kernel 1e12 far from 0": "crf.add_kernel(ramp + 1e12, 3)",
    "kernel 1e200": "crf.add_kernel(ramp * 1e200, 3)",
    "config": "dense_crf(probs, image, cfg)",
    "sharpen": "sharpen(torch.from_numpy(probs), image, cfg)",
    "device path": "dense_crf_batch(torch.from_numpy(probs)[None], torch.from_numpy(image)[None], cfg)",
}
PROGRAM = """
import numpy as np, torch
from pipeline.config import CrfConfig
from pipeline.crf import DenseCRF, dense_crf
from pipeline.crf.gpu import dense_crf_batch, sharpen
from pipeline.errors import UserError
rng = np.random.default_rng(0)
probs = rng.dirichlet(np.ones(3), (33, 47)).transpose(2, 0, 1).astype(np.float32)
image = rng.integers(0, 256, (33, 47, 3), np.uint8)
ramp = rng.uniform(0, 1, (33 * 47, 2))
cfg = CrfConfig(iterations=3, smooth_weight=3, smooth_px=1e-7, colour_weight=4, colour_px=67, colour_levels=3)
for name, call in {calls!r}.items():
    crf = DenseCRF.from_probs(probs)
    try:
        exec(call)
        crf.inference(3)
    except UserError as error:
        print(name, "|", error, flush=True)
"""


@pytest.mark.scorecard("input", 54)
def test_widths_near_0_are_refused_by_every_entry():
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PROGRAM.format(calls=NARROW)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = dict(line.split(" | ") for line in done.stdout.splitlines())
    assert list(told) == list(NARROW)
    for name, sentence in told.items():
        assert {
            "gaussian 1e-44": "reach inf", "gaussian 1e-300": "px is 1e-300; it must be one positive number",
            "kernel 1e200": "features hold NaN or infinity",
        }.get(name, "widths are too small: coordinates on the lattice reach") in sentence  # fmt: skip


@pytest.mark.scorecard("input", 54)
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_up_to_the_limit_pixels_lie_in_simplices(num_axes):
    """Just below what is refused, each pixel's weights are those of a simplex: at least 0, and 1 in all."""
    from pipeline.crf.cpu.lattice import build_lattice
    from pipeline.crf.cpu.threads import Team

    features = np.zeros((num_axes, 304), np.float32)
    points = np.random.default_rng(num_axes).uniform(0.5, 1, (num_axes, 301))
    last = None
    for size in 2.0 ** np.arange(10, 24):
        features[:, :301] = points * size
        try:
            lattice = build_lattice(Team(1), [features], 301)
        except UserError:
            break
        last = size
        assert lattice.weight.min() >= -1e-6
        assert lattice.weight.sum(axis=1) == pytest.approx(np.ones(301), abs=1e-5)
        assert 0 <= lattice.vertex.min() <= lattice.vertex.max() < lattice.num_rows
    assert last is not None and size < 2**21  # a limit there is


@pytest.mark.scorecard("input", 54)
def test_a_kernel_of_no_weight_may_have_any_width():
    image, probs = street_scene()
    cfg = SOFT.model_copy(update={"smooth_weight": 0.0, "smooth_px": 1e-7})
    usual = dense_crf(probs, image, SOFT.model_copy(update={"smooth_weight": 0.0}))
    assert np.array_equal(dense_crf(probs, image, cfg), usual)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda crf: DenseCRF([[[1.0]]]), "energies are of type list; give an array"),
        (lambda crf: DenseCRF(None), "energies are of type NoneType; give an array"),
        (lambda crf: DenseCRF(np.array([[["1", "2"]]])), "energies are <U1; they must be real numbers"),
        (lambda crf: DenseCRF(np.zeros((2, 3, 4), complex)), "energies are complex128; they must be real numbers"),
        (lambda crf: DenseCRF(np.zeros((2, 3, 4), object)), "energies are object; they must be real numbers"),
        (lambda crf: DenseCRF(np.full((2, 3, 4), 1e300)).inference(1), "energies hold NaN or infinity"),
        (lambda crf: DenseCRF.from_probs(None), "probs are of type NoneType"),
        (lambda crf: DenseCRF.from_labels(np.zeros((4, 5), int), 3.5, 0.7), "num_classes is 3.5"),
        (lambda crf: DenseCRF.from_labels(np.zeros((4, 5), int), 3, "0.7"), "certainty is 0.7"),
        (lambda crf: crf.add_bilateral(np.zeros((4, 5, 3), np.uint8).tolist(), 3, 3, 3), "pixels are of type list"),
        (lambda crf: crf.add_bilateral(None, 3, 3, 3), "pixels are of type NoneType"),
        (lambda crf: crf.add_bilateral(np.zeros((4, 5, 3), complex), 3, 3, 3), "pixels are complex128"),
        (lambda crf: crf.add_gaussian(np.array([3.0, 3.0]), 3), r"px is array\(\[3., 3.\]\); it must be one positive number"),
        (lambda crf: crf.add_gaussian("3", 3), "px is '3'; it must be one positive number"),
        (lambda crf: crf.add_gaussian(3j, 3), "px is 3j"),
        (lambda crf: crf.add_gaussian(None, 3), "px is None"),
        (lambda crf: crf.add_gaussian(10**400, 3), "px is 1000"),
        (lambda crf: crf.add_gaussian(np.nan, 3), "px is nan"),
        (lambda crf: crf.add_bilateral(np.zeros((4, 5, 3), np.uint8), 3, (3, 3), 3), r"levels is \(3, 3\)"),
        (lambda crf: crf.add_gaussian(3, "3"), "compatibility is <U1; it must be real numbers"),
        (lambda crf: crf.add_gaussian(3, 3j), "compatibility is complex128"),
        (lambda crf: crf.add_gaussian(3, None), "compatibility is object"),
        (lambda crf: crf.add_gaussian(3, [[1], [2, 3]]), "compatibility is not an array"),
        (lambda crf: crf.add_gaussian(3, 1e31), r"compatibility reaches 1e\+31; at most 1e\+30"),
        (lambda crf: crf.add_kernel([[1.0]] * 20, 3), "features are of type list"),
        (lambda crf: crf.add_kernel(np.zeros((20, 2), complex), 3), "features are complex128"),
        (lambda crf: crf.add_kernel(np.zeros((20, 500)), 3), f"500 feature axes; at most {MOST_AXES} fit"),
        (lambda crf: crf.add_bilateral(np.zeros((4, 5, 40), np.uint8), 3, 3, 3), "42 feature axes"),
        (lambda crf: crf.inference(2.5), "iterations is 2.5"),
        (lambda crf: crf.inference(1, num_threads="2"), "num_threads is '2'"),
        (lambda crf: dense_crf([[[1.0]]], np.zeros((1, 1, 3), np.uint8), SOFT), "probs are of type list"),
        (lambda crf: dense_crf(np.ones((1, 1, 1)), None, SOFT), "pixels are of type NoneType"),
        (lambda crf: sharpen(torch.ones(3, 4, 5), None, SOFT), "pixels are of type NoneType"),
        (lambda crf: dense_crf_batch(torch.ones(1, 3, 4, 5), None, SOFT), "the images NoneType; give tensors"),
        (lambda crf: dense_crf_batch(np.ones((1, 3, 4, 5)), torch.zeros(1, 4, 5, 3), SOFT), "of type ndarray"),
    ],
)  # fmt: skip
def test_what_is_no_number_and_no_array_is_refused_with_a_sentence(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        wrong(DenseCRF(np.zeros((3, 4, 5), np.float32)))


def test_as_many_feature_axes_as_fit_a_key_work():
    features = np.random.default_rng(0).uniform(0, 0.01, (20, MOST_AXES))
    crf = DenseCRF(np.random.default_rng(1).normal(0, 1, (3, 4, 5)).astype(np.float32))
    crf.add_kernel(features, 1)
    exact = brute_force(crf._source.T, [(1.0, features)], 2).T.reshape(3, 4, 5)
    assert np.abs(crf.inference(2) - exact).max() < 0.05


def test_a_config_of_numbers_that_float32_does_not_hold_is_refused():
    image, probs = street_scene()
    for change in ({"smooth_px": 1e-300}, {"colour_levels": 1e-300}):
        cfg = CrfConfig(**{**SOFT.model_dump(), **change})
        for run in (
            dense_crf,
            lambda p, i, c: dense_crf_batch(torch.from_numpy(p)[None], torch.from_numpy(i)[None], c),
        ):
            with pytest.raises(UserError, match="is 1e-300"):
                run(probs, image, cfg)


def test_features_of_the_pixels_are_taken_as_before():
    image, probs = street_scene()
    crf = DenseCRF.from_probs(torch.from_numpy(probs))  # what numpy understands is an array
    crf.add_kernel(position_and_colour(image, 20, 12), 2)
    assert crf.inference(2).sum(axis=0) == pytest.approx(np.ones(image.shape[:2]), abs=1e-5)
