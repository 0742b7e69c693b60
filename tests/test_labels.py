import numpy as np
import pytest

from pipeline.errors import Reject
from pipeline.labels import IGNORE, SPACES, space


def test_cityscapes_agrees_with_the_official_table():
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    ours = space("cityscapes19")
    evaluated = [label for label in official if label.trainId not in (-1, 255)]
    assert ours.classes == tuple(label.name for label in evaluated)
    assert ours.colours == tuple(label.color for label in evaluated)
    assert ours.stored_ids == tuple(label.id for label in evaluated)
    for label in evaluated:
        assert label.trainId in ours.categories[label.category]


@pytest.mark.parametrize("name", SPACES)
def test_stored_ids_survive_the_way_to_train_ids_and_back(name):
    ours = space(name)
    stored = np.array([ours.stored_ids], np.uint8)
    train = ours.to_train(stored, where="x")
    assert train.tolist() == [list(range(ours.num_classes))]
    assert ours.to_stored(train).tolist() == stored.tolist()


def test_ignored_ids_become_255():
    assert space("cityscapes19").to_train(np.array([[0, 7, 255]]), where="x").tolist() == [[IGNORE, 0, IGNORE]]
    assert space("camvid11").to_train(np.array([[11, 3]]), where="x").tolist() == [[IGNORE, 3]]


def test_an_id_outside_the_space_is_named_with_its_file_and_the_legal_ids():
    with pytest.raises(Reject, match=r"a\.png: label id 12 is outside camvid11, whose stored ids are 0\.\.11, 255"):
        space("camvid11").to_train(np.array([[3, 12]], np.uint8), where="a.png")
    with pytest.raises(Reject, match="label id 300"):
        space("voc21").to_train(np.array([[300]]), where="a.png")


def test_voc_colours_are_the_published_ones():
    voc = space("voc21")
    colours = dict(zip(voc.classes, voc.colours, strict=True))
    assert colours["aeroplane"] == (128, 0, 0)
    assert colours["person"] == (192, 128, 128)
    assert colours["tvmonitor"] == (0, 64, 128)


def test_an_unknown_space_lists_the_known():
    with pytest.raises(ValueError, match="choose one of cityscapes19, voc21, camvid11"):
        space("ade20k")
