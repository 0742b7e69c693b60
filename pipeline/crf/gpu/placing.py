"""Place pixels in a permutohedral lattice with torch operations: the same bits as `pipeline.crf.cpu.vertices`.

Letters: d feature axes, M points (the pixels of all images of a batch).

Each operation is a separate torch call, so that nothing is contracted to a fused multiply-add, which would change weights by
1e-7 and move points on the border of two simplices from one to the other.
"""

import numpy as np
import torch

from pipeline.crf.cpu.lattice import Packing


def place(features: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the simplex around each point: keys (M, d + 1) int64 of its corners, barycentric weights (M, d + 1) float32.

    Args:
        features: (d, M) float32, each axis divided by its standard deviation.
        packing: made of bounds of the features.
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
    turn = (rank < 0).float() - (rank > d).float()  # periods of d + 1: up if a rank is below 0, down if above d
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
    # From one corner to the next, the remainder grows by 1, and the axis with the largest remaining rank moves back a period.
    key[:, 1:] = 1 - torch.empty_like(at).scatter_(0, at, units.expand_as(at))[1:].flip(0).T
    return key.cumsum(dim=1), weight
