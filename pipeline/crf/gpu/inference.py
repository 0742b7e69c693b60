"""Mean field over batches on a device: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), algorithm 1.

Letters: N images, C classes, H rows, W columns, P = H * W pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.config import CrfConfig
from pipeline.crf import dense_crf
from pipeline.crf.given import check_class_weights, class_weights_of, compat_of, image_of, widths_of
from pipeline.crf.gpu.lattice import Kernel, build_lattice, most_images
from pipeline.crf.gpu.memory import most_bytes
from pipeline.crf.gpu.steps import Steps, padded
from pipeline.crf.gpu.triton_ready import triton_works
from pipeline.errors import UserError

BYTES_AT_ONCE = 8 << 30  # most memory for a group of images processed together; a single image may take more
IMAGES_AT_ONCE = (1 << 16) - 1  # the limit of the second axis of a CUDA grid
_MOST_PIXELS = (1 << 31) // 16  # of one image: entries are counted in 32 bits


@torch.inference_mode()
def sharpen(
    probs: torch.Tensor, image: np.ndarray, cfg: CrfConfig, num_threads: int = 1, classes: Sequence[str] = ()
) -> torch.Tensor:
    """Apply the CRF to one image on the device of its scores; on the CPU with `num_threads` threads.

    Args:
        probs: (C, H, W) float32. image: (H, W, 3) uint8 RGB.
        classes: names of the C classes; required if `cfg.class_weights` is not empty.
    Returns:
        (C, H, W) float32 on the device of `probs`.
    """
    if probs.device.type == "cpu":
        return torch.from_numpy(dense_crf(probs.numpy(), image, cfg, num_threads, classes))
    pixels = torch.from_numpy(image_of(image, probs.shape[1], probs.shape[2], probs.shape[0])).to(probs.device)
    return dense_crf_batch(probs[None], pixels[None], cfg, classes)[0]


@torch.inference_mode()
def sharpen_together(
    probs: Sequence[torch.Tensor],
    images: Sequence[np.ndarray],
    cfg: CrfConfig,
    num_threads: int = 1,
    classes: Sequence[str] = (),
) -> list[torch.Tensor]:
    """Apply `sharpen` to images of one size: in batches if their scores are on a device, one after another on the CPU."""
    if probs[0].device.type == "cpu" or len(probs) == 1:
        return [sharpen(one, image, cfg, num_threads, classes) for one, image in zip(probs, images, strict=True)]
    num_classes, height, width = probs[0].shape
    pixels = torch.from_numpy(np.stack([image_of(image, height, width, num_classes) for image in images]))
    return list(dense_crf_batch(torch.stack(list(probs)), pixels.to(probs[0].device), cfg, classes))


@torch.inference_mode()
def dense_crf_batch(
    probs: torch.Tensor, images: torch.Tensor, cfg: CrfConfig, classes: Sequence[str] = ()
) -> torch.Tensor:
    """Return class probabilities after mean-field inference with a smoothness and an appearance kernel (eq. 3).

    Args:
        probs: (N, C, H, W) float32, sums to 1 over C; clipped to at least 1e-5, so that energies are finite.
        images: (N, H, W, 3) uint8 RGB on the same device, the pixels that the network saw, before normalisation.
        classes: names of the C classes; required if `cfg.class_weights` is not empty.
    Returns:
        (N, C, H, W) float32 on the same device; `probs` itself if nothing would change (no iteration, no weight, or one class).
    Raises:
        UserError: shapes, types or devices do not match; probs hold NaN, infinity or negative values; widths are too small for
            the lattice (`colour_levels` of 0.05 are, 0.1 are not), an image is larger than 134 megapixels, `cfg.class_weights`
            names a class that is not in `classes`, or the mode is not exact.
    """
    if cfg.mode != "exact":
        raise UserError(f"dense CRF: mode {cfg.mode} is for scores on the CPU; on a device it is exact")
    _check(probs, images)
    num_classes, height, width = probs.shape[1:]
    factors = _factors(cfg, classes, num_classes, probs.device)
    if cfg.iterations == 0 or (cfg.smooth_weight == 0 and cfg.colour_weight == 0) or num_classes == 1:
        return probs
    ends = [kernel.ends for kernel in kernels_of(images[:1], cfg)]
    corners = sum(len(one) + 1 for one in ends)
    steps = steps_for(probs.device)
    by_memory = BYTES_AT_ONCE // most_bytes(height * width, num_classes, corners, steps)
    group = max(1, min(by_memory, most_images(ends), IMAGES_AT_ONCE))
    with torch.cuda.device_of(probs):
        done = [
            infer(some.flatten(2), True, kernels_of(pixels, cfg), cfg.iterations, steps, factors).view_as(some)
            for some, pixels in zip(probs.split(group), images.split(group), strict=True)
        ]
    return done[0] if len(done) == 1 else torch.cat(done)


def _factors(cfg: CrfConfig, classes: Sequence[str], num_classes: int, device: torch.device) -> torch.Tensor | None:
    """Return (padded(C),) float32 weights of the classes, 0 for the padding; None if the config has none."""
    weights = class_weights_of(cfg.class_weights, classes)
    if weights is None:
        return None
    check_class_weights(weights, num_classes, max(cfg.smooth_weight, cfg.colour_weight))
    return torch.from_numpy(np.pad(weights, (0, padded(num_classes) - num_classes))).to(device)


def kernels_of(images: torch.Tensor, cfg: CrfConfig) -> list[Kernel]:
    """Return the kernels of weight > 0: smoothness over x and y, appearance over x, y and colours of images (N, H, W, 3)."""
    kernels = []
    if cfg.smooth_weight > 0:
        near = widths_of(cfg.smooth_px, 2, "smooth_px")
        kernels.append(_kernel(images[..., :0], near, cfg.smooth_weight))
    if cfg.colour_weight > 0:
        near, deep = widths_of(cfg.colour_px, 2, "colour_px"), widths_of(cfg.colour_levels, 3, "colour_levels")
        kernels.append(_kernel(images, near + deep, cfg.colour_weight))
    return kernels


def _kernel(images: torch.Tensor, widths: tuple[float, ...], weight: float) -> Kernel:
    """Return a kernel, its features divided float32 by float32, as on the CPU; `ends` hold for any image of this size."""
    compat_of(weight, 1)
    num_images, height, width, colours = images.shape
    with np.errstate(over="ignore"):  # the lattice refuses infinite values
        most = np.array([width - 1, height - 1, *[255] * colours], np.float32) / np.array(widths, np.float32)
    features = torch.empty(len(widths), num_images, height, width, device=images.device)
    features[0] = torch.arange(width, device=images.device)
    features[1] = torch.arange(height, device=images.device)[:, None]
    features[2:] = images.permute(3, 0, 1, 2)
    # Widths as a tensor: torch would divide a CUDA tensor by a number through its reciprocal, which rounds differently.
    features /= torch.tensor(widths, device=images.device)[:, None, None, None]
    return Kernel(features.flatten(2), np.stack([np.zeros_like(most), most], axis=1), weight)


def infer(
    source: torch.Tensor, are_probs: bool, kernels: Sequence[Kernel], iterations: int, steps: Steps,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return marginals (N, C, P) float32 after one or more steps; each step updates all pixels in parallel.

    Args:
        source: (N, C, P) float32, probabilities (clipped to at least 1e-5) or energies.
        factors: (padded(C),) float32 factors of the message for each class; None: 1.
    """
    lattice = build_lattice(kernels, steps)
    scores, marginals = steps.open(source.contiguous(), are_probs)
    shape = source.shape[0], source.shape[1], source.shape[2]
    corners = lattice.vertex, lattice.weight, scores, factors
    for step in range(iterations):  # each table is freed once it was read, as `memory.most_bytes` assumes
        values = steps.add_up(steps.add_up(marginals, lattice.pieces), lattice.rows)
        del marginals
        for neighbours in lattice.neighbours:
            values = steps.blur(values, neighbours)
        if step == iterations - 1:
            return steps.close(values, *corners, shape)
        marginals = steps.update(values, *corners)  # noqa: F841 the next step reads them
        del values
    raise UserError(f"dense CRF: iterations is {iterations}; it must be 1 or more here")


