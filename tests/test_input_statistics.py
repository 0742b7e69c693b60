"""Grossly wrong mean, std and range are detected on the first images; values in common use raise no warning."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.models import Network
from pipeline.predict.input_statistics import IMAGES, STEP, InputStatistics
from pipeline.synthetic.street import draw_scene


def warning(mean, std, *images, declared=False):
    model = SimpleNamespace(mean=mean, std=std)
    model.normalise = Network.normalise.__get__(model)
    look = InputStatistics(model, declared)
    for image in images:
        look.add(image)
    return look.warning


SCENE, DIM = draw_scene(np.random.default_rng(0), 96, 128)[0], draw_scene(np.random.default_rng(1), 96, 128)[0] // 5
SNOW = 255 - DIM
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (0.481, 0.458, 0.408), (1 / 255,) * 3


@pytest.mark.parametrize("image", [SCENE, DIM, SNOW, np.zeros_like(SCENE)], ids=["scene", "dim", "snow", "blank"])
@pytest.mark.parametrize(
    "levels",
    [IMAGENET, CAFFE, ((0.0,) * 3, (1.0,) * 3), ((0.5,) * 3, (0.5,) * 3)],
    ids=["imagenet", "caffe", "01", "half"],
)
def test_what_networks_are_trained_with_is_no_fault_of_any_picture(levels, image):
    assert warning(*levels, image) is None


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ((123.675, 116.28, 103.53), IMAGENET[1]),
        (IMAGENET[0], (58.395, 57.12, 57.375)),
    ],
)
def test_levels_of_0_to_255_are_told_with_their_numbers(mean, std):
    words = warning(mean, std, SCENE, SCENE)
    x = (SCENE[::STEP, ::STEP] / 255 - mean) / std
    told = re.match(
        r"in the first 2 images the network's input has mean (\S+) and standard deviation (\S+) once", words
    )
    assert [float(number) for number in told.groups()] == pytest.approx(
        [x.mean(), np.sqrt(x.var((0, 1)).mean())], rel=0.02
    )
    assert f"mean {mean} and std {std} are applied" in words
    assert "divide those of 0..255 by 255" in words


def test_only_the_first_images_are_looked_at():
    assert warning(*IMAGENET) is None
    blank, levels = np.zeros_like(SCENE), ((123.675,) * 3, (58.395,) * 3)
    assert warning(*levels, *[blank] * IMAGES, SCENE) is None


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1.0, None), (50.0, "of the values are at or above the high end"), (1 / 16, "no value is above 6.")],
)
def test_a_declared_range_that_is_far_from_the_images(factor, words):
    levels = np.clip(SCENE.astype(np.float32) * factor, 0, 255)
    levels[:8] = np.nan  # no data
    found = warning(*IMAGENET, levels, declared=True)
    assert (found is None) if words is None else (words in found and "set image.range" in found)


def test_images_without_data_say_nothing_about_the_network():
    nothing = np.full(SCENE.shape, np.nan, np.float32)
    assert warning(*IMAGENET, nothing, nothing, declared=True) is None
    nothing[:8] = SCENE[:8]  # with the rest at 0 the standard deviation would be small
    assert warning(*IMAGENET, nothing, declared=True) is None
    assert "divide those of 0..255" in warning((123.675,) * 3, (58.395,) * 3, nothing, declared=True)
