"""What inference on a device is made of, and the one place that chooses who does it: Triton on CUDA, torch elsewhere.

Letters: N images, C classes, P pixels of one, n corners of a pixel, R rows of vertices. Tables hold a row of `padded(C)`
float32 numbers for each pixel, piece or vertex; the classes that pad it have score -infinity and probability 0.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

NEVER = float("-inf")  # score of padding classes
FAR = 256.0  # where the energies of a pixel all are beyond it, its best score is subtracted from all, as on the CPU
TINY = 2.0**-60  # below it a probability is 0, as on the CPU
FLOOR = 1e-5  # probabilities are clipped to it, as energies need


@dataclass(frozen=True)
class Sums:
    """Weighted sums of rows of a table: row i is the sum over start[i] <= e < start[i + 1] of weight[e] * table[index[e]]."""

    index: torch.Tensor  # (E,) int32
    weight: torch.Tensor  # (E,) float32
    start: torch.Tensor  # (rows + 1,) int32, rising to E


class Steps(Protocol):
    """The parts of a mean-field step; each returns new tensors.

    And what they have in memory at once, for `memory.most_bytes`.
    """

    BLUR_TABLES: int  # of rows, the given one and the result among them
    BLUR_BYTES: int  # of each row beside them
    UPDATE_TABLES: int  # of pixels in `open`, `update` and `close`, the scores and the result among them

    def open(self, source: torch.Tensor, are_probs: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (minus the energies) and their softmax, (N * P, padded(C)) each, of a source (N, C, P)."""

    def add_up(self, table: torch.Tensor, sums: Sums) -> torch.Tensor:
        """The sums, (rows, columns of the table)."""

    def blur(self, values: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        """Each row and half of both its neighbours (2, R) int32, where there are any (not -1)."""

    def update(
        self, values: torch.Tensor, vertex: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor,
        factors: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """Softmax of the scores and what the corners of each pixel (N * P, n) hold: the next marginals.

        Args:
            factors: (padded(C),) by which what the corners hold is multiplied; None: by 1.
        """

    def close(
        self,
        values: torch.Tensor,
        vertex: torch.Tensor,
        weight: torch.Tensor,
        scores: torch.Tensor,
        factors: torch.Tensor | None,
        shape: tuple[int, int, int],
    ) -> torch.Tensor:
        """The same as `update`, as (N, C, P) planes."""


def padded(num_classes: int) -> int:
    """Columns of a table: rows begin at multiples of 16 bytes."""
    return -(-num_classes // 4) * 4
