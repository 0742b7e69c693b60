"""Run each compiled kernel a second time, between two calls of getppid, at which valgrind starts a new count.

Prints each kernel's pixels and name.
"""

import os
from math import prod

import numpy as np

from pipeline.crf import DenseCRF
from pipeline.imaging.mask_png import encode_mask
from pipeline.metrics.confusion import count_confusion
from pipeline.predict.upsample_argmax import enlarge_argmax
from pipeline.synthetic.street import draw_scene

LARGE, SMALL = (256, 512), (64, 128)  # the CRF's is small: valgrind takes fifty times as long as the machine
CLASSES = 19


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and a network's scores (C, H, W) for it."""
    image, label = draw_scene(np.random.default_rng(3), height, width)
    label = (label % CLASSES).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 0.5, (CLASSES, height, width))
    return image, label, (4 * (np.arange(CLASSES)[:, None, None] == label) + noise).astype(np.float32)


def crf(image: np.ndarray, scores: np.ndarray, iterations: int) -> None:
    model = DenseCRF(-scores)
    model.add_gaussian(px=3, compat=3)
    model.add_bilateral(image, px=67, levels=3, compat=4)
    model.inference(iterations)


def main() -> None:
    _, label, scores = scene(*LARGE)
    mask = np.roll(label, 2, axis=1)
    coarse = scores[:, ::8, ::8].copy()
    small, _, small_scores = scene(*SMALL)
    work = {
        "counts": lambda: count_confusion(label, mask, CLASSES),
        "counts by numpy": lambda: np.bincount(label.astype(np.int64).ravel() * CLASSES + mask.ravel()),
        "encode": lambda: encode_mask(mask),
        "enlarge": lambda: enlarge_argmax(coarse, mask.shape, mask.shape),
        "crf, 1 step": lambda: crf(small, small_scores, 1),
        "crf, 5 steps": lambda: crf(small, small_scores, 5),
    }
    for name, kernel in work.items():
        kernel()
        os.getppid()
        kernel()
        os.getppid()
        print(prod(SMALL if name.startswith("crf") else LARGE), name)


if __name__ == "__main__":
    main()
