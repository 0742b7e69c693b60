"""`enlarge_argmax` and `enlarge_confidence` on a GPU; full-size scores exist only in registers. C classes, H rows, W columns.

Offsets are 64-bit, since coarse scores of many classes, and masks, can exceed 2^31 numbers.
"""

import torch
import triton
import triton.language as tl

from pipeline.imaging.confidence_map import LEVELS

BLOCK_H, BLOCK_W = 8, 64  # pixels of one program: whole cells of a coarse grid at stride 4 or 8
_LAUNCH = {"num_warps": 4, "enable_fp_fusion": True}  # explicit: the default of fusion differs between versions
# Otherwise Triton would compile again if one of these is 1 or a multiple of 16. The mask's width is not among them, since its
# rows are aligned in that case.
_ANY = ["stride_c", "stride_h", "stride_w", "height", "width", "full_height"]


def enlarge_argmax_gpu(scores: torch.Tensor, full: tuple[float, float], size: tuple[int, int]) -> torch.Tensor:
    """Return the best class of each pixel after bilinear enlargement (half-pixel centres, as in F.interpolate).

    Args:
        scores: (C, h, w) float32 on a GPU, with any strides; C at most 256.
        full: (height, width) to which the scores are enlarged; fractional if a padded input was decoded at reduced size.
        size: (height, width) of the result, the top left part of the enlarged scores.
    Returns:
        (height, width) uint8 on the same device; of equal classes the lowest.
    """
    classes, height, width = scores.shape
    winners = scores.argmax(dim=0).to(torch.uint8)
    mask = torch.empty(size, dtype=torch.uint8, device=scores.device)
    grid = (triton.cdiv(size[0], BLOCK_H), triton.cdiv(size[1], BLOCK_W))
    _enlarge[grid](
        scores, winners, mask, *scores.stride(), height, width, *size, height / full[0], width / full[1],
        classes=classes, block_h=BLOCK_H, block_w=BLOCK_W, **_LAUNCH,
    )  # fmt: skip
    return mask


def enlarge_confidence_gpu(scores: torch.Tensor, full: tuple[float, float], size: tuple[int, int]) -> torch.Tensor:
    """Return the largest softmax probability of each pixel after bilinear enlargement of the logits, in levels of 1/255.

    Args:
        scores, full, size: see `enlarge_argmax_gpu`.
    Returns:
        (height, width) uint8 on the same device.
    """
    classes, height, width = scores.shape
    confidence = torch.empty(size, dtype=torch.uint8, device=scores.device)
    grid = (triton.cdiv(size[0], BLOCK_H), triton.cdiv(size[1], BLOCK_W))
    _enlarge_confidence[grid](
        scores, confidence, *scores.stride(), height, width, *size, height / full[0], width / full[1],
        classes=classes, levels=LEVELS, block_h=BLOCK_H, block_w=BLOCK_W, **_LAUNCH,
    )  # fmt: skip
    return confidence


