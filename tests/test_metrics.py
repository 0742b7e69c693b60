from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labels import IGNORE, space
from pipeline.metrics.bootstrap import interval, resample
from pipeline.metrics.calibration import LEVELS, calibration_error, count_confidence
from pipeline.metrics.confusion import count_confusion, count_ids
from pipeline.metrics.iou import (
    category_iou,
    class_accuracy,
    class_dice,
    class_iou,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
    summary_scores,
)


def test_counts_are_truth_by_prediction_without_ignored_pixels():
    label = np.array([[0, 0, 1], [1, IGNORE, 2]], np.uint8)
    mask = np.array([[0, 1, 1], [1, 2, 0]], np.uint8)
    assert count_confusion(label, mask, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_dataset_iou_divides_summed_counts_rather_than_averaging_images():
    ones = np.full((1, 100), 1, np.uint8)
    easy = count_confusion(ones, ones, 2)
    label = np.array([[0] * 90 + [1] * 10], np.uint8)
    hard = count_confusion(label, np.zeros_like(label), 2)
    assert mean_iou(easy + hard) == pytest.approx((90 / 100 + 100 / 110) / 2)  # not (1 + 0.45) / 2


def test_a_class_in_neither_truth_nor_prediction_is_left_out_and_one_only_predicted_scores_zero():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert class_iou(confusion)[:2].tolist() == [0.75, 0.0]
    assert np.isnan(class_iou(confusion)[2])
    assert mean_iou(confusion) == 0.375
    assert np.isnan(class_accuracy(confusion)[1])
    assert mean_accuracy(confusion) == pixel_accuracy(confusion) == 0.75


def test_nothing_counted_is_nan_and_not_zero():
    assert np.isnan([mean_iou(np.zeros((2, 2), int)), pixel_accuracy(np.zeros((2, 2), int))]).all()


def test_counts_stay_exact_where_float32_would_not():
    confusion = np.array([[2**24 + 1, 0], [1, 0]], np.int64)
    assert class_iou(confusion)[0] == (2**24 + 1) / (2**24 + 2)


@pytest.mark.parametrize(
    ("label", "mask", "sentence"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "differ in size"),
        (np.zeros((1, 1), np.uint8), np.full((1, 1), 3, np.uint8), r"mask holds id 3.*0\.\.2"),
        (np.full((1, 1), 7, np.uint8), np.zeros((1, 1), np.uint8), r"label holds id 7.*0\.\.2 and 255"),
        (np.full((1, 9), IGNORE, np.uint8), np.full((1, 9), 3, np.uint8), r"mask holds id 3.*0\.\.2"),
    ],
)
def test_ids_and_sizes_outside_the_contract_are_refused(label, mask, sentence):
    with pytest.raises(ValueError, match=sentence):
        count_confusion(label, mask, 3)
    # What a refused picture had counted is not in the next one.
    assert count_confusion(np.zeros((1, 9), np.uint8), np.zeros((1, 9), np.uint8), 8).sum() == 9


def test_threads_count_beside_each_other():
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 3, (2, 200, 333)).astype(np.uint8) for _ in range(24)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pair: count_confusion(*pair, 3), pairs))
    for (label, mask), counts in zip(pairs, found, strict=True):
        assert counts.tolist() == np.bincount(3 * label.ravel() + mask.ravel(), minlength=9).reshape(3, 3).tolist()


def test_counts_equal_cityscapesscripts_integer_for_integer():
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    cityscapes, rng = space("cityscapes19"), np.random.default_rng(0)
    stored = rng.choice([*range(34)], size=(64, 96)).astype(np.uint8)
    mask = rng.integers(0, 19, size=stored.shape).astype(np.uint8)
    ours = count_confusion(cityscapes.to_train(stored, "label"), mask, 19)

    official.args.evalPixelAccuracy = False
    theirs = official.generateMatrix(official.args)
    predicted = cityscapes.to_stored(mask)
    for truth, prediction in zip(stored.ravel(), predicted.ravel(), strict=True):
        theirs[truth, prediction] += 1
    ids = list(cityscapes.stored_ids)
    assert ours.tolist() == theirs[np.ix_(ids, ids)].tolist()
    for index, label_id in enumerate(ids):
        score = official.getIouScoreForLabel(label_id, theirs, official.args)
        assert class_iou(ours)[index] == pytest.approx(score, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 21), st.integers(1, 12), st.integers(0, 2**32 - 1),
    st.integers(0, 7),
)  # fmt: skip
def test_counting_words_equals_counting_pixels(height, width, num_classes, block, seed, offset):
    """Long runs, short runs, sizes that are no multiple of eight, ignored pixels, and a label that starts at any byte."""
    rng = np.random.default_rng(seed)
    legal = np.array([*range(num_classes), IGNORE], np.uint8)
    label = np.repeat(legal[rng.integers(0, len(legal), (height, width))], block, axis=1)
    mask = np.repeat(rng.integers(0, num_classes, (height, width)).astype(np.uint8), block, axis=1)
    shifted = np.empty(label.size + offset, np.uint8)[offset:].reshape(label.shape)
    shifted[:] = label
    expected = np.zeros((num_classes, num_classes), int)
    np.add.at(expected, (label[label != IGNORE], mask[label != IGNORE]), 1)
    assert count_confusion(shifted, mask, num_classes).tolist() == expected.tolist()
    assert count_confusion(shifted[:, ::-1], mask[:, ::-1], num_classes).tolist() == expected.tolist()


