"""What every side of `tests.bench.faults` computes: one small network, which records each image that it is given.

An image's first pixels hold its number, and whether it kills the process that computes it. This file imports torch and
numpy alone, since it is also the user's code of Maskmill's checkpoint.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

HEIGHT, WIDTH, CLASSES = 48, 64, 19
MARK = (137, 42, 211)  # first pixel of an image of the bench, so that a trial of the network on zeros is not counted
SECONDS = 0.05  # of an image; a network that sleeps takes as long on a busy machine


class Step(nn.Module):
    """A 1x1 convolution with the same weights everywhere.

    Args:
        log: file to which "<number> <pid>" is added as the work on an image begins.
    """

    def __init__(self, num_classes: int, log: str) -> None:
        super().__init__()
        self.log = log
        self.head = nn.Conv2d(3, num_classes, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator))
            self.head.bias.copy_(-self.head.weight.sum(dim=(1, 2, 3)) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) float32, levels / 255, to logits (N, C, H, W)."""
        for image in (x[:, :, 0, :2] * 255).round().int():
            if tuple(image[:, 0].tolist()) == MARK:
                self._begin(int(image[0, 1]), deadly=int(image[2, 1]) == 255)
        return self.head(x)

    def _begin(self, number: int, deadly: bool) -> None:
        file = os.open(
            self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT
        )  # opened each time: the network travels by pickle
        os.write(file, f"{number} {os.getpid()}\n".encode())
        os.close(file)
        if deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SECONDS)


def build(num_classes: int, log: str) -> nn.Module:
    return Step(num_classes, log)


def draw(number: int, deadly: bool = False) -> np.ndarray:
    """(H, W, 3) uint8: smooth colours, so that no pixel's class is a near tie, below the first pixels' message."""
    rng = np.random.default_rng(number)
    image = np.kron(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    image[0, :2] = MARK, (number, 0, 255 if deadly else 0)
    return image


@torch.inference_mode()
def mask(step: nn.Module, image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 train ids of an (H, W, 3) uint8 image."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    return step(x)[0].argmax(0).to(torch.uint8).numpy()


def computed(log: str) -> list[tuple[int, int]]:
    """(number, pid) of every time that the work on an image began, in order."""
    path = Path(log)
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [(int(number), int(pid)) for number, pid in (line.split() for line in lines if line.count(" ") == 1)]
