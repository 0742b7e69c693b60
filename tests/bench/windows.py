"""The method before convolutional networks beside them: a classifier on each window alone, the whole image at once.

python -m tests.bench.windows [rounds]    two minutes on 2 cores

All ways give class scores from the same weights; arXiv:1411.4038, section 3.1, says why the second is cheaper: neighbouring
windows share most of their work.
"""

import os
import sys

import numpy as np
import torch

from pipeline import models
from pipeline.config import PredictConfig, parse_model
from pipeline.predict import Predictor
from pipeline.synthetic.street import draw_scene
from tests.bench.turns import compare

HEIGHT, WIDTH, CLASSES = 128, 256, 19
WAYS = {  # network -> the modes that can run it
    "ResNet-18": ({"name": "classifier", "backbone": "resnet18"}, ("whole", "sliding_window")),
    "AlexNet": ({"name": "classifier", "backbone": "alexnet"}, ("whole", "sliding_window")),
    "FCN-ResNet50": ({"name": "fcn_resnet", "backbone": "resnet50"}, ("whole", "shift_and_stitch")),
}


def main(rounds: int) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    image = draw_scene(np.random.default_rng(0), HEIGHT, WIDTH)[0]
    for name, (values, modes) in WAYS.items():
        torch.manual_seed(0)
        model = models.build(parse_model(values, where=name), CLASSES).eval()
        ways = {}
        for mode in modes:
            predictor = Predictor(model, PredictConfig(mode=mode))
            ways[mode] = lambda predictor=predictor: predictor.probs([image])
        compare(f"{name}, one image of {HEIGHT}x{WIDTH}, {torch.get_num_threads()} threads", ways, rounds, budget_s=30)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
