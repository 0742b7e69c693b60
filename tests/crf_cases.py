"""Shared by tests and benchmarks of the dense CRF: settings, photographs, scores of a made-up network, reference results."""

import io
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.config import CrfConfig
from pipeline.crf.gpu import dense_crf_batch
from pipeline.synthetic.street import draw_scene

# ANCHORS of the literature: DeepLab's style of setting (A) and pydensecrf's example (B).
SHARP = CrfConfig(iterations=10, smooth_weight=3, smooth_px=3, colour_weight=4, colour_px=67, colour_levels=3)
SOFT = CrfConfig(iterations=5, smooth_weight=3, smooth_px=3, colour_weight=10, colour_px=80, colour_levels=13)


def photograph(camvid: Path, number: int = 0, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and label (H, W) of one CamVid validation photograph, resized to (height, width) if asked for."""
    with zipfile.ZipFile(camvid) as archive:
        name = sorted(n for n in archive.namelist() if n.startswith("images/val/"))[number]
        image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
        label = Image.open(io.BytesIO(archive.read(name.replace("images", "labels").replace("jpg", "png"))))
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
        label = label.resize(size[::-1], Image.Resampling.NEAREST)
    return np.array(image), np.array(label)


@cache
def street_scene() -> tuple[np.ndarray, np.ndarray]:
    """Image (96, 160, 3) and probs (7, 96, 160) of a drawn scene."""
    image, label = draw_scene(np.random.default_rng(3), 96, 160)
    probs = noisy_probs(label, 34)[[7, 8, 11, 21, 23, 24, 26]]
    return image, probs / probs.sum(axis=0)


def position_and_colour(image: np.ndarray, px: float, levels: float) -> np.ndarray:
    """(P, 5) features of the appearance kernel."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].reshape(2, -1).astype(np.float32)
    colour = image.reshape(-1, 3).astype(np.float32) / np.float32(levels)
    return np.column_stack([np.column_stack([x, y]) / np.float32(px), colour])


def noisy_probs(label: np.ndarray, num_classes: int, seed: int = 0) -> np.ndarray:
    """(C, H, W): a smooth guess of the label with blocks of noise, as a coarse network gives it."""
    rng = np.random.default_rng(seed)
    height, width = label.shape
    coarse = (num_classes, height // 8 + 1, width // 8 + 1)
    noise = rng.normal(0, 0.7, coarse).repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    raised = np.exp(2.0 * (np.arange(num_classes)[:, None, None] == label) + noise)
    return (raised / raised.sum(axis=0)).astype(np.float32)


def smooth_probs(label: np.ndarray, num_classes: int, seed: int = 0) -> np.ndarray:
    """(C, H, W): coarse logits at stride 8, enlarged bilinearly: sure inside and vague along edges, as a trained network."""
    height, width = label.shape
    truth = F.one_hot(torch.from_numpy(label.astype(np.int64)), num_classes).permute(2, 0, 1).float()
    coarse = F.adaptive_avg_pool2d(truth, (-(-height // 8), -(-width // 8)))
    noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(seed))
    return F.interpolate((8 * coarse + noise)[None], (height, width), mode="bilinear").softmax(dim=1)[0].numpy()


def on_device(
    probs: np.ndarray, image: np.ndarray, cfg: CrfConfig, device: str = "cpu", classes: Sequence[str] = ()
) -> np.ndarray:
    """The device path's marginals (C, H, W) of one image."""
    scores, pixels = (
        torch.from_numpy(np.ascontiguousarray(probs))[None].to(device),
        torch.from_numpy(image)[None].to(device),
    )
    return dense_crf_batch(scores, pixels, cfg, classes)[0].cpu().numpy()


def energies_of(probs: np.ndarray) -> np.ndarray:
    """(C, P) float32, as pydensecrf wants them."""
    return np.ascontiguousarray(-np.log(np.clip(probs, 1e-5, 1)).reshape(len(probs), -1))


def pydensecrf(probs: np.ndarray, image: np.ndarray, cfg: CrfConfig) -> np.ndarray:
    """The original's marginals (C, H, W)."""
    return original(energies_of(probs), image, cfg)


def original(energies: np.ndarray, image: np.ndarray, cfg: CrfConfig) -> np.ndarray:
    """The same from energies (C, P), which is what it takes; classes c0, c1, ... have diagonal compatibilities."""
    oracle = pytest.importorskip("pydensecrf.densecrf")
    height, width = image.shape[:2]
    crf = oracle.DenseCRF2D(width, height, len(energies))
    crf.setUnaryEnergy(energies)
    smooth, colour = cfg.smooth_weight, cfg.colour_weight
    if cfg.class_weights:  # energies, where a number is taken as minus one
        diagonal = -np.array([cfg.class_weights.get(f"c{c}", 1) for c in range(len(energies))], np.float32)
        smooth, colour = smooth * diagonal, colour * diagonal
    crf.addPairwiseGaussian(sxy=cfg.smooth_px, compat=smooth)
    crf.addPairwiseBilateral(sxy=cfg.colour_px, srgb=cfg.colour_levels, rgbim=image.copy(), compat=colour)
    return np.asarray(crf.inference(cfg.iterations)).reshape(len(energies), height, width)