@triton.jit(do_not_specialize=_ANY)
def _enlarge(  # type: ignore[no-untyped-def]
    scores, winners, mask, stride_c, stride_h, stride_w, height, width, full_height, full_width, down, across,
    classes: tl.constexpr, block_h: tl.constexpr, block_w: tl.constexpr,
):  # fmt: skip
    """Fill (block_h, block_w) pixels. Interpolation is convex: a class that is best at all corners around is best inside."""
    row = tl.program_id(0) * block_h + tl.arange(0, block_h)
    column = tl.program_id(1) * block_w + tl.arange(0, block_w)
    inside = (row < full_height)[:, None] & (column < full_width)[None, :]
    pixels = mask + row.to(tl.int64)[:, None] * full_width + column[None, :]
    y = tl.maximum((row.to(tl.float32) + 0.5) * down - 0.5, 0.0)
    x = tl.maximum((column.to(tl.float32) + 0.5) * across - 0.5, 0.0)
    y0 = tl.minimum(y.to(tl.int32), height - 1)
    x0 = tl.minimum(x.to(tl.int32), width - 1)
    y1 = tl.minimum(y0 + 1, height - 1)
    x1 = tl.minimum(x0 + 1, width - 1)

    upper, lower = winners + y0.to(tl.int64)[:, None] * width, winners + y1.to(tl.int64)[:, None] * width
    first = tl.load(winners + tl.min(y0).to(tl.int64) * width + tl.min(x0))
    differ = tl.load(upper + x0[None, :]) != first
    differ |= tl.load(upper + x1[None, :]) != first
    differ |= tl.load(lower + x0[None, :]) != first
    differ |= tl.load(lower + x1[None, :]) != first
    if tl.max(tl.max(differ.to(tl.int32), axis=1), axis=0) == 0:
        tl.store(pixels, tl.zeros((block_h, block_w), tl.uint8) + first, mask=inside)
        return

    down_share = (y - y0.to(tl.float32))[:, None]
    across_share = (x - x0.to(tl.float32))[None, :]
    top, bottom = (y0.to(tl.int64) * stride_h)[:, None], (y1.to(tl.int64) * stride_h)[:, None]
    left, right = (x0.to(tl.int64) * stride_w)[None, :], (x1.to(tl.int64) * stride_w)[None, :]
    highest = tl.full((block_h, block_w), float("-inf"), tl.float32)
    winner = tl.zeros((block_h, block_w), tl.int32)
    for c in range(classes):
        plane = scores + tl.cast(c, tl.int64) * stride_c
        above = (1 - across_share) * tl.load(plane + top + left) + across_share * tl.load(plane + top + right)
        below = (1 - across_share) * tl.load(plane + bottom + left) + across_share * tl.load(plane + bottom + right)
        value = (1 - down_share) * above + down_share * below
        better = value > highest
        highest = tl.where(better, value, highest)
        winner = tl.where(better, c, winner)
    tl.store(pixels, winner.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=_ANY)
def _enlarge_confidence(  # type: ignore[no-untyped-def]
    scores, confidence, stride_c, stride_h, stride_w, height, width, full_height, full_width, down, across,
    classes: tl.constexpr, levels: tl.constexpr, block_h: tl.constexpr, block_w: tl.constexpr,
):  # fmt: skip
    """Fill (block_h, block_w) pixels; the sum of exponentials is rescaled whenever a class exceeds all before it."""
    row = tl.program_id(0) * block_h + tl.arange(0, block_h)
    column = tl.program_id(1) * block_w + tl.arange(0, block_w)
    inside = (row < full_height)[:, None] & (column < full_width)[None, :]
    pixels = confidence + row.to(tl.int64)[:, None] * full_width + column[None, :]
    y = tl.maximum((row.to(tl.float32) + 0.5) * down - 0.5, 0.0)
    x = tl.maximum((column.to(tl.float32) + 0.5) * across - 0.5, 0.0)
    y0 = tl.minimum(y.to(tl.int32), height - 1)
    x0 = tl.minimum(x.to(tl.int32), width - 1)
    down_share = (y - y0.to(tl.float32))[:, None]
    across_share = (x - x0.to(tl.float32))[None, :]
    y1, x1 = tl.minimum(y0 + 1, height - 1), tl.minimum(x0 + 1, width - 1)
    top, bottom = (y0.to(tl.int64) * stride_h)[:, None], (y1.to(tl.int64) * stride_h)[:, None]
    left, right = (x0.to(tl.int64) * stride_w)[None, :], (x1.to(tl.int64) * stride_w)[None, :]

    highest = tl.full((block_h, block_w), float("-inf"), tl.float32)
    total = tl.zeros((block_h, block_w), tl.float32)
    for c in range(classes):
        plane = scores + tl.cast(c, tl.int64) * stride_c
        above = (1 - across_share) * tl.load(plane + top + left) + across_share * tl.load(plane + top + right)
        below = (1 - across_share) * tl.load(plane + bottom + left) + across_share * tl.load(plane + bottom + right)
        value = (1 - down_share) * above + down_share * below
        largest = tl.maximum(highest, value)
        total = total * tl.exp(highest - largest) + tl.exp(value - largest)
        highest = largest
    tl.store(pixels, (levels / total + 0.5).to(tl.uint8), mask=inside)
