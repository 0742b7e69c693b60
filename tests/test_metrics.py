import numpy as np
import pytest

from pipeline.labels import IGNORE, space
from pipeline.metrics.counts import count_confusion
from pipeline.metrics.iou import class_accuracy, class_iou, mean_accuracy, mean_iou, pixel_accuracy


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
    ],
)
def test_ids_and_sizes_outside_the_contract_are_refused(label, mask, sentence):
    with pytest.raises(ValueError, match=sentence):
        count_confusion(label, mask, 3)


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
