"""The interface of a mean-field step on a device, which `triton_steps` and `torch_steps` implement.

Letters: N images, C classes, P pixels per image, n corners of a pixel, R rows, one per vertex. Tables hold a row of `padded(C)`
float32 numbers for each pixel, piece or vertex; padding classes have score -infinity and probability 0.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

NEVER = float("-inf")  # score of padding classes
FAR = 256.0  # if a pixel's best score is farther from 0, it is subtracted from all its scores, as on the CPU
TINY = 2.0**-60  # smaller probabilities become 0, as on the CPU
FLOOR = 1e-5  # given probabilities are clipped to it, so that energies are finite


@dataclass(frozen=True)
class Sums:
    """Weighted sums of rows of a table: row i is the sum over start[i] <= e < start[i + 1] of weight[e] * table[index[e]]."""

    index: torch.Tensor  # (E,) int32
    weight: torch.Tensor  # (E,) float32
    start: torch.Tensor  # (rows + 1,) int32, ascending to E


class Steps(Protocol):
    """The parts of a mean-field step, each of which returns new tensors.

    The constants state their peak memory, for `memory.most_bytes`.
    """

    BLUR_TABLES: int  # tables of R rows in `blur`, including its input and result
    BLUR_BYTES: int  # further bytes per row in `blur`
    UPDATE_TABLES: int  # tables with a row per pixel in `open`, `update` and `close`, including scores and result

    def open(self, source: torch.Tensor, are_probs: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores (negative energies) of a source (N, C, P) and their softmax, (N * P, padded(C)) each."""

    def add_up(self, table: torch.Tensor, sums: Sums) -> torch.Tensor:
        """Return the sums (rows, columns of the table)."""

    def blur(self, values: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        """Return each row plus half the sum of its two neighbours (2, R) int32, where -1 means none."""

    def update(
        self, values: torch.Tensor, vertex: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor,
        factors: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the next marginals: the softmax of scores plus message, the weighted sum over a pixel's corners (N * P, n).

        Args:
            factors: (padded(C),) factors of the message; None: 1.
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
        """Return the same as `update`, as planes (N, C, P)."""


def padded(num_classes: int) -> int:
    """Return the number of columns of a table, so that rows begin at multiples of 16 bytes."""
    return -(-num_classes // 4) * 4
