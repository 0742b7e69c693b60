"""The dense CRF on a CUDA device: ms an image, bytes and their floor, memory, agreement. `python -m tests.bench.gpu_crf`.

Needs nothing but the package and a device: without the CamVid photographs it draws scenes. The floor is the traffic to
the device's memory if every gather finds its rows in a cache: each table is read once and written once per use. `--device cpu`
runs the torch operations instead, to count bytes without a device. It ends with an error if labels and probabilities disagree
with the CPU path, bits with a second run or another image of the batch, or memory with its model.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.config import CrfConfig
from pipeline.crf import dense_crf
from pipeline.crf.gpu import dense_crf_batch, inference, torch_steps
from pipeline.crf.gpu.inference import steps_for
from pipeline.crf.gpu.lattice import DeviceLattice, build_lattice
from pipeline.crf.gpu.memory import most_bytes
from pipeline.crf.gpu.steps import Steps, padded
from pipeline.synthetic.street import draw_scene
from tests.bench.crf import CASES, SETTINGS, case
from tests.bench.gpu_chapter import Chapter
from tests.conftest import CAMVID
from tests.crf_cases import smooth_probs

H200_BYTES_PER_S = 4.8e12  # NVIDIA's data sheet


def scores_and_image(name: str) -> tuple[np.ndarray, np.ndarray]:
    if CAMVID.exists():
        return case(name)
    height, width, num_classes = CASES[name]
    image, label = draw_scene(np.random.default_rng(0), height, width)
    return smooth_probs(label.astype(int) * 13 % num_classes, num_classes), image


def floor_bytes(lattice: DeviceLattice, num_pixels: int, num_classes: int, iterations: int) -> dict[str, int]:
    """Of each part of one inference over `num_pixels` of all images."""
    entries, pieces, rows = len(lattice.pieces.index), len(lattice.pieces.start) - 1, len(lattice.rows.start) - 1
    row, plane = 4 * padded(num_classes), 4 * num_classes
    return {
        # Keys are written, sorted (8 passes over keys and places) and read; vertex, weight, index and share are written.
        "setup": entries * (2 * 8 + 8 * 2 * 16 + 4 * 4),
        "open": num_pixels * (plane + 2 * row),
        "pieces": iterations * (num_pixels * row + entries * 8 + pieces * row),
        "rows": iterations * (pieces * (row + 8) + rows * row),
        "blur": iterations * len(lattice.neighbours) * rows * (2 * row + 8),
        "update": (iterations - 1) * (rows * row + entries * 8 + num_pixels * 2 * row),
        "close": rows * row + entries * 8 + num_pixels * (row + plane),
    }


class Clock:
    """Steps whose seconds are added up by part; waiting after each, so the whole is slower than without."""

    def __init__(self, steps: Steps, device: torch.device) -> None:
        self._steps, self._device = steps, device
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        work = getattr(self._steps, name)
        if not callable(work):
            return work

        def timed(*args: Any) -> Any:
            # Sums of pixels weigh each by its share; those of pieces come after them, and are told apart by their length.
            part = name if name != "add_up" else "pieces" if len(args[1].index) > len(args[0]) else "rows"
            started = time.perf_counter()
            done = work(*args)
            wait(self._device)
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started
            return done

        return timed


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def least_labels(num_pixels: int) -> float:
    """The share of labels that must be the CPU path's: all but a hundred-thousandth, and one."""
    return 1 - 1e-5 - 1 / num_pixels


@torch.inference_mode()
def measure(
    name: str, setting: str, device: torch.device, batches: Sequence[int], repeats: int, bytes_per_s: float,
    chapter: Chapter,
) -> Iterator[list[str]]:  # fmt: skip
    cfg: CrfConfig = SETTINGS[setting]
    scores, image = scores_and_image(name)
    theirs = dense_crf(scores, image, cfg, torch.get_num_threads())
    ways = {"": steps_for(device)} | ({"by torch, as without a compiler": torch_steps} if device.type == "cuda" else {})
    for way, steps in ways.items():
        for batch in batches if steps is steps_for(device) else batches[:1]:
            title = f"{name}, {setting}, batch {batch}{', ' if way else ''}{way}"
            probs = torch.from_numpy(scores).to(device).expand(batch, -1, -1, -1).contiguous()
            images = torch.from_numpy(image).to(device).expand(batch, -1, -1, -1).contiguous()
            inference.steps_for = lambda device, steps=steps: steps
            try:
                yield _row(title, probs, images, cfg, theirs, repeats, bytes_per_s, chapter)
                if way == "":
                    yield from _parts(probs, images, cfg, bytes_per_s)
            finally:
                inference.steps_for = steps_for


