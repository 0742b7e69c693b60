"""Image -> probs at the image's own size: normalisation, padding to legal sizes, scales, mirror images.

Letters: N batch, C classes, H rows, W columns.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.config import PredictConfig
from pipeline.models import Network


class Predictor:
    """A network with its preprocessing on one device; training's validation and `segment` both predict through it."""

    def __init__(
        self,
        model: Network,
        mean: Sequence[float],
        std: Sequence[float],
        cfg: PredictConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.place(self.device)
        self.cfg = cfg
        self._mean = torch.tensor(mean, device=self.device).mul(255).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self.device).mul(255).view(1, 3, 1, 1)

    @torch.inference_mode()
    def probs(self, images: list[np.ndarray]) -> torch.Tensor:
        """Class probabilities of images of one size.

        Args:
            images: N arrays (H, W, 3) uint8 RGB, all of the same height and width.
        Returns:
            (N, C, H, W) float32 on the predictor's device, summing to 1 over C. The mean over scales and mirror images
            of the softmax at each.
        Raises:
            ValueError: the images differ in size.
        """
        if len({image.shape for image in images}) != 1:
            raise ValueError(f"one batch holds images of one size, found {sorted({i.shape[:2] for i in images})}")
        x = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        x = normalise(x, self._mean, self._std)
        height, width = x.shape[-2:]
        total: torch.Tensor | None = None
        for scale in self.cfg.scales:
            scaled = x if scale == 1 else _resize(x, max(1, round(height * scale)), max(1, round(width * scale)))
            for mirrored in (False, True) if self.cfg.flip else (False,):
                logits = self._logits(scaled.flip(-1) if mirrored else scaled)
                logits = logits.flip(-1) if mirrored else logits
                if scale != 1:
                    logits = _resize(logits, height, width)
                probs = logits.float().softmax(dim=1)
                total = probs if total is None else total.add_(probs)
        assert total is not None
        return total / (len(self.cfg.scales) * (2 if self.cfg.flip else 1))

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) logits of any (N, 3, H, W): padded at the bottom and right to a legal size, and cropped back."""
        height, width = x.shape[-2:]
        multiple, least = self.model.multiple_of, self.model.min_size
        pad_h = max(least, -(-height // multiple) * multiple) - height
        pad_w = max(least, -(-width // multiple) * multiple) - width
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))  # zero = the mean colour, after normalisation
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            logits: torch.Tensor = self.model(x)[-1]
        return logits[..., :height, :width]


def normalise(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 -> float32 with mean and std of ImageNet-like 0: `mean` and `std` are in 8-bit levels."""
    return x.float().sub_(mean).div_(std)


def _resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    smaller = height < x.shape[-2] or width < x.shape[-1]
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=smaller)