def _check(probs: torch.Tensor, images: torch.Tensor) -> None:
    if not isinstance(probs, torch.Tensor) or not isinstance(images, torch.Tensor):
        raise UserError(
            f"dense CRF: probs are of type {type(probs).__name__} and the images {type(images).__name__}; give tensors"
        )
    shape = tuple(probs.shape)
    if probs.ndim != 4 or 0 in shape or tuple(images.shape) != (shape[0], *shape[2:], 3):
        raise UserError(
            f"dense CRF: probs are {shape} and the images {tuple(images.shape)}; they must be (N, C, H, W) and (N, H, W, 3)"
        )
    if probs.dtype != torch.float32 or images.dtype != torch.uint8:
        raise UserError(
            f"dense CRF: probs are {probs.dtype} and the images {images.dtype}; they must be float32, and uint8 before "
            "normalisation"
        )
    if probs.device != images.device:
        raise UserError(f"dense CRF: probs are on {probs.device} and the images on {images.device}; move one of them")
    if shape[2] * shape[3] > _MOST_PIXELS:
        raise UserError(f"dense CRF: an image has {shape[2] * shape[3]} pixels, at most {_MOST_PIXELS} fit; cut it up")
    low, high = probs.aminmax()
    if not bool((low >= 0) & (high < np.inf)):  # false for NaN
        raise UserError("dense CRF: probs hold NaN, infinity or negative values; give probabilities, not logits")


def steps_for(device: torch.device) -> Steps:
    """Return the implementation of the steps for a device."""
    match device.type:
        case "cuda" if triton_works():
            from pipeline.crf.gpu import triton_steps

            return triton_steps
        case _:
            from pipeline.crf.gpu import torch_steps

            return torch_steps