def test_ids_that_are_no_bytes_are_refused():
    with pytest.raises(ValueError, match="label is int64, ids are uint8"):
        count_confusion(np.zeros((1, 1), int), np.zeros((1, 1), np.uint8), 3)


# truth 0: 6 right, 2 as class 1; truth 1: 3 right, 1 as class 0; truth 2: 4, all as class 1
HAND = np.array([[6, 2, 0], [1, 3, 0], [0, 4, 0]])


def test_the_family_of_scores_follows_from_hand_arithmetic():
    iou = [6 / 9, 3 / 10, 0 / 4]
    assert class_iou(HAND).tolist() == pytest.approx(iou)
    assert class_dice(HAND).tolist() == pytest.approx([12 / 15, 6 / 13, 0])
    scores = summary_scores(np.stack([HAND, 2 * HAND]))
    assert scores["miou"].tolist() == pytest.approx([sum(iou) / 3] * 2)
    assert scores["pixel_accuracy"].tolist() == [9 / 16] * 2
    assert scores["mean_accuracy"].tolist() == pytest.approx([(6 / 8 + 3 / 4 + 0) / 3] * 2)
    assert scores["frequency_weighted_iou"].tolist() == pytest.approx([8 / 16 * iou[0] + 4 / 16 * iou[1]] * 2)
    assert scores["mean_dice"].tolist() == pytest.approx([(12 / 15 + 6 / 13) / 3] * 2)
    assert category_iou(HAND, {"ground": (0,), "thing": (1, 2), "none": ()}) == pytest.approx(
        {"ground": 6 / 9, "thing": 7 / 10, "none": float("nan")}, nan_ok=True
    )


def test_categories_equal_those_of_cityscapesscripts():
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    cityscapes, ours = space("cityscapes19"), np.random.default_rng(3).integers(0, 50, (19, 19))
    theirs = official.generateMatrix(official.args)
    theirs[np.ix_(cityscapes.stored_ids, cityscapes.stored_ids)] = ours
    for name, score in category_iou(ours, cityscapes.categories).items():
        assert score == pytest.approx(official.getIouScoreForCategory(name, theirs, official.args), abs=1e-12)


def test_calibration_error_of_a_histogram_follows_from_hand_arithmetic():
    label = np.array([[0, 0, 1, 1, IGNORE]], np.uint8)
    mask = np.array([[0, 1, 1, 1, 1]], np.uint8)
    confidence = np.array([[0.25, 0.25, 0.75, 1.0, 1.0]], np.float32)
    counts = count_confidence(label, mask, confidence, bins=2)
    assert counts[:2].tolist() == [[2, 2], [1, 2]]
    assert (counts[2] / LEVELS).tolist() == pytest.approx([0.5, 1.75], abs=2e-5)
    # bin 1: accuracy 1/2, confidence 1/4; bin 2: accuracy 1, confidence 7/8; half of the pixels each
    assert calibration_error(counts) == pytest.approx(0.5 * 0.25 + 0.5 * 0.125, abs=2e-5)
    assert calibration_error(counts + counts) == calibration_error(counts)
    assert np.isnan(calibration_error(np.zeros((3, 2), int)))


def test_a_bootstrap_of_equal_images_has_no_width_and_the_same_seed_gives_the_same_draws():
    same = np.repeat(HAND.reshape(1, -1), 5, axis=0)

    def score(sums):
        return class_iou(sums.reshape(-1, 3, 3))

    low, high = interval(resample(same, score, draws=50))
    assert low.tolist() == pytest.approx(class_iou(HAND).tolist())
    assert high.tolist() == pytest.approx(low.tolist())
    other = np.stack([HAND.ravel(), HAND.ravel()[::-1]])
    assert (resample(other, score, seed=4, draws=150) == resample(other, score, seed=4, draws=150)).all()
    with pytest.raises(ValueError, match="none of the images has a label"):
        resample(same[:0], score)


def test_the_interval_of_a_share_is_the_binomial_one():
    """100 images of one pixel, half of them right: the share of a draw is binomial, 95 % of it within 0.4 and 0.6."""
    images = np.array([[1, 0]] * 50 + [[0, 1]] * 50)
    low, high = interval(resample(images, lambda sums: sums[:, :1] / sums.sum(1, keepdims=True), draws=2000))
    assert (low[0], high[0]) == pytest.approx((0.40, 0.60), abs=0.011)


@pytest.mark.parametrize("size", [(0, 3), (3, 5), (64, 128)])
def test_the_pixels_of_every_id_are_counted_and_again(size):
    mask = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    mask[:2, :4] = 255
    for _ in range(2):  # the table is left empty
        assert count_ids(mask).tolist() == np.bincount(mask.ravel(), minlength=256).tolist()
