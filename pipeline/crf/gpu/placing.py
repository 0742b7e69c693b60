"""Where pixels lie among the vertices of a permutohedral lattice, in plain torch: the same bits as `pipeline.crf.cpu.vertices`.

Letters: d feature axes, M points (the pixels of all images of a batch).

Each operation is one of torch's, so that nothing is contracted to a fused multiply-add: that would move weights by 1e-7, and
points between two simplices from one to the other.
"""

import numpy as np
import torch

from pipeline.crf.cpu.lattice import Packing


def place(features: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor]:
    """The simplex around each point: keys (M, d + 1) int64 of its corners, and barycentric weights (M, d + 1) float32.

    Args:
        features: (d, M) float32, each axis divided by its standard deviation.
        packing: of ends between which they lie.
    """
    d, num_points = features.shape
    elevated = features.new_empty(d + 1, num_points)
    total = features.new_zeros(num_points)
    for axis in range(d, 0, -1):
        scaled = features[axis - 1] * float(packing.scale[axis - 1])
        elevated[axis] = total - scaled * axis
        total = total + scaled
    elevated[0] = total
    down = float(np.float32(1) / np.float32(d + 1))
    whole = (elevated * down).round()  # halves to even
    rest = elevated - whole * (d + 1)
    rank = whole.sum(dim=0, keepdim=True).repeat(d + 1, 1)  # whole numbers far below 2^24: exact in any order
    for axis in range(d):
        less = rest[axis] < rest[axis + 1 :]
        rank[axis] += less.sum(dim=0)
        rank[axis + 1 :] += ~less
    turn = (rank < 0).float() - (
        rank > d
    ).float()  # one period up where a rank fell below 0, one down where it passed d
    whole += turn
    at = (rank + turn * (d + 1)).long()
    rest = torch.empty_like(rest).scatter_(0, at, (elevated - whole * (d + 1)) * down)  # by rank
    weight = features.new_empty(num_points, d + 1)
    weight[:, 0] = rest[d] + (1 - rest[0])
    weight[:, 1:] = (rest[:-1] - rest[1:]).flip(0).T
    units = torch.from_numpy(packing.units).to(features.device)[:, None]
    low = torch.from_numpy(packing.low).to(features.device)[:, None]
    key = at.new_empty(num_points, d + 1)
    key[:, 0] = ((whole[:d].long() - low) * units[:d]).sum(dim=0)
    # From one corner to the next the remainder grows by 1, and the axis of the largest rank left falls one period back.
    key[:, 1:] = 1 - torch.empty_like(at).scatter_(0, at, units.expand_as(at))[1:].flip(0).T
    return key.cumsum(dim=1), weight
