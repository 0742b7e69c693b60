"""One accelerator, one process, no Ray: forward, enlargement, CRF and the whole segmenter, each against its floor.

python -m tests.bench.gpu [--tiny] [--networks N]    some minutes on a card; --tiny shows in a minute on a CPU that it runs

Floors: operations of the network (torch's flop counter, two for a multiplication and an addition) over the rate of a bf16
matrix product measured here; bytes that must move over the rate of a copy measured here. A part whose libraries are not
installed says so.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.gpu_segmenter import DEVICE, end_to_end, timed
from tests.bench.turns import show

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
        floor = counter.get_total_flops() / batch / rate
        yield [" ".join(map(str, values.values())), f"{counter.get_total_flops() / batch / 1e9:.1f}", f"{1e3 * seconds:.3f}",
               f"{1e3 * floor:.3f}", f"{100 * floor / seconds:.0f} %"]  # fmt: skip


@torch.inference_mode()
def enlargement(height: int, width: int, bytes_s: float) -> Iterator[list[str]]:
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

    floor = (scores.numel() * 4 + height * width) / bytes_s
    agree = float((predictor.masks([image])[0].mask == stock()).mean())
    for name, work in {
        "torch: interpolate, softmax, argmax": stock,
        "maskmill": lambda: predictor.masks([image]),
    }.items():
        yield [name, f"{1e3 * timed(work, 10):.3f}", f"{1e3 * floor:.4f}", f"{100 * agree:.4f} %"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--networks", type=int, help="only the first so many")
    args = parser.parse_args()
    height, width, batch, images = (128, 256, 1, 4) if args.tiny else (1024, 2048, 4, 128)
    chosen = args.networks or (2 if args.tiny else len(NETWORKS))
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rate, bytes_s = floors(args.tiny)
    size = f"{height}x{width}"
    print(f"{name}: {rate / 1e12:.2f} TFLOP/s in a bf16 matrix product, {bytes_s / 1e9:.0f} GB/s in a copy")
    parts: dict[str, tuple[list[str], Callable[[], Iterator[list[str]]]]] = {
        f"forward, {size}, bf16, batch {batch}, ms an image": (
            ["network", "GFLOP", "ms", "floor ms", "of the floor"],
            lambda: forwards(height, width, batch, rate, chosen)),
        f"coarse scores to a mask, {size}x{CLASSES}": (
            ["way", "ms", "floor ms", "labels equal"], lambda: enlargement(height, width, bytes_s)),
        f"end to end, LRASPP, PNGs of {size}, batch {batch}": (
            ["way", "images/s", "of the predictor"], lambda: end_to_end(height, width, batch, images)),
    }  # fmt: skip
    for title, (header, part) in parts.items():
        try:
            show(title, header, part())
        except ModuleNotFoundError as error:
            print(f"\n{title}: left out, {error}")
    small = ["360x480x11", "--settings", "B", "--batches", "1", "--repeats", "1"] if args.tiny else []
    try:
        from tests.bench import gpu_crf

        gpu_crf.main([*small, "--device", DEVICE.type, "--bytes-per-s", str(bytes_s)])
    except ModuleNotFoundError as error:
        print(f"\ndense CRF: left out, {error}")


if __name__ == "__main__":
    main()
