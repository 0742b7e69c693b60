"""Measurements of one GPU in one process, without Ray; each part is compared with its lower bound and its expected result.

python -m tests.bench.gpu [--minutes 10] [--networks N]    the whole chapter on the GPU of this machine
python -m tests.bench.gpu --tiny                           shows in a minute on a CPU that it runs

Parts: compiled kernels, GPU tests, forward, enlargement, CRF, the whole segmenter. Lower bounds (floors): operations of the
network (torch's flop counter, two for a multiplication and an addition) over the rate of a bf16 matrix product; bytes to move
over the rate of a copy. Ends with an error if results disagree; names parts that had no time or lack a library.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.crf import CASES
from tests.bench.gpu_chapter import Chapter
from tests.bench.gpu_crf import crf_part
from tests.bench.gpu_segmenter import DEVICE, end_to_end, timed
from tests.bench.rows import Limit, record
from tests.conftest import ROOT

CLASSES, STRIDE = 19, 8
NETWORKS: tuple[dict[str, object], ...] = (
    {"name": "lraspp"},
    {"name": "deeplabv3plus", "backbone": "efficientnet_lite0"},
    {"name": "deeplabv3", "backbone": "resnet101", "output_stride": 8},
    {"name": "deeplabv3plus", "backbone": "xception65"},
    {"name": "fcn_resnet", "backbone": "resnet50"},
    {"name": "fcn"},
    {"name": "unet"},
    {"name": "segnet"},
    {"name": "hourglass", "stacks": 2},
)


def floors(tiny: bool) -> tuple[float, float]:
    """(bf16 operations/s of a matrix product, bytes/s of a copy: read and written)."""
    size, count = (512, 1 << 22) if tiny else (8192, 1 << 30)
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(count, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * size**3 / timed(lambda: a @ b, 10), 2 * count / timed(lambda: target.copy_(source), 10)


@torch.inference_mode()
def forwards(height: int, width: int, batch: int, rate: float, chosen: int) -> Iterator[list[str]]:
    from pipeline import models
    from pipeline.config import parse_model

    for values in NETWORKS[:chosen]:
        model = models.build(parse_model(values, where="bench"), CLASSES).eval().place(DEVICE)
        x = torch.randn(batch, 3, *model.legal_size(height, width), device=DEVICE)
        x = x.contiguous(memory_format=torch.channels_last)
        run = model.coarse if model.enlarges else model
        with torch.autocast(DEVICE.type, torch.bfloat16):
            with FlopCounterMode(display=False) as counter:
                run(x)
            seconds = timed(lambda run=run, x=x: run(x), 10) / batch
        count, name = counter.get_total_flops() / batch, " ".join(map(str, values.values()))
        floor = count / rate
        limit = Limit("flops", count, "of the network, over a bf16 product on the device", peak=rate)
        record(f"forward of {name}, {height}x{width}, bf16", "ms", [1e3 * seconds], {}, limit)
        yield [name, f"{count / 1e9:.1f}", f"{1e3 * seconds:.3f}",
               f"{1e3 * floor:.3f}", f"{100 * floor / seconds:.0f} %"]  # fmt: skip


@torch.inference_mode()
def enlargement(height: int, width: int, bytes_s: float, chapter: Chapter) -> Iterator[list[str]]:
    """The predictor over a network that gives stored scores: its way from those to a mask on the host is all there is."""
    from pipeline.config import PredictConfig
    from pipeline.models import Network
    from pipeline.predict import Predictor

    scores = torch.randn(1, CLASSES, height // STRIDE, width // STRIDE, device=DEVICE)
    scores = F.avg_pool2d(scores, 9, 1, 4).contiguous(
        memory_format=torch.channels_last
    )  # neighbours agree, as in pictures

    class Stored(Network):
        enlarges, multiple_of, min_size = True, 1, 1

        def coarse(self, x: torch.Tensor) -> torch.Tensor:
            return scores

    predictor = Predictor(Stored(), PredictConfig(), DEVICE)
    image = np.zeros((height, width, 3), np.uint8)

    def stock() -> np.ndarray:
        large = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
        probs = large.softmax(1)
        torch.special.entr(probs).sum(1).mean().item(), probs.amax(1).mean().item()
        return large.argmax(1)[0].to(torch.uint8).cpu().numpy()

    size = scores.numel() * 4 + height * width
    floor, taken = size / bytes_s, dict[str, float]()
    agree = float((predictor.masks([image])[0].mask == stock()).mean())
    for name, work in {
        "torch: interpolate, softmax, argmax": stock,
        "maskmill": lambda: predictor.masks([image]),
    }.items():
        taken[name] = 1e3 * timed(work, 10)
        yield [name, f"{taken[name]:.3f}", f"{1e3 * floor:.4f}", f"{100 * agree:.4f} %"]
    chapter.hold(f"enlargement: {100 * agree:.4f} % of the labels are torch's", agree >= 0.9999)
    limit = Limit("bytes", size, "scores read and mask written, over a copy on the device", peak=bytes_s)
    ours = taken.pop("maskmill")
    record("coarse scores to a mask", "ms", [ours], {name: [ms] for name, ms in taken.items()}, limit)


def kernels(chapter: Chapter) -> Iterator[list[str]]:
    """As compiled for this GPU, or on a CPU for an H100."""
    from tests.bench.gpu_kernels import all_launches, compile_for

    major, minor = torch.cuda.get_device_capability() if DEVICE.type == "cuda" else (9, 0)
    for purpose, launch in all_launches(CLASSES):
        usage = compile_for(launch, 10 * major + minor)
        chapter.hold(f"{launch.name} of {purpose} spills no registers", usage.spilled_bytes == 0)
        yield [launch.name, purpose, str(usage.registers), str(usage.spilled_bytes), str(usage.shared_bytes)]


def device_tests(chapter: Chapter) -> Iterator[list[str]]:
    """The kernels against the CPU path and torch, a device against itself: what `pytest -m gpu` runs."""
    files = [f"tests/test_{name}.py" for name in ("crf_device", "enlarge_gpu", "crf_batches")]
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *files], cwd=ROOT, capture_output=True, text=True
    )
    if told.returncode:
        print(told.stdout[-4000:], told.stderr[-2000:])
    last = (told.stdout.strip() or "nothing was said").splitlines()[-1]
    yield [last, chapter.hold(f"the tests of a GPU pass: {last}", told.returncode == 0)]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--networks", type=int, help="only the first so many")
    parser.add_argument("--minutes", type=float, default=10, help="no part is begun after them")
    args = parser.parse_args(given)
    if DEVICE.type != "cuda" and not args.tiny:
        raise SystemExit("no CUDA device here; --tiny shows on a CPU that it runs, and compares what a CPU can")
    chapter = Chapter(args.minutes)
    height, width, batch, images = (128, 256, 1, 4) if args.tiny else (1024, 2048, 4, 128)
    chosen = args.networks or (2 if args.tiny else len(NETWORKS))
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rate, bytes_s = floors(args.tiny)
    size = f"{height}x{width}"
    print(f"{name}: {rate / 1e12:.2f} TFLOP/s in a bf16 matrix product, {bytes_s / 1e9:.0f} GB/s in a copy")
    chapter.part(
        f"Triton kernels, {CLASSES} classes",
        ["kernel", "of", "registers", "spilled bytes", "shared bytes"], lambda: kernels(chapter),
    )  # fmt: skip
    if DEVICE.type == "cuda":
        chapter.part("tests of a GPU", ["pytest", "passed"], lambda: device_tests(chapter))
    chapter.part(
        f"coarse scores to a mask, {size}x{CLASSES}",
        ["way", "ms", "floor ms", "labels equal"], lambda: enlargement(height, width, bytes_s, chapter),
    )  # fmt: skip
    chapter.part(
        f"end to end, LRASPP, PNGs of {size}, batch {batch}",
        ["way", "images/s", "of the predictor"], lambda: end_to_end(height, width, batch, images, chapter),
    )  # fmt: skip
    cases, settings, repeats = (["360x480x11"], ["B"], 1) if args.tiny else (list(CASES), ["A", "B"], 5)
    crf_part(chapter, cases, settings, [1] if args.tiny else [1, 4], repeats, DEVICE, bytes_s)
    chapter.part(
        f"forward, {size}, bf16, batch {batch}, ms an image",
        ["network", "GFLOP", "ms", "floor ms", "of the floor"], lambda: forwards(height, width, batch, rate, chosen),
    )  # fmt: skip
    chapter.close()


if __name__ == "__main__":
    main()
