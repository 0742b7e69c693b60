"""A small synthetic corpus in plain folders, like a user's own: shapes on textures, with five classes of its own."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 5  # ground, disc, square, cross, ring
IGNORE = 255
# Of each class; a pixel's colour varies by more than neighbouring classes differ, so that one pixel alone tells little.
_COLOURS = np.array([(112, 120, 104), (160, 92, 88), (88, 132, 160), (150, 146, 80), (124, 88, 150)])


def draw(folder: Path, number: int, *, height: int = 96, width: int = 128, form: str = "ids", seed: int = 0) -> None:
    """Write images/NNN.jpg and labels/NNN.png; `form`: ids, colours (RGB pictures), or binary (0 and 255)."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(number):
        image, label = scene(np.random.default_rng([seed, index]), height, width)
        Image.fromarray(image).save(folder / f"images/{index:03}.jpg", quality=92)
        Image.fromarray(_stored(label, form)).save(folder / f"labels/{index:03}.png")


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and (H, W) uint8 ids; a shape of each class at least, and a ring of ignored pixels around one."""
    label = np.zeros((height, width), np.uint8)
    ys, xs = np.mgrid[:height, :width]
    for kind in rng.permutation([1, 2, 3, 4, *rng.integers(1, CLASSES, 2)]):
        radius = rng.uniform(0.14, 0.24) * height
        y, x = rng.uniform(radius, height - radius), rng.uniform(radius, width - radius)
        far, dy, dx = np.hypot(ys - y, xs - x), np.abs(ys - y), np.abs(xs - x)
        inside = {
            1: far < radius,
            2: np.maximum(dy, dx) < 0.9 * radius,
            3: (np.minimum(dy, dx) < 0.3 * radius) & (np.maximum(dy, dx) < radius),
            4: (far < radius) & (far > 0.55 * radius),
        }[int(kind)]
        label[inside] = kind
    waves = 16 * np.sin(xs / rng.uniform(2, 6) + ys / rng.uniform(2, 6))
    image = _COLOURS[label] + waves[..., None] + rng.normal(0, 18, (height, width, 3)) + rng.normal(0, 8, 3)
    label[:2] = IGNORE
    return image.clip(0, 255).astype(np.uint8), label


def _stored(label: np.ndarray, form: str) -> np.ndarray:
    match form:
        case "colours":
            return np.where((label == IGNORE)[..., None], 0, _COLOURS[label % IGNORE]).astype(np.uint8)
        case "binary":
            return np.where(label % IGNORE > 0, 255, 0).astype(np.uint8)
        case _:
            return label
