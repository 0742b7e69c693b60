"""Limits on copies of an image and its scores on their way through an actor, counted, not timed."""

import tracemalloc
from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import models
from pipeline.config import CorpusConfig, PredictConfig, parse_model
from pipeline.corpus import Item, list_items, read
from pipeline.imaging.decode import decode_image
from pipeline.predict import Predictor
from pipeline.synthetic.scenes import write_corpus

HEIGHT, WIDTH, CLASSES = 256, 512, 19


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    images, _ = write_corpus(str(tmp_path_factory.mktemp("corpus")), {"val": 2}, HEIGHT, WIDTH, seed=5)
    return list_items(CorpusConfig(images=images, layout="cityscapes"), None)


class Made(TorchDispatchMode):
    """Every tensor that an operation made: (shape, bytes, whether a convolution came before). Views make nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[tuple[tuple[int, ...], int, bool]] = []
        self.convolved = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.convolved = self.convolved or "conv" in str(func)
        there = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in there:
                self.tensors.append((tuple(tensor.shape), tensor.nbytes, self.convolved))
        return out

    def before_the_network(self) -> int:
        """Bytes."""
        return sum(size for _, size, convolved in self.tensors if not convolved)

    def full_size_scores(self) -> int:
        """Tensors with a number for each class and pixel."""
        return sum(prod(shape) >= CLASSES * HEIGHT * WIDTH and CLASSES in shape for shape, _, _ in self.tensors)


def bytes_to_host(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    """Bytes that leave torch through .cpu(), .numpy() or .tolist() while `work` runs, in any thread."""
    moved: list[int] = []
    with monkeypatch.context() as patched:
        for name in ("cpu", "numpy", "tolist"):
            original = getattr(torch.Tensor, name)

            def counted(self, *args, original=original, **kwargs):  # type: ignore[no-untyped-def]
                moved.append(self.nbytes)
                return original(self, *args, **kwargs)

            patched.setattr(torch.Tensor, name, counted)
        work()
    return sum(moved)


def test_scores_stay_on_the_device_where_no_crf_asks(monkeypatch, tiny_segmenter, items):
    """Coarse scores (1/16 of the pixels, 19 classes: 4.75 bytes a pixel) and masks may leave it; full ones are 76 bytes."""
    pixels = HEIGHT * WIDTH * len(items)
    assert bytes_to_host(monkeypatch, lambda: tiny_segmenter.answer(items)) <= 10 * pixels
    images = [decode_image(read(item.image), 10**9) for item in items]
    planted = bytes_to_host(monkeypatch, lambda: tiny_segmenter.predictor.probs(images).numpy().argmax(1))
    assert planted >= 76 * pixels


def test_scores_of_full_size_are_never_made_where_no_crf_asks(tiny_segmenter, items):
    image = decode_image(read(items[0].image), 10**9)
    with Made() as made:
        tiny_segmenter.predictor.masks([image])
    assert made.tensors
    assert made.full_size_scores() == 0
    with Made() as planted:
        tiny_segmenter.predictor.probs([image])
    assert planted.full_size_scores() > 0


def test_an_image_is_copied_once_between_decode_and_the_network(tiny_segmenter, items):
    """As the floats that the network takes, 12 bytes a pixel; EfficientNet pads within its first layer, a second copy."""
    image = decode_image(read(items[0].image), 10**9)
    one_copy = 12 * HEIGHT * WIDTH
    lraspp = models.build(parse_model({"name": "lraspp"}, where="guard"), CLASSES).eval()
    predictor = Predictor(lraspp, PredictConfig())
    with Made() as made:
        predictor.masks([image])
    assert one_copy <= made.before_the_network() <= 1.3 * one_copy
    with Made() as planted:
        tiny_segmenter.predictor.masks([image])
    assert planted.before_the_network() >= 2 * one_copy


def test_decoding_makes_at_most_two_copies_of_the_pixels(items):
    data = read(items[0].image)
    decode_image(data, 10**9)
    tracemalloc.start()
    image = decode_image(data, 10**9)
    before = tracemalloc.get_traced_memory()[1]
    again = np.array(image), np.array(image), np.array(image)
    after = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert before <= 2.2 * image.nbytes
    assert after >= before + len(again) * image.nbytes * 0.5  # further copies are seen
