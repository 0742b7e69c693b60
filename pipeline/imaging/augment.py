"""Random views of a labelled image for training: scale, crop, flip and colour change."""

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from pipeline.config import AugmentConfig
from pipeline.labels import IGNORE


def augment(
    image: np.ndarray, label: np.ndarray, cfg: AugmentConfig, rng: np.random.Generator, holding: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one random view of an image and its label.

    The window is cropped before it is resized, so the cost depends on the size of the view, not of the image.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W, N) float32 levels, NaN where there is no data.
        label: (H, W) uint8 train ids.
        cfg: ranges; `crop` is the size of the view, (height, width).
        rng: the only source of randomness: the same state gives the same view.
        holding: a class; the window then contains a random pixel of this class, if the image has any.
    Returns:
        The image (D, h, w) in its own type, and the label (h, w) uint8. Outside the image, they have the mean colour of the
        cropped part and the ignore label. Pixels without data have the ignore label too.
    """
    crop_h, crop_w = cfg.crop
    factor = float(np.exp(rng.uniform(np.log(cfg.scale[0]), np.log(cfg.scale[1]))))
    window_h, window_w = max(1, round(crop_h / factor)), max(1, round(crop_w / factor))
    image, label = _cut(image, label, window_h, window_w, rng, holding)

    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    y = torch.from_numpy(np.ascontiguousarray(label))
    if (window_h, window_w) != (crop_h, crop_w):
        x = F.resize(x, [crop_h, crop_w], antialias=True)
        # NEAREST_EXACT samples at pixel centres, as bilinear does; plain NEAREST would shift labels by half a pixel.
        y = F.resize(y[None], [crop_h, crop_w], interpolation=F.InterpolationMode.NEAREST_EXACT)[0]
    if cfg.flip and rng.random() < 0.5:
        x, y = x.flip(-1), y.flip(-1)
    if x.is_floating_point():
        return _recoloured(x, cfg.colour, rng), y.masked_fill(x[0].isnan(), IGNORE)
    if cfg.colour > 0:
        low, high = 1 - cfg.colour / 2, 1 + cfg.colour / 2
        for change in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
            x = change(x, float(rng.uniform(low, high)))
    return x, y


def _recoloured(x: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Change brightness and contrast of all bands (N, h, w) together; saturation is defined only for RGB images."""
    if strength > 0:
        bright, contrast = (float(rng.uniform(1 - strength / 2, 1 + strength / 2)) for _ in range(2))
        x = (x * bright).clamp(0, 255)
        x = (contrast * x + (1 - contrast) * x.nanmean()).clamp(0, 255)
    return x


def drop_cells(label: torch.Tensor, share: float, cell_px: int, rng: np.random.Generator) -> torch.Tensor:
    """Return labels (h, w) in which each cell of `cell_px` x `cell_px` is kept with probability `share`, or else ignored.

    Source: FCN (arXiv:1411.4038), sections 3.4 and 4.3: training on patches equals whole images with a sampled loss.
    """
    if share == 1:
        return label
    height, width = label.shape
    dropped = rng.random((-(-height // cell_px), -(-width // cell_px))) >= share
    pixels = dropped.repeat(cell_px, axis=0).repeat(cell_px, axis=1)[:height, :width]
    return label.masked_fill(torch.from_numpy(pixels), IGNORE)


def _cut(
    image: np.ndarray, label: np.ndarray, window_h: int, window_w: int, rng: np.random.Generator, holding: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a window at a random position, padded where the image is smaller than the window."""
    height, width = label.shape
    held = np.flatnonzero(label.ravel() == holding) if holding is not None else ()
    if len(held):
        row, column = divmod(int(held[rng.integers(len(held))]), width)
        top, left = _start(row, window_h, height, rng), _start(column, window_w, width, rng)
    else:
        top = int(rng.integers(0, max(0, height - window_h) + 1))
        left = int(rng.integers(0, max(0, width - window_w) + 1))
    image = image[top : top + window_h, left : left + window_w]
    label = label[top : top + window_h, left : left + window_w]
    missing_h, missing_w = window_h - label.shape[0], window_w - label.shape[1]
    if not (missing_h or missing_w):
        return image, label
    above, before = int(rng.integers(0, missing_h + 1)), int(rng.integers(0, missing_w + 1))
    place = slice(above, above + label.shape[0]), slice(before, before + label.shape[1])
    padded_image = np.empty((window_h, window_w, image.shape[2]), image.dtype)
    padded_image[:] = image.mean(axis=(0, 1)).astype(image.dtype)  # NaN if any pixel of the window has no data
    padded_image[place] = image
    padded_label = np.full((window_h, window_w), IGNORE, np.uint8)
    padded_label[place] = label
    return padded_image, padded_label


def _start(inside: int, window: int, length: int, rng: np.random.Generator) -> int:
    """Return the start of a window along one axis, random among the positions that contain pixel `inside`."""
    return int(rng.integers(max(0, inside - window + 1), max(0, min(inside, length - window)) + 1))
