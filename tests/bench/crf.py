"""The dense CRF beside pydensecrf, in one run: seconds, memory, agreement. `python -m tests.bench.crf [--parts] [CASE ...]`.

The modes take turns on the same image, so that a busy machine slows all, and the smallest time of each counts. The general path
and the device path on CPU tensors run once, to show agreement, not speed. Ratios are of wall time; "a core" is the ratio of
processor time on one thread, which other jobs disturb least. Peak memory is the growth of the resident set of a child process
that runs one inference, beyond imports, the image and its input: probabilities, or energies for pydensecrf.
`tests.bench.crf_fidelity` measures agreement over photographs, `tests.bench.gpu_crf` a CUDA device.
"""

import argparse
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import CrfConfig
from pipeline.crf import DenseCRF, dense_crf
from pipeline.crf.cpu.threads import Team
from pipeline.synthetic.street import draw_scene
from tests.bench.rows import Limit, record
from tests.conftest import CAMVID
from tests.crf_cases import SHARP, SOFT, energies_of, noisy_probs, on_device, original, photograph, pydensecrf

CASES = {
    "360x480x11": (360, 480, 11),
    "512x1024x19": (512, 1024, 19),
    "1024x2048x19": (1024, 2048, 19),
    "512x512x150": (512, 512, 150),
}
SETTINGS = {"A": SHARP, "B": SOFT}
Run = Callable[[np.ndarray, np.ndarray, CrfConfig], np.ndarray]
MODES: dict[str, Run] = {
    "pydensecrf": pydensecrf,
    "exact, 1 thread": lambda probs, image, cfg: dense_crf(probs, image, cfg, 1),
    "exact, 2 threads": lambda probs, image, cfg: dense_crf(probs, image, cfg, 2),
    "fast, 1 thread": lambda probs, image, cfg: dense_crf(probs, image, cfg.model_copy(update={"mode": "fast"}), 1),
    "general path, 2 threads": lambda probs, image, cfg: general(probs, image, cfg, 2),
    "device path on CPU tensors": on_device,
}
ONCE = {"general path, 2 threads", "device path on CPU tensors"}


def general(probs: np.ndarray, image: np.ndarray, cfg: CrfConfig, num_threads: int) -> np.ndarray:
    """The same model by way of full compatibility matrices."""
    crf, same = DenseCRF.from_probs(probs), np.eye(len(probs))
    crf.add_gaussian(cfg.smooth_px, -cfg.smooth_weight * same)
    crf.add_bilateral(image, cfg.colour_px, cfg.colour_levels, -cfg.colour_weight * same)
    return crf.inference(cfg.iterations, num_threads)


def case(name: str, drawn: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores and image of a case: a CamVid photograph at its size, or a drawn street, which is there on every machine."""
    height, width, num_classes = CASES[name]
    if drawn:
        image, label = draw_scene(np.random.default_rng(0), height, width)
    else:
        image, label = photograph(CAMVID, 0, (height, width))
    return noisy_probs(label.astype(int) * 13 % num_classes, num_classes), image


def peak_mib(mode: str, name: str, setting: str, drawn: bool) -> float:
    """Growth of the peak resident set over one inference, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grow, (mode, name, setting, drawn))


def _grow(mode: str, name: str, setting: str, drawn: bool) -> float:
    probs, image = case(name, drawn)
    warm_up(mode, probs, image, SETTINGS[setting])
    run = MODES[mode]
    if mode == "pydensecrf":
        probs, run = energies_of(probs), original
    # The scores' making took more than the inference may take: forget the peak so far (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = _kib("VmRSS")
    run(probs, image, SETTINGS[setting])
    return (_kib("VmHWM") - before) / 1024


