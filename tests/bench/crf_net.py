"""Fidelity of the dense CRF on the scores of a trained network. `python -m tests.bench.crf_net CHECKPOINT [--images N]`.

CamVid validation photographs, evenly over the split; each path beside pydensecrf with DeepLab's parameters (A) and pydensecrf's
example (B), and all of them beside the same steps in float64. Counts are summed over the images, distances are the largest.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from pipeline.config import CrfConfig, PredictConfig
from pipeline.crf import dense_crf
from pipeline.crf.gpu import torch_steps
from pipeline.crf.gpu.inference import kernels_of
from pipeline.crf.gpu.lattice import build_lattice
from pipeline.crf.gpu.steps import Sums
from pipeline.models import checkpoint
from pipeline.predict import Predictor
from tests.bench.crf import SETTINGS
from tests.conftest import CAMVID
from tests.crf_cases import on_device, photograph, pydensecrf

NUM_VAL = 101  # photographs of the split


def in_float64(probs: np.ndarray, image: np.ndarray, cfg: CrfConfig) -> np.ndarray:
    """What the steps give when only the weights are rounded to float32: the yardstick of what the others round."""
    lattice = build_lattice(kernels_of(torch.from_numpy(image)[None], cfg), torch_steps)
    wide = [Sums(sums.index, sums.weight.double(), sums.start) for sums in (lattice.pieces, lattice.rows)]
    lattice = replace(lattice, weight=lattice.weight.double(), pieces=wide[0], rows=wide[1])
    scores = torch.from_numpy(probs).clamp(min=1e-5).double().log().flatten(1).T.contiguous()
    marginals = scores.softmax(dim=1)
    for _ in range(cfg.iterations):
        values = torch_steps.add_up(torch_steps.add_up(marginals, lattice.pieces), lattice.rows)
        for neighbours in lattice.neighbours:
            values = torch_steps.blur(values, neighbours)
        marginals = torch_steps.update(values, lattice.vertex, lattice.weight, scores, None)
    return marginals.T.reshape(probs.shape).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="of the CamVid label space, such as <output>/best")
    parser.add_argument("--images", type=int, default=8)
    args = parser.parse_args()
    ready = checkpoint.load(args.checkpoint)
    predictor = Predictor(ready.model, PredictConfig())
    changed, unequal, total, largest, distance, above = {}, {}, 0, {}, {}, {}
    for number in np.linspace(0, NUM_VAL - 1, args.images).astype(int):
        image, _ = photograph(CAMVID, int(number))
        probs = predictor.probs([image])[0].numpy()
        total += image[..., 0].size
        for setting, cfg in SETTINGS.items():
            theirs = pydensecrf(probs, image, cfg)
            changed[setting] = changed.get(setting, 0) + int((theirs.argmax(0) != probs.argmax(0)).sum())
            cpu, device, exact = (
                dense_crf(probs, image, cfg, 2),
                on_device(probs, image, cfg),
                in_float64(probs, image, cfg),
            )
            for path, other, against in (
                ("CPU against pydensecrf", cpu, theirs),
                ("device path against pydensecrf", device, theirs),
                ("device path against CPU", device, cpu),
                ("pydensecrf against float64", theirs, exact),
                ("CPU against float64", cpu, exact),
                ("device path against float64", device, exact),
            ):
                key = setting, path
                unequal[key] = unequal.get(key, 0) + int((other.argmax(0) != against.argmax(0)).sum())
                above[key] = above.get(key, 0) + int((np.abs(other - against).max(axis=0) > 1e-5).sum())
                largest[key] = max(largest.get(key, 0.0), float(np.abs(other - against).max()))
                distance[key] = distance.get(key, 0.0) + float(np.abs(other - against).mean()) / args.images
    print(
        "| setting | pixels the CRF changes, % | compared | pixels | other label | dQ above 1e-5 | mean dQ | max dQ |"
    )
    print("| --- " * 8 + "|")
    for setting, path in sorted(unequal):
        key = setting, path
        print(
            f"| {setting} | {100 * changed[setting] / total:.2f} | {path} | {total} | {unequal[key]} | {above[key]} | "
            f"{distance[key]:.1e} | {largest[key]:.1e} |"
        )


if __name__ == "__main__":
    main()
