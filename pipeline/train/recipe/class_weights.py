"""Class weights from the pixel counts of the training labels."""

import numpy as np

from pipeline.errors import UserError


def class_weights(counts: np.ndarray, kind: str) -> np.ndarray:
    """Return one weight per class; a class that is in no label has weight 0.

    Args:
        counts: (I, C) int64, labelled pixels of each class in each of I images.
        kind: `median_frequency`: median of the frequencies / frequency, where the frequency of a class is its pixels
            divided by the labelled pixels of the images that contain it (Eigen & Fergus, arXiv:1411.4734; SegNet,
            arXiv:1511.00561, section 3.2). `inverse` and `sqrt_inverse`: 1 / share of all labelled pixels, and its
            square root, scaled so that the weights of the classes that occur have mean 1.
    Returns:
        (C,) float64.
    Raises:
        UserError: no pixel is labelled, or the kind is unknown.
    """
    pixels = counts.sum(axis=0)
    if not pixels.any():
        raise UserError("class weights need labelled pixels and the training labels hold none; check label_space")
    there = pixels > 0
    weights = np.zeros(counts.shape[1])
    match kind:
        case "median_frequency":
            # Deviation: ignored pixels do not count in the images' sizes, since they are not trained on.
            of_images = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
            frequency = pixels[there] / of_images[there]
            weights[there] = np.median(frequency) / frequency
        case "inverse" | "sqrt_inverse":
            raw = (pixels.sum() / pixels[there]) ** (1.0 if kind == "inverse" else 0.5)
            weights[there] = raw / raw.mean()
        case _:
            raise UserError(f"class weights '{kind}' are unknown; choose median_frequency, inverse or sqrt_inverse")
    return weights
