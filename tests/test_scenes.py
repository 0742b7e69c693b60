import io
import zipfile

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.labels import space
from pipeline.synthetic import street
from pipeline.synthetic.scenes import write_corpus
from pipeline.synthetic.street import draw_scene

CLASSES = {
    "road", "sidewalk", "building", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
    "person", "rider", "car", "truck", "bicycle",
}  # fmt: skip


def test_the_same_seed_draws_the_same_scene_and_another_one_another():
    first, again, other = (draw_scene(np.random.default_rng(seed), 64, 128) for seed in (1, 1, 2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[1] != other[1]).mean() > 0.1


def test_scenes_hold_fifteen_classes_and_only_legal_ids():
    cityscapes = space("cityscapes19")
    pixels = np.zeros(256, np.int64)
    for seed in range(60):
        image, label = draw_scene(np.random.default_rng(seed), 96, 192)
        assert (image.shape, image.dtype, label.shape, label.dtype) == ((96, 192, 3), np.uint8, (96, 192), np.uint8)
        pixels += np.bincount(cityscapes.to_train(label, "scene").ravel(), minlength=256)
    share = pixels[:19] / pixels[:19].sum()
    found = {name for name, part in zip(cityscapes.classes, share, strict=True) if part > 0.002}
    assert found == CLASSES


def test_colour_alone_says_little():
    """Classes share their colours: the best class of each of 512 colours is wrong on half of the pixels."""
    votes = np.zeros((512, 256), np.int64)
    for seed in range(40):
        image, label = draw_scene(np.random.default_rng(seed), 64, 128)
        levels = (image >> 5).astype(int)
        np.add.at(votes, ((levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]).ravel(), label.ravel()), 1)
    assert votes.max(axis=1).sum() / votes.sum() < 0.55


def test_a_corpus_is_a_pair_of_zips_with_the_cityscapes_names_and_stable_bytes(tmp_path):
    images, labels = write_corpus(str(tmp_path / "a"), {"train": 5}, 32, 64, seed=4)
    again = write_corpus(str(tmp_path / "b"), {"train": 5}, 32, 64, seed=4)
    assert [storage.read(uri) for uri in again] == [storage.read(images), storage.read(labels)]
    with zipfile.ZipFile(images) as archive, zipfile.ZipFile(labels) as truths:
        assert archive.namelist()[0] == "leftImg8bit/train/aldermoor/aldermoor_000000_000000_leftImg8bit.png"
        assert truths.namelist()[0] == "gtFine/train/aldermoor/aldermoor_000000_000000_gtFine_labelIds.png"
        assert len(archive.namelist()) == len(truths.namelist()) == 5
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        label = np.asarray(Image.open(io.BytesIO(truths.read(truths.namelist()[0]))))
    assert set(np.unique(label)) <= {
        value for name, value in vars(street).items() if name.isupper() and isinstance(value, int)
    }
