"""Image -> probs at the image's own size: normalisation, padding to legal sizes, scales, mirror images.

Letters: N batch, C classes, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.config import PredictConfig
from pipeline.imaging.enlarge import enlarge_argmax
from pipeline.models import Classifier, GridNetwork, Network, place_on_pixels


@dataclass(frozen=True)
class Prediction:
    """What is kept of one image's scores."""

    mask: np.ndarray  # (H, W) uint8, train ids
    confidence: float  # mean over pixels of the largest probability
    entropy: float  # mean over pixels, nats


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
        x = self._normalised(images)
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

    @torch.inference_mode()
    def masks(self, images: list[np.ndarray], num_threads: int = 1) -> list[Prediction]:
        """The winning class of each pixel, where nothing else is asked of the probabilities.

        Where the network ends by enlarging coarse logits, in one pass over the image, full-size ones are never made.

        Args:
            images: as in `probs`.
            num_threads: of the enlargement, on the CPU.
        """
        if not self._enlarges:
            return [summarise(probs) for probs in self.probs(images)]
        height, width = images[0].shape[:2]
        x = self._legal(self._normalised(images))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            coarse = self.model.coarse(x).float()
        full = (x.shape[-2], x.shape[-1])
        return [self._enlarged(scores, full, (height, width), num_threads) for scores in coarse]

    @property
    def _enlarges(self) -> bool:
        one_pass = self.cfg.scales == (1.0,) and not self.cfg.flip and self.cfg.mode == "whole"
        return one_pass and self.model.enlarges

    def _enlarged(
        self, scores: torch.Tensor, full: tuple[int, int], size: tuple[int, int], num_threads: int
    ) -> Prediction:
        """Mask of (C, h, w) logits; confidence and entropy are means over their grid, as far as the image reaches.

        Logits that are NaN or infinite give an entropy of NaN.
        """
        if not torch.isfinite(scores).all():  # one class at minus infinity would leave the softmax finite
            return Prediction(np.zeros(size, np.uint8), float("nan"), float("nan"))
        seen = [max(1, -(-n * small // big)) for n, big, small in zip(size, full, scores.shape[1:], strict=True)]
        rest = summarise(scores[:, : seen[0], : seen[1]].softmax(dim=0))
        if self.device.type == "cpu":
            mask = enlarge_argmax(scores.numpy(), full, size, num_threads)
        else:
            large = F.interpolate(scores[None], full, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]]
            mask = large.argmax(dim=0).to(torch.uint8).cpu().numpy()
        return Prediction(mask, rest.confidence, rest.entropy)

    def _normalised(self, images: list[np.ndarray]) -> torch.Tensor:
        if len({image.shape for image in images}) != 1:
            raise ValueError(f"one batch holds images of one size, found {sorted({i.shape[:2] for i in images})}")
        x = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        return normalise(x, self._mean, self._std)

    def _legal(self, x: torch.Tensor) -> torch.Tensor:
        """Padded at the bottom and right to a size that the network takes, channels last."""
        height, width = x.shape[-2:]
        legal = self.model.legal_size(height, width)
        if legal != (height, width):
            x = F.pad(x, (0, legal[1] - width, 0, legal[0] - height))  # zero = the mean colour, after normalisation
        return x.contiguous(memory_format=torch.channels_last)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) logits of any (N, 3, H, W): padded at the bottom and right to a legal size, and cropped back."""
        height, width = x.shape[-2:]
        x = self._legal(x)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            match self.cfg.mode:
                case "whole":
                    logits: torch.Tensor = self.model(x)[-1]
                case "shift_and_stitch":
                    logits = shift_and_stitch(_grid(self.model), x)
                case "sliding_window":
                    logits = slide_window(_classifier(self.model), x)
        return logits[..., :height, :width]


def shift_and_stitch(model: GridNetwork, x: torch.Tensor) -> torch.Tensor:
    """Dense logits (N, C, H, W) without learnt upsampling: the network's grid of scores, shifted to every pixel.

    The network runs stride^2 times, on x shifted left and up by 0 .. stride - 1 pixels, and the grids are interlaced
    (arXiv:1411.4038, section 3.2). Inside the image this equals the same weights with every stride turned into dilation.
    """
    height, width = x.shape[-2:]
    rows = []
    for down in range(model.stride):
        row = []
        for right in range(model.stride):
            shifted = F.pad(x, (-right, right, -down, down))
            row.append(model.scores(shifted.contiguous(memory_format=torch.channels_last)))
        rows.append(torch.stack(row, dim=-1).flatten(-2))  # (N, C, h, w * stride)
    dense = torch.stack(rows, dim=-2).flatten(-3, -2)
    return place_on_pixels(dense, 1, model.centre, height, width)


def slide_window(model: Classifier, x: torch.Tensor) -> torch.Tensor:
    """Logits (N, C, H, W) as before convolutional networks: the classifier runs on each window alone.

    Windows lie at the network's stride, each gives the scores of its middle, and logits between are interpolated.
    """
    height, width = x.shape[-2:]
    x = model.extend(x)
    steps = [range(0, size - model.window + 1, model.stride) for size in x.shape[-2:]]
    rows = [
        torch.cat([model.classify(x[..., i : i + model.window, j : j + model.window]) for j in steps[1]], dim=-1)
        for i in steps[0]
    ]
    return place_on_pixels(torch.cat(rows, dim=-2), model.stride, model.centre, height, width)


def _classifier(model: Network) -> Classifier:
    if not isinstance(model, Classifier):
        raise ValueError(
            f"predict.mode sliding_window needs a classifier, found {type(model).__name__}; set model.name: classifier, "
            "or predict.mode: whole"
        )
    return model


def _grid(model: Network) -> GridNetwork:
    if not isinstance(model, GridNetwork):
        raise ValueError(
            "predict.mode shift_and_stitch needs a network whose scores lie on a coarse grid (classifier, fcn, fcn_resnet, "
            f"deeplabv1, deeplabv2, deeplabv3), found {type(model).__name__}; set predict.mode: whole"
        )
    return model


def summarise(probs: torch.Tensor) -> Prediction:
    """(C, H, W) class probabilities -> mask and means; NaN in, NaN out."""
    return Prediction(
        mask=probs.argmax(dim=0).to(torch.uint8).cpu().numpy(),
        confidence=float(probs.amax(dim=0).mean()),
        entropy=float(torch.special.entr(probs).sum(dim=0).mean()),
    )


def normalise(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 -> float32 with mean and std of ImageNet-like 0: `mean` and `std` are in 8-bit levels."""
    return x.float().sub_(mean).div_(std)


def _resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    smaller = height < x.shape[-2] or width < x.shape[-1]
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=smaller)
