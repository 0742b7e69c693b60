"""Dense CRF: sharpens class probabilities along the edges of the image (Krahenbuhl & Koltun 2011, arXiv:1210.5644).

The Gaussians are filtered on the permutohedral lattice, compiled by Numba: no compiler at install, any number of threads.
The first call on a machine compiles (about 6 s); Numba keeps the result on disk for the next process.
"""

import numpy as np

from pipeline.config import CrfConfig
from pipeline.crf.lattice import build_lattice
from pipeline.crf.mean_field import mean_field

__all__ = ["dense_crf", "kernel_features"]


def dense_crf(probs: np.ndarray, image: np.ndarray, cfg: CrfConfig, num_threads: int = 1) -> np.ndarray:
    """Class probabilities after mean-field inference with a smoothness and an appearance kernel (eq. 3).

    Args:
        probs: (C, H, W) float32, sums to 1 over C; clipped to at least 1e-5 as energies need.
        image: (H, W, 3) uint8 RGB, the pixels that the network saw, not normalised.
        num_threads: threads to use; they share the work by bands of rows.
    Returns:
        (C, H, W) float32, sums to 1 over C; `probs` itself where there is nothing to do (no step, or no weight).
    Raises:
        ValueError: shapes do not fit each other, or probs hold NaN, infinity or negative values.
    """
    num_classes, height, width = _check(probs, image)
    if cfg.iterations == 0 or (cfg.smooth_weight == 0 and cfg.colour_weight == 0) or num_classes == 1:
        return probs
    # Copied into place by pixel first: the logarithm then runs over memory in order.
    unary = -np.log(np.clip(probs.reshape(num_classes, -1).T, 1e-5, 1.0, dtype=np.float32))
    kernels = [(weight, build_lattice(features)) for weight, features in kernel_features(image, cfg) if weight > 0]
    marginals = mean_field(unary, kernels, cfg.iterations, num_threads)
    return np.ascontiguousarray(marginals.T).reshape(num_classes, height, width)


def kernel_features(image: np.ndarray, cfg: CrfConfig) -> list[tuple[float, np.ndarray]]:
    """(weight, (P, d) float32 features) of the smoothness and the appearance kernel, pixels in row order."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    position = np.stack([x, y], axis=1)
    colour = image.reshape(-1, 3).astype(np.float32) / np.float32(cfg.colour_levels)
    return [
        (cfg.smooth_weight, position / np.float32(cfg.smooth_px)),
        (cfg.colour_weight, np.concatenate([position / np.float32(cfg.colour_px), colour], axis=1)),
    ]


def _check(probs: np.ndarray, image: np.ndarray) -> tuple[int, int, int]:
    if probs.ndim != 3 or image.ndim != 3 or image.shape != (*probs.shape[1:], 3):
        raise ValueError(
            f"dense CRF: probs are {probs.shape} and the image is {image.shape}; they must be (C, H, W) and (H, W, 3)"
        )
    if image.dtype != np.uint8:
        raise ValueError(f"dense CRF: the image is {image.dtype}; give the uint8 pixels, before normalisation")
    if not np.isfinite(probs).all() or probs.min() < 0:
        raise ValueError("dense CRF: probs hold NaN, infinity or negative values; give probabilities, not logits")
    num_classes, height, width = probs.shape
    return num_classes, height, width
