"""The fast mode of the dense CRF beside the exact one. `python -m tests.bench.crf_fast CHECKPOINT [--images N] [--size H W]`.

CamVid validation photographs, spread evenly over the split, with the scores of a trained network. With --size, both are
enlarged, the scores bilinearly as in a network's last layer, and eight classes that the network never predicts are added to
make 19. The modes take turns, and the least processor time of each on one thread counts. Boundary IoU is of summed counts.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.config import PredictConfig
from pipeline.crf import dense_crf
from pipeline.labels import IGNORE
from pipeline.metrics.boundary import boundary_iou, count_boundary
from pipeline.metrics.iou import mean
from pipeline.models import checkpoint
from pipeline.predict import Predictor
from tests.bench.crf import SETTINGS
from tests.bench.crf_net import NUM_VAL
from tests.conftest import CAMVID
from tests.crf_cases import photograph

MORE_CLASSES = 8
WIDTHS_PX = (1, 3, 5)
MODES = ("exact", "fast")


def enlarged(probs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C + 8, H, W): logits enlarged; those of the other classes are of the mirrored picture, and five less."""
    logits = np.log(np.maximum(probs, 1e-7))
    others = np.stack([logits[(c + 5) % len(logits)][:, ::-1] - 5 for c in range(MORE_CLASSES)])
    both = torch.from_numpy(np.concatenate([logits, others]))
    return F.interpolate(both[None], size, mode="bilinear").softmax(dim=1)[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="of the CamVid label space, such as <output>/best")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    args = parser.parse_args()
    ready = checkpoint.load(args.checkpoint)
    predictor, num_classes = Predictor(ready.model, PredictConfig(), num_threads=1), ready.label_space.num_classes
    size = tuple(args.size) if args.size else None
    print("| setting | photograph | equal labels, % | exact, cpu s | fast, cpu s | ratio |\n" + "| --- " * 6 + "|")
    counts = {(setting, mode): np.zeros(()) for setting in args.settings for mode in MODES}
    for number in np.linspace(0, NUM_VAL - 1, args.images).astype(int):
        probs = predictor.probs([photograph(CAMVID, int(number))[0]])[0].numpy()
        image, label = photograph(CAMVID, int(number), size)
        label = np.where(label < num_classes, label, IGNORE).astype(np.uint8)
        probs = enlarged(probs, size) if size else probs
        for setting in args.settings:
            configs = {mode: SETTINGS[setting].model_copy(update={"mode": mode}) for mode in MODES}
            masks, seconds = {}, dict.fromkeys(MODES, np.inf)
            for _ in range(args.repeats):
                for mode, cfg in configs.items():
                    began = time.process_time()
                    marginals = dense_crf(probs, image, cfg)
                    seconds[mode] = min(seconds[mode], time.process_time() - began)
                    masks[mode] = marginals.argmax(axis=0).astype(np.uint8)
            for mode, mask in masks.items():
                counts[setting, mode] = counts[setting, mode] + count_boundary(label, mask, len(probs), WIDTHS_PX)
            print(
                f"| {setting} | {number} | {100 * (masks['exact'] == masks['fast']).mean():.3f} | {seconds['exact']:.2f} | "
                f"{seconds['fast']:.2f} | {seconds['exact'] / seconds['fast']:.2f} |",
                flush=True,
            )
    print("\n| setting | band, px | boundary IoU, exact | fast | change |\n" + "| --- " * 5 + "|")
    for setting in args.settings:
        for index, width in enumerate(WIDTHS_PX):
            exact, fast = (100 * mean(boundary_iou(counts[setting, mode][index])) for mode in MODES)
            print(f"| {setting} | {width} | {exact:.2f} | {fast:.2f} | {fast - exact:+.3f} |")


if __name__ == "__main__":
    main()