def _row(
    title: str, probs: torch.Tensor, images: torch.Tensor, cfg: CrfConfig, theirs: np.ndarray, repeats: int,
    bytes_per_s: float, chapter: Chapter,
) -> list[str]:  # fmt: skip
    device, batch, points = probs.device, len(probs), probs[:, 0].numel()
    steps = inference.steps_for(device)
    ours = dense_crf_batch(probs, images, cfg)  # compiles, and fills the allocator
    same = torch.equal(ours, dense_crf_batch(probs, images, cfg)) and all(torch.equal(ours[0], one) for one in ours)
    first = ours[0].cpu().numpy()
    del ours
    lattice = build_lattice(inference.kernels_of(images, cfg), steps)
    needed = sum(floor_bytes(lattice, points, probs.shape[1], cfg.iterations).values())
    rows, corners = len(lattice.rows.start) - 1, lattice.vertex.shape[1]
    del lattice
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        dense_crf_batch(probs, images, cfg)
        wait(device)
        seconds.append(time.perf_counter() - started)
    bound = most_bytes(points, probs.shape[1], corners, steps, rows) + 2 * probs.nbytes
    peak = (torch.cuda.max_memory_allocated(device) - before) if device.type == "cuda" else 0
    chapter.hold(f"{title}: the peak of {peak} bytes is within the model's {bound}", peak <= bound)
    agreement, distance = float((first.argmax(0) == theirs.argmax(0)).mean()), float(np.abs(first - theirs).max())
    chapter.hold(
        f"{title}: {100 * agreement:.4f} % of the labels are the CPU path's, and probabilities {distance:.1e} apart",
        agreement >= least_labels(theirs[0].size) and distance <= 1e-4,
    )
    best, floor = min(seconds), needed / bytes_per_s
    return [
        title, f"{1e3 * best / batch:.2f}", f"{1e3 * np.median(seconds) / batch:.2f}", f"{1e3 * floor / batch:.2f}",
        f"{best / floor:.1f}", f"{peak / 2**20 / batch:.0f} of {bound / 2**20 / batch:.0f}", f"{100 * agreement:.4f} %",
        f"{distance:.1e}", chapter.hold(f"{title}: the same bits again, and for each image of a batch", same),
    ]  # fmt: skip


def _parts(probs: torch.Tensor, images: torch.Tensor, cfg: CrfConfig, bytes_per_s: float) -> Iterator[list[str]]:
    """ms and floor of each part, of one inference that waits after each."""
    device, batch, steps = probs.device, len(probs), inference.steps_for(probs.device)
    clock = Clock(steps, device)
    inference.steps_for = lambda device: clock
    started = time.perf_counter()
    dense_crf_batch(probs, images, cfg)
    wait(device)
    clock.seconds["setup"] = time.perf_counter() - started - sum(clock.seconds.values())
    lattice = build_lattice(inference.kernels_of(images, cfg), steps)
    for part, count in floor_bytes(lattice, probs[:, 0].numel(), probs.shape[1], cfg.iterations).items():
        seconds, floor = clock.seconds.get(part, 0.0), count / bytes_per_s
        yield [f"- {part}, {count / 1e9 / batch:.2f} GB", f"{1e3 * seconds / batch:.2f}", "",
               f"{1e3 * floor / batch:.2f}", f"{seconds / floor:.1f}", *[""] * 4]  # fmt: skip


def crf_part(
    chapter: Chapter, cases: Sequence[str], settings: Sequence[str], batches: Sequence[int], repeats: int,
    device: torch.device, bytes_per_s: float,
) -> None:  # fmt: skip
    chapter.part(
        "dense CRF, ms an image; A and B are the settings of tests/bench/crf.py",
        ["case", "least ms", "median", "floor", "times it", "peak MiB, of the model's", "labels", "max dQ", "same bits"],
        lambda: (row for name in cases for setting in settings
                 for row in measure(name, setting, device, batches, repeats, bytes_per_s, chapter)),
    )  # fmt: skip


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all by default")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--bytes-per-s", type=float, default=H200_BYTES_PER_S, help="of the floors")
    args = parser.parse_args(given)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu counts the bytes and checks the agreement")
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU tensors: times are not a device's")
    chapter = Chapter(60)
    crf_part(chapter, args.cases or list(CASES), args.settings, args.batches, args.repeats, device, args.bytes_per_s)
    chapter.close()


if __name__ == "__main__":
    main()
