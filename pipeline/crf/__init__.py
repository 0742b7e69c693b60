"""Dense CRF: sharpens class probabilities along the edges of the image (Krahenbuhl & Koltun 2011, arXiv:1210.5644).

`dense_crf` is the pipeline's entry; `DenseCRF` is the same for use on its own: any kernels, compatibilities, normalisations.
The Gaussians are filtered on the permutohedral lattice, compiled by Numba: no compiler at install, as many threads as asked
for. The first call on a machine compiles (about 10 s); Numba keeps the result on disk for the next process.

Beside pydensecrf, over five CamVid photographs with smooth scores, noise in blocks and noise in each pixel (30 runs, 5.2
million pixels; `tests/bench/crf_fidelity.py`), every label is the same; marginals differ by 1e-8 in the mean and 1.3e-5 at
worst, and from the same steps in float64 by 1.3e-5 (ours) and 2.1e-5 (pydensecrf's) at worst. An independent look at 342 runs,
59.1 million pixels, found 6 labels that differ, all of noise in each pixel; marginals were 4.1e-5 apart at worst for smooth
scores, 1.6e-4 for noise, and at 4 of the 6 worst places ours was the nearer to float64.

Moving from pydensecrf:

    d = DenseCRF2D(w, h, n); d.setUnaryEnergy(U)         crf = DenseCRF(U.reshape(n, h, w))
    unary_from_softmax(probs)                            DenseCRF.from_probs(probs)
    unary_from_labels(labels, n, p, zero_unsure=False)   DenseCRF.from_labels(labels, n, p)
    unary_from_labels(labels, n, p)                      DenseCRF.from_labels(labels, n, p, unsure=0), labels from 1
    d.addPairwiseGaussian(sxy=3, compat=3)               crf.add_gaussian(px=3, compat=3)
    d.addPairwiseBilateral(80, 13, im, compat=10)        crf.add_bilateral(im, px=80, levels=13, compat=10)
    d.addPairwiseEnergy(feats, compat)                   crf.add_kernel(feats.T, compat)
    create_pairwise_gaussian(s, (h, w)).T                gaussian_features(s, (h, w))
    create_pairwise_bilateral(s, t, im, chdim=2).T       bilateral_features(s, t, im, chdim=2)
    normalization=NORMALIZE_BEFORE                       normalisation="before"; likewise "after", "none", "symmetric"
    np.argmax(d.inference(5), axis=0).reshape(h, w)      crf.inference(5, num_threads=2).argmax(axis=0)

A diagonal compatibility w * weights that all kernels share is `compat=w` and `crf.weigh_classes(weights)`, as fast as w alone.

What differs: pairs of widths are (y, x), as sizes are everywhere here; marginals come back as (C, H, W); a full compatibility
matrix is used as it stands, where pydensecrf takes the mean of it and its transpose; NaN and wrong shapes are refused; up to
1 GiB of working memory is kept for the next image (`team.KEPT_BYTES`). Any number of threads gives the same bits. What is not
there: `kernel=` and parameter learning; `startInference`, `stepInference` and `klDivergence` (each `inference(n)` starts anew).

On a CUDA device, batched: `pipeline.crf.gpu.dense_crf_batch`.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.config import CrfConfig
from pipeline.crf.given import array_of, class_weights_of
from pipeline.crf.grids import bilateral_features, gaussian_features
from pipeline.crf.model import DenseCRF
from pipeline.errors import UserError

__all__ = ["DenseCRF", "bilateral_features", "dense_crf", "gaussian_features"]


def dense_crf(
    probs: np.ndarray, image: np.ndarray, cfg: CrfConfig, num_threads: int = 1, classes: Sequence[str] = ()
) -> np.ndarray:
    """Class probabilities after mean-field inference with a smoothness and an appearance kernel (eq. 3).

    Args:
        probs: (C, H, W) float32, sums to 1 over C; clipped to at least 1e-5 as energies need.
        image: (H, W, 3) uint8 RGB, the pixels that the network saw, not normalised.
        num_threads: threads to use, exactly; they share the image by bands of tiles.
        classes: the C names, where `cfg.class_weights` has some.
    Returns:
        (C, H, W) float32, sums to 1 over C; `probs` itself where there is nothing to do (no step, no weight, or one class).
    Raises:
        UserError: shapes do not fit each other, probs hold NaN, infinity or negative values, or a class weight's class is none
            of `classes`.
    """
    probs, image = array_of(probs, "probs"), array_of(image, "the image's pixels")
    if probs.ndim != 3 or image.ndim != 3 or image.shape != (*probs.shape[1:], 3):
        raise UserError(
            f"dense CRF: probs are {probs.shape} and the image is {image.shape}; they must be (C, H, W) and (H, W, 3)"
        )
    crf = DenseCRF.from_probs(probs)
    crf.add_gaussian(cfg.smooth_px, cfg.smooth_weight)
    crf.add_bilateral(image, cfg.colour_px, cfg.colour_levels, cfg.colour_weight)
    weights = class_weights_of(cfg.class_weights, classes)
    if weights is not None:
        crf.weigh_classes(weights)
    if cfg.iterations == 0 or (cfg.smooth_weight == 0 and cfg.colour_weight == 0) or len(probs) == 1:
        crf.check()
        return probs
    return crf.inference(cfg.iterations, num_threads, cfg.mode)
