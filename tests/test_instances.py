import numpy as np
import pytest
from PIL import Image

from pipeline.labels import space
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.instances import SHARE, category_instance_iou, count_instances, instance_iou

CITY = space("cityscapes19")
PERSON, RIDER, CAR = (CITY.classes.index(name) for name in ("person", "rider", "car"))


def drawn(seed):
    """instanceIds, labelIds and mask of a noisy picture: things, crowds (plain label ids), stuff, ignored groups."""
    rng = np.random.default_rng(seed)
    things = [label_id * 1000 + k for label_id in (24, 25, 26, 27, 28, 31, 32, 33) for k in range(3)]
    ids = rng.choice([*things, 29001, 30000, 24, 26, 7, 8, 11, 23, 0, 4], (12, 20))
    instances = np.kron(ids, np.ones((4, 5), int)).astype(np.uint16)
    labels = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
    right = np.where(CITY.to_train(labels, "label") == 255, 0, CITY.to_train(labels, "label"))
    mask = np.where(rng.random(labels.shape) < 0.6, right, rng.integers(0, 19, labels.shape)).astype(np.uint8)
    return instances, labels, mask


def test_iiou_equals_cityscapesscripts_and_its_integers_are_equal(tmp_path, monkeypatch):
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    args = official.args
    monkeypatch.setattr(args, "evalInstLevelScore", True)
    monkeypatch.setattr(args, "evalPixelAccuracy", False)
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # gone from NumPy 2.4, and the program still calls it
    theirs, stats = official.generateMatrix(args), official.generateInstanceStats(args)
    counts, confusion = np.zeros((19, 6), np.int64), np.zeros((19, 19), np.int64)
    for seed in range(3):
        instances, labels, mask = drawn(seed)
        truth = tmp_path / f"{seed}_gtFine_labelIds.png"
        Image.fromarray(labels).save(truth)
        Image.fromarray(instances).save(tmp_path / f"{seed}_gtFine_instanceIds.png")
        Image.fromarray(CITY.to_stored(mask)).save(tmp_path / f"{seed}.png")
        official.evaluatePair(str(tmp_path / f"{seed}.png"), str(truth), theirs, stats, {}, args)
        counts += count_instances(instances, mask, CITY)
        confusion += count_confusion(CITY.to_train(labels, "label"), mask, 19)
    assert confusion.tolist() == theirs[np.ix_(CITY.stored_ids, CITY.stored_ids)].tolist()
    for index, name in enumerate(CITY.classes):
        if name in stats["classes"]:
            found = stats["classes"][name]
            assert (counts[index, 2], counts[index, 1] - counts[index, 2]) == (found["tp"], found["fn"])
            score = official.getInstanceIouScoreForLabel(CITY.stored_ids[index], theirs, stats, args)
            assert instance_iou(counts, confusion, CITY)[index] == pytest.approx(score, abs=1e-10)
    scores = category_instance_iou(counts, confusion, CITY)
    assert scores.keys() == stats["categories"].keys() == {"human", "vehicle"}
    for name, score in scores.items():
        members = list(CITY.categories[name])
        assert counts[members, 4].sum() == stats["categories"][name]["tp"]
        expected = official.getInstanceIouScoreForCategory(name, theirs, stats, args)
        assert score == pytest.approx(expected, abs=1e-10)


def test_a_near_and_a_far_thing_weigh_the_same():
    """A car of eight pixels, all found, one of two pixels, none found, a rider taken for a person, a crowd."""
    instances = np.array([[26001] * 8 + [26002] * 2 + [25000, 25001] + [26] * 3])
    mask = np.array([[CAR] * 8 + [0] * 2 + [RIDER, PERSON] + [CAR] * 3], np.uint8)
    counts = count_instances(instances, mask, CITY)
    assert counts[CAR].tolist() == [2, 10, 8, SHARE, 8, SHARE]
    assert counts[RIDER].tolist() == [2, 2, 1, SHARE, 2, 2 * SHARE]
    label = np.array([[CAR] * 10 + [RIDER] * 2 + [CAR] * 3], np.uint8)
    confusion = count_confusion(label, mask, 19)
    iou = instance_iou(counts, confusion, CITY)
    assert (iou[CAR], iou[RIDER]) == (0.5, 0.5)
    assert iou[PERSON] == 0  # one false pixel and no person
    assert np.isnan(iou[0])  # roads have no instances
    assert category_instance_iou(counts, confusion, CITY)["human"] == 1


def test_what_cannot_be_counted_is_one_sentence():
    with pytest.raises(ValueError, match="instance id 99001 is of label id 99, which cityscapes19 does not have"):
        count_instances(np.array([[99001]]), np.zeros((1, 1), np.uint8), CITY)
    with pytest.raises(ValueError, match="differ in size"):
        count_instances(np.zeros((1, 2), int), np.zeros((1, 1), np.uint8), CITY)
    with pytest.raises(ValueError, match="camvid11 has no mean instance sizes"):
        instance_iou(np.zeros((11, 6), int), np.zeros((11, 11), int), space("camvid11"))
