"""How close the dense CRF and pydensecrf are to each other and to float64: `python -m tests.bench.crf_fidelity [--every N]`.

Both get the same energies of CamVid's validation photographs, for three kinds of scores: smooth ones, as a trained network
gives them, a coarse guess with noise in blocks, and independent noise at each pixel. The float64 reference has the same
lattice, with pixels placed in float32, and all sums, the blur and the softmax in float64.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.config import CrfConfig
from pipeline.crf import DenseCRF
from pipeline.crf.cpu.features import tile_order
from pipeline.crf.cpu.lattice import Lattice, alpha, build_lattice
from pipeline.crf.cpu.threads import Team
from tests.conftest import CAMVID
from tests.crf_cases import SHARP, SOFT, energies_of, noisy_probs, original, photograph, smooth_probs

PHOTOGRAPHS = 101
SETTINGS = {"A": SHARP, "B": SOFT}
KINDS = ("smooth", "blocks", "noise")


def scores(kind: str, label: np.ndarray, seed: int) -> np.ndarray:
    """(C, H, W) of 11 classes."""
    match kind:
        case "smooth":
            return smooth_probs(np.minimum(label, 10), 11, seed)
        case "blocks":
            return noisy_probs(label, 11, seed)
        case _:
            noise = np.random.default_rng(seed).dirichlet(np.ones(11), label.shape)
            return noise.transpose(2, 0, 1).astype(np.float32)


def crf_of(energies: np.ndarray, image: np.ndarray, cfg: CrfConfig) -> DenseCRF:
    crf = DenseCRF(energies.reshape(-1, *image.shape[:2]))
    crf.add_gaussian(cfg.smooth_px, cfg.smooth_weight)
    crf.add_bilateral(image, cfg.colour_px, cfg.colour_levels, cfg.colour_weight)
    return crf


def in_float64(energies: np.ndarray, image: np.ndarray, cfg: CrfConfig) -> np.ndarray:
    """Marginals (C, H, W) float64."""
    height, width = image.shape[:2]
    order = tile_order(height, width)
    with Team(2) as team:
        placed = [kernel.place(team, order) for kernel in crf_of(energies, image, cfg)._kernels]
        filters = [
            _Filter(build_lattice(team, [features], len(order), most_woven=0), weight)
            for features, weight in zip(placed, (cfg.smooth_weight, cfg.colour_weight), strict=True)
        ]
        unary = torch.from_numpy(-energies.T[order].astype(np.float64))
        marginals = unary.softmax(dim=1)
        for _ in range(cfg.iterations):
            marginals = (unary + sum(one(marginals) for one in filters)).softmax(dim=1)
    result = np.empty(energies.shape)
    result[:, order] = marginals.numpy().T
    return result.reshape(-1, height, width)


class _Filter:
    """A kernel with symmetric normalisation, on (P, C) float64."""

    def __init__(self, lattice: Lattice, weight: float) -> None:
        master = np.arange(lattice.num_rows)
        master[lattice.ghosts[:, 0]] = lattice.ghosts[:, 1]
        self._rows = torch.from_numpy(master[lattice.vertex])
        self._shares = torch.from_numpy(lattice.weight.astype(np.float64))
        self._num_rows = lattice.num_rows
        self._neighbours = []
        for sweep in lattice.sweeps:
            rows, linked = np.where(sweep.rows < 0, ~sweep.rows, sweep.rows)[:-1], sweep.rows[:-1] >= 0
            ahead, behind = (np.full(lattice.num_rows, lattice.num_rows) for _ in range(2))
            ahead[rows[:-1][linked[:-1]]] = rows[1:][linked[:-1]]
            behind[rows[1:][linked[:-1]]] = rows[:-1][linked[:-1]]
            self._neighbours.append((torch.from_numpy(ahead), torch.from_numpy(behind)))
        self._alpha = 1 / (1 + 2.0 ** -(lattice.corners[0] - 1))
        assert alpha(lattice.corners[0]) == np.float32(self._alpha)
        self._root = self._sums(torch.ones(len(self._rows), 1, dtype=torch.float64)).rsqrt()
        self._weight = weight

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        table = values.new_zeros(self._num_rows + 1, values.shape[1])
        for corner in range(self._rows.shape[1]):
            table.index_add_(0, self._rows[:, corner], values * self._shares[:, corner, None])
        for ahead, behind in self._neighbours:
            table[:-1] += 0.5 * (table[ahead] + table[behind])
        corners = range(self._rows.shape[1])
        return self._alpha * sum(table[self._rows[:, i]] * self._shares[:, i, None] for i in corners)

    def __call__(self, marginals: torch.Tensor) -> torch.Tensor:
        return self._weight * self._root * self._sums(self._root * marginals)


@dataclass
class Distances:
    """Between two results, over several photographs."""

    pixels: int = 0
    labels: int = 0  # that differ
    total: float = 0.0
    worst: float = 0.0
    numbers: int = field(default=0)

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        distance = np.abs(one.astype(np.float64) - other)
        self.pixels += one[0].size
        self.numbers += one.size
        self.labels += int((one.argmax(0) != other.argmax(0)).sum())
        self.total += float(distance.sum())
        self.worst = max(self.worst, float(distance.max()))

    def cells(self) -> str:
        return f"{self.labels} of {self.pixels} | {self.total / self.numbers:.1e} | {self.worst:.1e}"


def measure(numbers: list[int]) -> Iterator[str]:
    for kind in KINDS:
        for setting, cfg in SETTINGS.items():
            pairs = {"ours, pydensecrf": Distances(), "ours, float64": Distances(), "pydensecrf, float64": Distances()}
            for number in numbers:
                image, label = photograph(CAMVID, number)
                energies = energies_of(scores(kind, label, number))
                ours, theirs = crf_of(energies, image, cfg).inference(cfg.iterations, 2), original(energies, image, cfg)
                exact = in_float64(energies, image, cfg)
                for distances, pair in zip(
                    pairs.values(), ((ours, theirs), (ours, exact), (theirs, exact)), strict=True
                ):
                    distances.add(*pair)
            for name, distances in pairs.items():
                yield f"| {kind}, {setting} | {name} | {distances.cells()} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=8, help="photographs: each N-th of the validation's")
    numbers = list(range(0, PHOTOGRAPHS, parser.parse_args().every))
    print(f"{len(numbers)} photographs of 360x480, 11 classes")
    print("| scores, setting | of | labels that differ | mean dQ | worst dQ |\n| --- | --- | --- | --- | --- |")
    for line in measure(numbers):
        print(line, flush=True)


if __name__ == "__main__":
    main()
