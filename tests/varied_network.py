"""Networks with random weights whose masks hold several classes; other untrained networks predict one class everywhere."""

import numpy as np
import torch
from torch import nn

from pipeline import models
from pipeline.config import parse_model
from pipeline.models import Network


def varied_network(section: dict[str, object], num_classes: int, image: np.ndarray) -> Network:
    """Batch norms hold this image's statistics, and the last bias gives each class the mean score 0 on it."""
    torch.manual_seed(0)
    network = models.build(parse_model(section, where="test"), num_classes)
    size = network.legal_size(*image.shape[:2])
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None, :, : size[0], : size[1]]
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.out_channels == num_classes]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        x = network.normalise(pixels)
        if norms:
            network.train()(torch.cat([x, x.flip(-1)]))
        scores = network.eval()(x)[-1]
        assert layers[-1].bias is not None
        layers[-1].bias -= scores.mean(dim=(0, 2, 3))
    return network
