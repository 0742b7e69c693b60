"""How often `drift` raises a false alarm, and how often it finds a real change, with CamVid's labels as masks.

python -m tests.bench.drift_alarms [camvid_trainval.zip] [trials]    two minutes on one core

A night is some drives of twenty frames, drawn with replacement from one of 39 stretches of the photographs. `between`: each
night prefers some stretches (a Dirichlet draw of that concentration); `none`: no night prefers any.
"""

import io
import sys
import zipfile

import numpy as np
from PIL import Image

from pipeline.analysis.drift import LEAST
from pipeline.metrics.change import Ratios, changes, holm
from tests.bench.turns import show
from tests.conftest import CAMVID

CLASSES, STRETCHES, FRAMES, ROAD = 11, 39, 20, 3
LOST = 0.3  # of the road, where something changed


def pixels_of(archive: str) -> np.ndarray:
    """(images, C) float64, in the order of their names."""
    with zipfile.ZipFile(archive) as stored:
        names = sorted(name for name in stored.namelist() if name.startswith("labels/"))
        labels = [np.asarray(Image.open(io.BytesIO(stored.read(name)))) for name in names]
    return np.array([np.bincount(label.ravel(), minlength=256)[:CLASSES] for label in labels], np.float64)


def night(
    random: np.random.Generator, pixels: np.ndarray, drives: int, between: float | None, alike: bool, changed: bool
) -> Ratios:
    stretches = np.array_split(np.arange(len(pixels)), STRETCHES)
    liking = None if between is None else random.dirichlet(np.full(STRETCHES, between))
    chosen = random.choice(STRETCHES, drives, p=liking)
    above = pixels[np.array([random.choice(stretches[one], FRAMES) for one in chosen])]  # (drives, frames, C)
    if changed:
        above[..., ROAD] *= 1 - LOST
    below = np.repeat(above.sum(axis=-1, keepdims=True), CLASSES, axis=-1)
    if alike:
        return Ratios.of(above.sum(axis=1), below.sum(axis=1))
    return Ratios.of(above.reshape(-1, CLASSES), below.reshape(-1, CLASSES))


def alarm(nights: list[Ratios]) -> np.ndarray:
    """(C,): which classes are said to have changed."""
    found = changes(nights[-1], nights[:-1])
    return (holm(found.p) < 0.05) & (np.abs(found.change) >= LEAST * found.before)


def main(archive: str, trials: int) -> None:
    pixels, rows = pixels_of(archive), []
    for between in (None, 3.0):
        for alike in (False, True):
            for earlier, drives in ((1, 20), (3, 20), (6, 20), (6, 5), (6, 1)):
                random, said = np.random.default_rng(0), np.zeros(2)
                for _ in range(trials):
                    before = [night(random, pixels, drives, between, alike, False) for _ in range(earlier)]
                    for place, changed in enumerate((False, True)):
                        found = alarm([*before, night(random, pixels, drives, between, alike, changed)])
                        said[place] += found[ROAD] if changed else found.any()
                share = [f"{number / trials:.3f}" for number in said]
                rows.append(
                    ["none" if between is None else between, "drive" if alike else "image", earlier, drives, *share]
                )
    show(
        f"{trials} trials each; {CLASSES} classes at once",
        [
            "between nights",
            "a draw is",
            "earlier nights",
            "drives a night",
            "any false alarm",
            f"road less by {LOST:.0%} found",
        ],
        rows,
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(CAMVID), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
