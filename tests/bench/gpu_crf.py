"""The dense CRF on a CUDA device: ms an image, bytes and their floor, memory, agreement. `python -m tests.bench.gpu_crf`.

Needs nothing but the package and a device: without the CamVid photographs it draws scenes. The floor is what must pass through
the device's memory if every gather finds its rows in a cache: each table is read once and written once a use. `--device cpu`
runs the torch operations instead, to count bytes where no device is.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.config import CrfConfig
from pipeline.crf import dense_crf
from pipeline.crf.gpu import dense_crf_batch, inference
from pipeline.crf.gpu.inference import steps_for
from pipeline.crf.gpu.lattice import DeviceLattice, build_lattice
from pipeline.crf.gpu.steps import Steps, padded
from pipeline.synthetic.street import draw_scene
from tests.bench.crf import CASES, SETTINGS, case
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


@torch.inference_mode()
def measure(
    name: str, setting: str, device: torch.device, batch: int, repeats: int, bytes_per_s: float
) -> Iterator[str]:
    cfg: CrfConfig = SETTINGS[setting]
    scores, image = scores_and_image(name)
    probs = torch.from_numpy(scores).to(device).expand(batch, -1, -1, -1).contiguous()
    images = torch.from_numpy(image).to(device).expand(batch, -1, -1, -1).contiguous()
    ours = dense_crf_batch(probs, images, cfg)  # compiles, and fills the allocator
    same = torch.equal(ours, dense_crf_batch(probs, images, cfg))
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
    peak = "not counted"
    if device.type == "cuda":
        peak = f"{(torch.cuda.max_memory_allocated(device) - before) / 2**20 / batch:.0f} MiB an image"
    theirs = dense_crf(scores, image, cfg, 2)
    first = ours[0].cpu().numpy()
    agreement, distance = 100 * (first.argmax(0) == theirs.argmax(0)).mean(), np.abs(first - theirs).max()

    clock = Clock(steps_for(device), device)
    inference.steps_for = lambda device: clock  # type: ignore[assignment]
    started = time.perf_counter()
    dense_crf_batch(probs, images, cfg)
    wait(device)
    whole = time.perf_counter() - started
    inference.steps_for = steps_for
    kernels = inference.kernels_of(images, cfg)
    lattice = build_lattice(kernels, steps_for(device))
    needed = floor_bytes(lattice, probs[:, 0].numel(), probs.shape[1], cfg.iterations)
    floor = sum(needed.values()) / bytes_per_s
    best = min(seconds)
    yield (
        f"{name}, {setting}, batch {batch}: {1000 * best / batch:.2f} ms an image, median "
        f"{1000 * np.median(seconds) / batch:.2f}, "
        f"floor {1000 * floor / batch:.2f} ms, {best / floor:.1f} times it; peak {peak}; "
        f"{len(lattice.rows.start) - 1} vertices, {len(lattice.pieces.start) - 1} pieces; against the CPU path: labels "
        f"{agreement:.4f} %, max dQ {distance:.1e}; {'the same bits again' if same else 'OTHER BITS THE SECOND TIME'}"
    )
    clock.seconds["setup"] = whole - sum(clock.seconds.values())
    for part, count in needed.items():
        yield (
            f"    {part:7} {1000 * clock.seconds.get(part, 0.0) / batch:8.2f} ms, {count / 1e9 / batch:6.2f} GB, "
            f"floor {1000 * count / bytes_per_s / batch:5.2f} ms"
        )


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
    for name in args.cases or CASES:
        for setting in args.settings:
            for batch in args.batches:
                for line in measure(name, setting, device, batch, args.repeats, args.bytes_per_s):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
