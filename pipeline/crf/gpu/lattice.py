"""The permutohedral lattice of a batch of images on a device: one row per vertex, with its pixels and its neighbours.

Letters: N images, P pixels per image, d feature axes, n corners of a pixel over all kernels (d + 1 per kernel), E entries (one
per corner of a point), R rows. Points are the pixels, and a phantom per image if needed (`build_lattice`).

Vertices are identified by sorting their keys, and every sum has a fixed order: an image gives the same bits each time, in any
batch. Rows are numbered in the order in which pixels touch them, so that the pixels of a row, and the rows of a pixel, are near
each other in memory. Only one number per kernel is copied to the host: the number of vertices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.crf.cpu.lattice import alpha, packing
from pipeline.crf.gpu.placing import place
from pipeline.crf.gpu.steps import Steps, Sums

PIECE = 32  # most entries that one program sums; a vertex with more is the sum of several pieces


@dataclass(frozen=True)
class Kernel:
    """A Potts kernel with symmetric normalisation."""

    features: torch.Tensor  # (d, N, P) float32, each axis divided by its standard deviation
    ends: np.ndarray  # (d, 2) float32: bounds of the features
    weight: float


@dataclass(frozen=True)
class DeviceLattice:
    """The vertices of all kernels and images in one table of rows."""

    vertex: torch.Tensor  # (N * P, n) int32: the row of each corner of a pixel
    weight: torch.Tensor  # (N * P, n) float32: barycentric, with factors as in `cpu.lattice.build_lattice`
    pieces: Sums  # sums of pixels into pieces of at most PIECE entries
    rows: Sums  # sums of pieces into rows
    neighbours: list[torch.Tensor]  # per axis, in order: (2, R) int32, the rows one step ahead and one behind, or -1


@dataclass(frozen=True)
class _Vertices:
    """The vertices of one kernel, rows counted from 0."""

    weight: torch.Tensor  # (M, d + 1) float32: barycentric, for the M points of all images
    row: torch.Tensor  # (M, d + 1) int64: the row of each corner
    entries: torch.Tensor  # (E,) int64: indices into the flat `row`, sorted by row and then ascending
    start: torch.Tensor  # (R + 1,) int64: start of each row in `entries`
    neighbours: list[torch.Tensor]  # per axis: (2, R) int64


def most_images(kernels: Sequence[np.ndarray]) -> int:
    """Return how many images a batch can hold, given its kernels' `ends`: the 63-bit keys include the number of the image.

    Raises:
        UserError: widths are too small even for one image.
    """
    return 1 << (63 - max(packing(ends).bits for ends in kernels))


def build_lattice(kernels: Sequence[Kernel], steps: Steps) -> DeviceLattice:
    """Return the lattice of a batch of at most `most_images` images."""
    _, num_images, num_pixels = kernels[0].features.shape
    # The original code processes four pixels at a time; missing ones of the last four touch vertices at features 0.
    phantoms = 1 if num_pixels % 4 else 0
    found = [_vertices(kernel, phantoms) for kernel in kernels]
    vertex, place_of, start = _joined(found)
    weight = torch.cat([one.weight for one in found], dim=1)
    point = place_of // weight.shape[1]
    image, pixel = point // (num_pixels + phantoms), point % (num_pixels + phantoms)
    index = (image * num_pixels + pixel.clamp(max=num_pixels - 1)).int()  # a phantom's weight is 0: any pixel will do
    neighbours = _joined_neighbours(found)
    sizes = [one.weight.shape[1] for one in found]
    del found, point, image, pixel
    first, piece_start = _cut(start, len(index))
    rows = Sums(
        torch.arange(len(piece_start) - 1, device=weight.device).int(), weight.new_ones(len(piece_start) - 1), first
    )

    sums = steps.add_up(
        weight.new_ones(num_images * num_pixels, 4), Sums(index, weight.flatten()[place_of], piece_start)
    )
    sums = steps.add_up(sums, rows)
    for pair in neighbours:
        sums = steps.blur(sums, pair)
    for kernel, columns, corners in zip(kernels, vertex.split(sizes, dim=1), weight.split(sizes, dim=1), strict=True):
        factor = float(alpha(corners.shape[1]))
        response = (corners * sums[:, 0][columns]).sum(dim=1).double() * factor  # K 1
        corners *= ((response + 1e-20).rsqrt() * (kernel.weight * factor) ** 0.5).float()[:, None]
    pieces = Sums(index, weight.flatten()[place_of], piece_start)
    real = (num_images, num_pixels + phantoms, -1)
    return DeviceLattice(
        vertex.view(real)[:, :num_pixels].flatten(0, 1).int().contiguous(),
        weight.view(real)[:, :num_pixels].flatten(0, 1).contiguous(),
        pieces,
        rows,
        neighbours,
    )


def _vertices(kernel: Kernel, phantoms: int) -> _Vertices:
    features = F.pad(kernel.features, (0, phantoms))
    how = packing(kernel.ends)
    key, weight = place(features.flatten(1), how)
    _, num_images, num_points = features.shape
    key.view(num_images, -1).add_(torch.arange(num_images, device=key.device)[:, None] << how.bits)
    weight.view(num_images, num_points, -1)[:, num_points - phantoms :] = 0

    ordered, entries = key.flatten().sort(stable=True)
    is_first = F.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)
    first = is_first.nonzero().squeeze(1)
    distinct = ordered[first]
    met = entries[first].argsort()  # distinct keys in order of their first entries
    number = torch.empty_like(met).scatter_(0, met, torch.arange(len(met), device=met.device))
    rank = is_first.cumsum(dim=0) - 1
    count = F.pad(first, (0, 1), value=len(ordered)).diff()[met]
    start = F.pad(count.cumsum(dim=0), (1, 0))
    row = torch.empty_like(entries).scatter_(0, entries, number[rank])
    moved = torch.arange(len(ordered), device=key.device) + (start[number] - first)[rank]
    entries = torch.empty_like(entries).scatter_(0, moved, entries)
    neighbours = [_neighbours(distinct, number, met, how.units, axis) for axis in range(len(how.units))]
    return _Vertices(weight, row.view_as(weight), entries, start, neighbours)


def _neighbours(
    distinct: torch.Tensor, number: torch.Tensor, met: torch.Tensor, units: np.ndarray, axis: int
) -> torch.Tensor:
    """Return (2, R): the rows one step ahead (coordinates differ by d on the axis, by -1 on all others) and one step behind.

    Args:
        distinct: (R,) keys, ascending. number: (R,) the row of each key. met: (R,) the index in `distinct` of each row.
    """
    d, num_rows = len(units) - 1, len(distinct)
    remainder = distinct & ((1 << d.bit_length()) - 1)
    inner, outer = int(units[axis]) - 1, int(units[axis]) + d - int(units.sum())
    wanted = distinct + torch.where(remainder == 0, outer, inner)
    near = torch.searchsorted(distinct, wanted).clamp_(max=num_rows - 1)
    ahead = torch.where(distinct[near] == wanted, number[near], -1)[met]
    # Rows without a neighbour all write to an extra last element, which is then cut off.
    behind = ahead.new_full((num_rows + 1,), -1)
    behind.scatter_(0, torch.where(ahead >= 0, ahead, num_rows), torch.arange(num_rows, device=ahead.device))
    return torch.stack([ahead, behind[:num_rows]])


def _joined(found: Sequence[_Vertices]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return for all kernels together: rows (M, n), entries (E,) sorted by row, and the start of each row in them (R + 1,)."""
    rows, places, starts = [], [], [found[0].start[:1]]
    num_corners = sum(one.row.shape[1] for one in found)
    column = base = 0
    for one in found:
        size = one.row.shape[1]
        rows.append(one.row + base)
        places.append(one.entries // size * num_corners + one.entries % size + column)
        starts.append(one.start[1:] + one.row.shape[0] * column)
        column, base = column + size, base + len(one.start) - 1
    return torch.cat(rows, dim=1), torch.cat(places), torch.cat(starts)


def _joined_neighbours(found: Sequence[_Vertices]) -> list[torch.Tensor]:
    """Return (2, R) int32 per axis, for all kernels together; a kernel with fewer axes has no neighbours on the others."""
    joined = []
    for axis in range(max(len(one.neighbours) for one in found)):
        parts, base = [], 0
        for one in found:
            nothing = torch.full_like(one.neighbours[0], -1)
            pair = one.neighbours[axis] if axis < len(one.neighbours) else nothing
            parts.append(torch.where(pair >= 0, pair + base, nothing).int())
            base += pair.shape[1]
        joined.append(torch.cat(parts, dim=1))
    return joined


def _cut(start: torch.Tensor, num_entries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut rows of entries into pieces: return the first piece of each row (R + 1,) and the pieces' starts (pieces + 1,), int32.

    There are as many pieces as could be needed, so the host need not wait for their number; unused ones are empty, at the end.
    """
    count = (start.diff() + PIECE - 1) // PIECE
    first = F.pad(count.cumsum(dim=0), (1, 0))
    piece = torch.arange(len(count) + num_entries // PIECE + 1, device=start.device)
    row = torch.searchsorted(first, piece, right=True) - 1
    begin = (start[row] + (piece - first[row]) * PIECE).clamp_(max=num_entries)
    return first.int(), begin.int()
