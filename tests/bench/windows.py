"""Classifying each window alone, as before convolutional networks, compared with computing the whole image at once.

python -m tests.bench.windows [rounds] [network ...]    two minutes on 2 cores

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
from tests.bench.flops import operations
from tests.bench.rows import Limit
from tests.bench.turns import compare

HEIGHT, WIDTH, CLASSES = 128, 256, 19
WAYS = {  # network -> the modes that can run it
    "ResNet-18": ({"name": "classifier", "backbone": "resnet18"}, ("whole", "sliding_window")),
    "AlexNet": ({"name": "classifier", "backbone": "alexnet"}, ("whole", "sliding_window")),
    "FCN-ResNet50": ({"name": "fcn_resnet", "backbone": "resnet50"}, ("whole", "shift_and_stitch")),
}


def main(rounds: int, names: list[str]) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    image = draw_scene(np.random.default_rng(0), HEIGHT, WIDTH)[0]
    for name in names or WAYS:
        values, modes = WAYS[name]
        torch.manual_seed(0)
        model = models.build(parse_model(values, where=name), CLASSES).eval()
        ways = {}
        for mode in modes:
            predictor = Predictor(model, PredictConfig(mode=mode))
            ways[mode] = lambda predictor=predictor: predictor.probs([image])
        x = torch.zeros(1, 3, *model.legal_size(HEIGHT, WIDTH))
        words = "products and sums of direct convolutions, from torch's counter"
        limit = Limit("flops", operations(model, x), f"{words}; a second of one core's time beside one core's rate")
        title = f"{name}, one image of {HEIGHT}x{WIDTH}, {torch.get_num_threads()} threads"
        compare(title, ways, rounds, budget_s=30, row=f"{name}, scores of the whole image at once", limit=limit)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:])