def warm_up(mode: str, probs: np.ndarray, image: np.ndarray, cfg: CrfConfig) -> None:
    """A corner of the image: what is compiled or loaded once is not the inference's."""
    MODES[mode](np.ascontiguousarray(probs[:, :40, :40]), np.ascontiguousarray(image[:40, :40]), cfg)


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(name: str, repeats: int, drawn: bool, exact: bool) -> Iterator[str]:
    probs, image = case(name, drawn)
    modes = {mode: run for mode, run in MODES.items() if not exact or mode not in ONCE}
    for setting, cfg in SETTINGS.items():
        for mode in modes:
            warm_up(mode, probs, image, cfg)
        wall, cpu, result = defaultdict(list), defaultdict(list), {}
        for turn in range(repeats):
            for mode, run in modes.items():
                if turn and mode in ONCE:
                    continue
                started, worked = time.perf_counter(), time.process_time()
                result[mode] = run(probs, image, cfg)
                wall[mode].append(time.perf_counter() - started)
                cpu[mode].append(time.process_time() - worked)
        theirs, grown = result["pydensecrf"], {mode: peak_mib(mode, name, setting, drawn) for mode in modes}
        keep_rows(f"dense CRF, {name}, setting {setting}", wall, cpu, grown, probs.size, cfg.iterations)
        for mode, ours in result.items():
            agreement = 100 * (ours.argmax(0) == theirs.argmax(0)).mean()
            distance = np.abs(ours - theirs)
            ratio = min(wall["pydensecrf"]) / min(wall[mode])
            core = min(cpu["pydensecrf"]) / min(cpu[mode])
            yield (
                f"| {name}, {setting} | {mode} | {min(wall[mode]):.2f} | {np.median(wall[mode]):.2f} | {min(cpu[mode]):.2f} | "
                f"{ratio:.1f} | {core:.1f} | {grown[mode]:.0f} | {agreement:.4f} | {distance.mean():.1e} | "
                f"{distance.max():.1e} |"
            )


def keep_rows(
    name: str, wall: dict[str, list[float]], cpu: dict[str, list[float]], grown: dict[str, float], size: int, steps: int
) -> None:
    """Rows of the book."""
    words = f"{steps} steps that read scores and marginals and write marginals, as if the lattice cost nothing"
    for mode, seconds, clock, threads in (
        ("exact, 1 thread", cpu, "cpu", 1),
        ("exact, 2 threads", wall, "wall", 2),
    ):
        limit = Limit("bytes", 3 * 4 * size * steps, words, threads)
        peers = {"pydensecrf": seconds["pydensecrf"]}
        record(f"{name}, {threads} thread{'s'[: threads - 1]}", f"s {clock}", seconds[mode], peers, limit)
    ours, theirs = [grown["exact, 2 threads"]], {"pydensecrf": [grown["pydensecrf"]]}
    record(f"{name}, memory beyond the scores", "MiB", ours, theirs, "the marginals alone are as large as the scores")


@contextmanager
def parts_timed(seconds: dict[str, list[float]]) -> Iterator[None]:
    """Within it, wall and processor seconds of each compiled part are added up."""
    original = Team.run

    def timed(team: Team, work: Callable[..., Any], tasks: Any) -> list[Any]:
        started, worked = time.perf_counter(), time.process_time()
        done = original(team, work, tasks)
        part = seconds.setdefault(work.__name__, [0.0, 0.0])
        part[0] += time.perf_counter() - started
        part[1] += time.process_time() - worked
        return done

    Team.run = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Team.run = original  # type: ignore[method-assign]


def breakdown(name: str, num_threads: int) -> Iterator[str]:
    probs, image = case(name)
    for setting, cfg in SETTINGS.items():
        dense_crf(probs, image, cfg, num_threads)
        seconds: dict[str, list[float]] = {}
        with parts_timed(seconds):
            started, worked = time.perf_counter(), time.process_time()
            dense_crf(probs, image, cfg, num_threads)
            seconds["all"] = [time.perf_counter() - started, time.process_time() - worked]
        for part, (wall, cpu) in seconds.items():
            yield f"| {name}, {setting}, {num_threads} threads | {part.strip('_')} | {wall:.3f} | {cpu:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all by default")
    parser.add_argument("--parts", action="store_true", help="seconds of each part instead")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--drawn", action="store_true", help="a drawn street instead of a CamVid photograph")
    parser.add_argument("--exact", action="store_true", help="without the paths that are there for their agreement")
    args = parser.parse_args()
    if args.parts:
        print("| case | part | wall s | cpu s |\n| --- | --- | --- | --- |")
    else:
        print("| case | mode | s, best | s, median | cpu s | ratio | a core | peak MiB | labels % | mean dQ | max dQ |")
        print("| --- " * 11 + "|")
    for name in args.cases or CASES:
        parts = (line for n in (1, 2) for line in breakdown(name, n))
        lines = parts if args.parts else measure(name, args.repeats, args.drawn, args.exact)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
