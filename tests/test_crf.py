"""Requirements of every implementation of the dense CRF: the CPU path, and the device path, here on CPU tensors."""

import numpy as np
import pytest

from pipeline.config import CrfConfig
from pipeline.crf import DenseCRF, dense_crf
from pipeline.synthetic.street import draw_scene
from tests.crf_cases import SHARP, SOFT, noisy_probs, on_device, photograph, pydensecrf, street_scene


@pytest.fixture(params=[dense_crf, on_device])
def run(request):
    """(probs, image, cfg) -> marginals, on each path."""
    return request.param


@pytest.mark.parametrize("change", [{"iterations": 0}, {"smooth_weight": 0.0, "colour_weight": 0.0}])
def test_without_steps_or_weights_the_input_comes_back(run, change):
    image, probs = street_scene()
    assert np.array_equal(run(probs, image, SOFT.model_copy(update=change)), probs)


def test_one_class_stays_certain(run):
    image = np.zeros((4, 5, 3), np.uint8)
    assert (run(np.ones((1, 4, 5), np.float32), image, SOFT) == 1).all()


def test_on_a_constant_image_constant_scores_only_become_surer(run):
    probs = np.broadcast_to(np.array([0.5, 0.3, 0.2], np.float32)[:, None, None], (3, 40, 50))
    result = run(probs, np.full((40, 50, 3), 90, np.uint8), SOFT)
    assert (result.argmax(0) == 0).all()
    assert result[0].min() > 0.5  # neighbours agree: it can only become surer
    assert result[:, 20, 25].sum() == pytest.approx(1)


def test_on_a_constant_image_a_lone_pixel_is_outvoted(run):
    probs = np.full((2, 40, 50), 0.3, np.float32)
    probs[0] = 0.7
    probs[:, 20, 25] = 0.4, 0.6
    assert (run(probs, np.full((40, 50, 3), 90, np.uint8), SOFT).argmax(0) == 0).all()


def test_permuting_the_classes_permutes_the_result(run):
    image, probs = street_scene()
    order = np.random.default_rng(1).permutation(len(probs))
    assert run(probs[order], image, SOFT) == pytest.approx(run(probs, image, SOFT)[order], abs=1e-5)


def test_scaling_image_and_widths_together_leaves_the_labels(run):
    image, label = draw_scene(np.random.default_rng(3), 48, 80)
    probs = noisy_probs(label // 5, 7)
    cfg = CrfConfig(iterations=4, smooth_weight=2, smooth_px=3, colour_weight=4, colour_px=12, colour_levels=12)
    large = cfg.model_copy(update={"smooth_px": 6.0, "colour_px": 24.0})
    small = run(probs, image, cfg).argmax(0)
    twice = run(probs.repeat(2, 1).repeat(2, 2), image.repeat(2, 0).repeat(2, 1), large).argmax(0)
    # Each pixel became four, half a pixel off its old place: only pixels near ties may differ.
    assert (twice[::2, ::2] == small).mean() > 0.98


@pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])
def test_the_number_of_threads_changes_nothing(cfg):
    image, label = draw_scene(np.random.default_rng(3), 200, 330)
    probs = noisy_probs(label // 5, 7)
    one = dense_crf(probs, image, cfg)
    for num_threads in (2, 3, 8):
        assert np.array_equal(dense_crf(probs, image, cfg, num_threads), one)


def test_results_are_probabilities(run):
    image, probs = street_scene()
    result = run(probs, image, SHARP)
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.sum(axis=0) == pytest.approx(np.ones(image.shape[:2]), abs=1e-5)


def test_certain_scores_and_absent_classes_are_taken(run):
    probs = np.zeros((4, 30, 40), np.float32)
    probs[0, :, :20], probs[2, :, 20:] = 1, 1
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, 20:] = 200
    assert (run(probs, image, SHARP).argmax(0) == probs.argmax(0)).all()


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


NAMES = tuple(f"c{c}" for c in range(7))
WEIGHTS = {"c1": 0.2, "c3": 0.0, "c6": 2.5}


@pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])
def test_class_weights_are_the_diagonal_compatibility_of_pydensecrf(run, camvid, cfg):
    image, label = photograph(camvid, 7)
    image, label = image[100:220, 60:262], label[100:220, 60:262].astype(int)
    probs = noisy_probs(label, 11)
    names = tuple(f"c{c}" for c in range(11))
    weighted = cfg.model_copy(update={"class_weights": WEIGHTS})
    ours, theirs = run(probs, image, weighted, classes=names), pydensecrf(probs, image, weighted)
    assert (theirs.argmax(0) != run(probs, image, cfg).argmax(0)).mean() > 0.001  # they matter
    assert (ours.argmax(0) == theirs.argmax(0)).all()
    assert np.abs(ours - theirs).max() <= 1e-5


def test_class_weights_of_one_change_no_bit(run):
    image, probs = street_scene()
    ones = SOFT.model_copy(update={"class_weights": dict.fromkeys(NAMES, 1.0)})
    assert np.array_equal(run(probs, image, ones, classes=NAMES), run(probs, image, SOFT))


def test_the_general_path_takes_class_weights_as_the_fused_one_does():
    image, probs = street_scene()
    weights = np.array([WEIGHTS.get(name, 1) for name in NAMES])
    found = []
    for weigh, compat in ((True, 3.0), (True, -3.0 * np.eye(7)), (False, -3.0 * weights)):
        crf = DenseCRF.from_probs(probs)
        crf.add_bilateral(image, 30, 10, compat)
        if weigh:
            crf.weigh_classes(weights)
        found.append(crf.inference(4, num_threads=2))
    assert np.abs(found[0] - probs).max() > 0.1
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= 1e-5


def test_a_class_weight_of_no_class_is_refused(run):
    image, probs = street_scene()
    cfg = SOFT.model_copy(update={"class_weights": {"pole": 0.5}})
    with pytest.raises(ValueError, match=r"class_weights: there is no class 'pole'; the classes are c0, c1, .*c6"):
        run(probs, image, cfg, classes=NAMES)
    with pytest.raises(ValueError, match="there is no class 'pole'; the classes are not known here"):
        run(probs, image, cfg)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (np.ones(4), r"the class weights are \(4,\); they must be \(7,\)"),
        (np.full(7, -1.0), "hold NaN, infinity or negative values"),
        (np.full(7, np.nan), "hold NaN, infinity or negative values"),
        (np.full(7, 1e30), "times a compatibility of 3 are above 1e"),
    ],
)
def test_class_weights_that_cannot_be_computed_with_are_refused(weights, sentence):
    image, probs = street_scene()
    crf = DenseCRF.from_probs(probs)
    crf.add_bilateral(image, 30, 10, 3)
    with pytest.raises(ValueError, match=sentence):
        crf.weigh_classes(weights)
        crf.inference(1)
