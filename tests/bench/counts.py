"""Confusion counts of 1024x2048x19 by several programs, one after another in each round, so that ratios hold on other machines.

python -m tests.bench.counts [rounds]    half a minute on 2 cores; torchmetrics is shown where it is installed

Each round calls each program twice: first cold, when another program's arrays fill the caches, then warm, as in a run that has
just made the mask. The least of all rounds is shown.
"""

import ctypes
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.labels import IGNORE, space
from pipeline.metrics.confusion import count_confusion
from pipeline.synthetic.street import draw_scene
from tests.bench.rows import Limit, record
from tests.bench.turns import show

HEIGHT, WIDTH, CLASSES = 1024, 2048, 19
# The loop of cityscapesScripts' addToConfusionMatrix_impl.c, which its wheel leaves out; on train ids, ignore in row 255.
OFFICIAL = """
void add(const unsigned char* prediction, const unsigned char* truth, unsigned size, unsigned long long* matrix, unsigned dim)
{
    for (unsigned i = 0; i < size; ++i) matrix[dim * truth[i] + prediction[i]] += 1u;
}
"""


def numpy_masked(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
    kept = label != IGNORE
    pairs = CLASSES * label[kept].astype(np.int64) + mask[kept]
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def torch_masked(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
    truth, found = torch.from_numpy(label), torch.from_numpy(mask)
    kept = truth != IGNORE
    pairs = CLASSES * truth[kept].long() + found[kept]
    return torch.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES).numpy()


def official() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    folder = tempfile.mkdtemp()
    source, library = Path(folder, "add.c"), Path(folder, "add.so")
    source.write_text(OFFICIAL)
    subprocess.run(["gcc", "-O3", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    add = ctypes.CDLL(str(library)).add

    def count(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
        matrix = np.zeros((256, 256), np.uint64)
        add(mask.ctypes.data_as(ctypes.c_char_p), label.ctypes.data_as(ctypes.c_char_p), label.size,
            matrix.ctypes.data_as(ctypes.c_void_p), 256)  # fmt: skip
        return matrix[:CLASSES, :CLASSES].astype(np.int64)

    return count


def metrics(validated: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    def count(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return multiclass_confusion_matrix(
            torch.from_numpy(mask), torch.from_numpy(label), CLASSES, ignore_index=IGNORE, validate_args=validated
        ).numpy()

    return count


def pictures() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label and mask: a drawn street whose mask is three pixels off, and noise, where no run is longer than a pixel."""
    rng = np.random.default_rng(0)
    street = space("cityscapes19").to_train(draw_scene(rng, HEIGHT, WIDTH)[1], "street")
    mask = np.roll(np.where(street == IGNORE, 0, street), (3, 3), (0, 1)).astype(np.uint8)
    noise = rng.integers(0, CLASSES, (2, HEIGHT, WIDTH)).astype(np.uint8)
    return {"street": (street, mask), "noise": (noise[0], noise[1])}


def main(rounds: int) -> None:
    programs: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "maskmill": lambda label, mask: count_confusion(label, mask, CLASSES),
        "numpy, masked bincount": numpy_masked,
        "torch, masked bincount": torch_masked,
        "cityscapesScripts' compiled loop": official(),
    }
    if importlib.util.find_spec("torchmetrics"):
        programs |= {"torchmetrics, unvalidated": metrics(False), "torchmetrics, its default": metrics(True)}
    for picture, (label, mask) in pictures().items():
        expected = numpy_masked(label, mask)
        taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in programs}  # ms: cold, warm
        worked: dict[str, list[float]] = {name: [] for name in programs}  # ms of processor time, warm
        for name, count in programs.items():
            assert (count(label, mask) == expected).all(), name
        for _ in range(rounds):
            for name, count in programs.items():
                for again in range(2):
                    started, cpu = time.perf_counter(), time.process_time()
                    count(label, mask)
                    taken[name][again].append(1000 * (time.perf_counter() - started))
                worked[name].append(1000 * (time.process_time() - cpu))
        least = {name: tuple(map(min, each)) for name, each in taken.items()}
        show(
            f"{picture}, {HEIGHT}x{WIDTH}x{CLASSES}; {rounds} rounds",
            ["way", "least ms, cold", "ratio", "least ms, warm", "ratio"],
            [
                [name, *(cell for ms, ours in zip(values, least["maskmill"], strict=True)
                         for cell in (f"{ms:.2f}", f"{ms / ours:.1f}"))]
                for name, values in least.items()
            ],
        )  # fmt: skip
        record(
            f"confusion counts of a {picture} image, in the caches", "ms cpu", worked.pop("maskmill"), worked,
            Limit("bytes", 2 * label.size, "each id of label and mask read once; it lies in the caches, which are faster"),
        )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
