"""The steps as Triton kernels: each reads its rows once, accumulates in registers and writes once; no atomics.

Each program processes a block of rows: rows are so short that it takes many of them to keep enough reads in flight. Offsets are
64-bit: large images with many classes exceed 2^31 numbers. The same kernels run on CPU tensors under TRITON_INTERPRET=1.

Kernels are specialised to the power of two that holds the classes, the number of corners, and whether an image's number of
pixels is a multiple of 16. No other size, and no number of images or rows, triggers a new compilation. (By default, Triton
would also specialise to numbers of rows that are a multiple of 16, as one image in 16 has.)
"""

import torch
import triton
import triton.language as tl

from pipeline.crf.gpu.steps import FAR, FLOOR, NEVER, TINY, Sums, padded

BLUR_TABLES, BLUR_BYTES, UPDATE_TABLES = 2, 0, 2
_LAUNCH = {"num_warps": 4, "enable_fp_fusion": True}  # explicit: the default of fusion differs between versions
_TILE = 1024  # numbers in a block: 8 registers per thread
_LOOK_AHEAD = tl.constexpr(4)  # entries of each row that are read at once
_SUM_COLUMNS = 32  # of a block of sums; with more classes, several programs share them
_NEVER, _FLOOR, _TINY, _FAR = tl.constexpr(NEVER), tl.constexpr(FLOOR), tl.constexpr(TINY), tl.constexpr(FAR)


def open(source: torch.Tensor, are_probs: bool) -> tuple[torch.Tensor, torch.Tensor]:
    num_images, num_classes, num_pixels = source.shape
    scores = source.new_empty(num_images * num_pixels, padded(num_classes))
    marginals = torch.empty_like(scores)
    columns = _columns(scores)
    rows = max(16, _TILE // columns)
    grid = (triton.cdiv(num_pixels, rows), num_images)
    _open[grid](
        source, scores, marginals, num_pixels, num_classes, scores.shape[1] // 4,
        ARE_PROBS=are_probs, ROWS=rows, COLUMNS=columns, **_LAUNCH,
    )  # fmt: skip
    return scores, marginals


def add_up(table: torch.Tensor, sums: Sums) -> torch.Tensor:
    num_rows = len(sums.start) - 1
    result = table.new_empty(num_rows, table.shape[1])
    columns = min(_SUM_COLUMNS, _columns(table))
    rows = _TILE // 2 // columns
    grid = (triton.cdiv(num_rows, rows), triton.cdiv(table.shape[1], columns))
    _add_up[grid](
        table, sums.index, sums.weight, sums.start, result, num_rows, table.shape[1] // 4,
        ROWS=rows, COLUMNS=columns, **_LAUNCH,
    )  # fmt: skip
    return result


def blur(values: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(values)
    columns = min(_SUM_COLUMNS, _columns(values))
    rows = _TILE // columns
    grid = (triton.cdiv(len(values), rows), triton.cdiv(values.shape[1], columns))
    _blur[grid](
        values, neighbours, result, len(values), values.shape[1] // 4,
        ROWS=rows, COLUMNS=columns, **_LAUNCH,
    )  # fmt: skip
    return result


def update(
    values: torch.Tensor, vertex: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor, factors: torch.Tensor | None
) -> torch.Tensor:
    return _updated(values, vertex, weight, scores, factors, torch.empty_like(scores), None)


def close(
    values: torch.Tensor,
    vertex: torch.Tensor,
    weight: torch.Tensor,
    scores: torch.Tensor,
    factors: torch.Tensor | None,
    shape: tuple[int, int, int],
) -> torch.Tensor:
    return _updated(values, vertex, weight, scores, factors, scores.new_empty(shape), shape)


def _updated(
    values: torch.Tensor,
    vertex: torch.Tensor,
    weight: torch.Tensor,
    scores: torch.Tensor,
    factors: torch.Tensor | None,
    result: torch.Tensor,
    shape: tuple[int, int, int] | None,
) -> torch.Tensor:
    """Return marginals as rows, or if a shape is given, as planes (N, C, P)."""
    columns = _columns(scores)
    rows = max(16 if shape else 1, _TILE // columns)  # planes are written along pixels
    num_images, num_classes, num_pixels = shape or (1, 0, len(scores))
    grid = (triton.cdiv(num_pixels, rows), num_images)
    _update[grid](
        values, vertex, weight, scores, scores if factors is None else factors, result, num_pixels, num_classes,
        scores.shape[1] // 4, CORNERS=vertex.shape[1], PLANES=shape is not None, WEIGHTED=factors is not None,
        ROWS=rows, COLUMNS=columns, **_LAUNCH,
    )  # fmt: skip
    return result


def _columns(table: torch.Tensor) -> int:
    """Return the power of two that holds a row."""
    return triton.next_power_of_2(table.shape[1])


@triton.jit
def _softmax(scores):  # type: ignore[no-untyped-def]
    """Return the softmax of each row; columns of -infinity get 0."""
    raised = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    probs = raised * (1.0 / tl.sum(raised, axis=1))[:, None]
    return tl.where(probs < _TINY, 0.0, probs)


@triton.jit
def _open(  # type: ignore[no-untyped-def]
    source, scores, marginals, num_pixels, num_classes, quads,
    ARE_PROBS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write planes (N, C, P) as rows of scores, and their softmax. Each program does ROWS pixels of one image."""
    stride = quads * 4  # so the compiler knows that rows begin at multiples of 16 bytes
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    image = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_pixel, is_class = (pixel < num_pixels)[:, None], (column < num_classes)[None, :]
    plane = (image * num_classes + column)[None, :] * num_pixels
    value = tl.load(source + plane + pixel[:, None], mask=is_pixel & is_class, other=1.0)
    if ARE_PROBS:
        value = tl.log(tl.maximum(value, _FLOOR).to(tl.float64)).to(tl.float32)
        value = tl.where(is_class, value, _NEVER)
    else:
        value = tl.where(is_class, -value, _NEVER)
        best = tl.max(value, axis=1)[:, None]
        value -= tl.where(tl.abs(best) > _FAR, best, 0.0)
    at = (image * num_pixels + pixel)[:, None] * stride + column[None, :]
    wanted = is_pixel & (column < stride)[None, :]
    tl.store(scores + at, value, mask=wanted)
    tl.store(marginals + at, _softmax(value), mask=wanted)


@triton.jit(do_not_specialize=["num_rows"])
def _add_up(  # type: ignore[no-untyped-def]
    table, index, weight, start, result, num_rows, quads, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Write weighted sums of rows, entry by entry. Each program does COLUMNS columns of ROWS sums."""
    stride = quads * 4
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = row < num_rows, (column < stride)[None, :]
    entry = tl.load(start + row, mask=is_row, other=0)
    end = tl.load(start + row + 1, mask=is_row, other=0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    left = tl.max(end - entry, axis=0)
    while left > 0:
        for ahead in tl.static_range(_LOOK_AHEAD):
            is_there = entry + ahead < end
            source = tl.load(index + entry + ahead, mask=is_there, other=0).to(tl.int64)
            share = tl.load(weight + entry + ahead, mask=is_there, other=0.0)
            at = source[:, None] * stride + column[None, :]
            total += share[:, None] * tl.load(table + at, mask=is_there[:, None] & is_column, other=0.0)
        entry += _LOOK_AHEAD
        left -= _LOOK_AHEAD
    tl.store(result + row[:, None] * stride + column[None, :], total, mask=is_row[:, None] & is_column)


@triton.jit(do_not_specialize=["num_rows"])
def _blur(values, neighbours, result, num_rows, quads, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write rows plus half the sum of their neighbours. Each program does COLUMNS columns of ROWS rows."""
    stride = quads * 4
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    is_row, is_column = row < num_rows, column < stride
    ahead = tl.load(neighbours + row, mask=is_row, other=-1).to(tl.int64)[:, None]
    behind = tl.load(neighbours + num_rows + row, mask=is_row, other=-1).to(tl.int64)[:, None]
    at = row[:, None] * stride + column
    value = tl.load(values + at, mask=is_row[:, None] & is_column, other=0.0)
    both = tl.load(values + ahead * stride + column, mask=(ahead >= 0) & is_column, other=0.0)
    both += tl.load(values + behind * stride + column, mask=(behind >= 0) & is_column, other=0.0)
    tl.store(result + at, value + 0.5 * both, mask=is_row[:, None] & is_column)


@triton.jit
def _update(  # type: ignore[no-untyped-def]
    values, vertex, weight, scores, factors, result, num_pixels, num_classes, quads,
    CORNERS: tl.constexpr, PLANES: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum the corners of each pixel, add its scores, apply softmax. Each program does ROWS pixels of an image, all classes."""
    stride = quads * 4
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    image = tl.program_id(1).to(tl.int64)
    row = image * num_pixels + pixel
    column = tl.arange(0, COLUMNS)[None, :]
    is_pixel, is_column = pixel < num_pixels, column < stride
    is_wanted = is_pixel[:, None] & is_column
    message = tl.zeros((ROWS, COLUMNS), tl.float32)
    for corner in tl.static_range(CORNERS):
        source = tl.load(vertex + row * CORNERS + corner, mask=is_pixel, other=0).to(tl.int64)
        share = tl.load(weight + row * CORNERS + corner, mask=is_pixel, other=0.0)
        message += share[:, None] * tl.load(values + source[:, None] * stride + column, mask=is_wanted, other=0.0)
    if WEIGHTED:
        message *= tl.load(factors + column, mask=is_column, other=0.0)
    at = row[:, None] * stride + column
    # The unary is added last, as on the CPU: rounding errors are smaller while the sum is small.
    probs = _softmax(tl.load(scores + at, mask=is_wanted, other=_NEVER) + message)
    if PLANES:
        plane = (image * num_classes + column) * num_pixels
        tl.store(result + plane + pixel[:, None], probs, mask=is_pixel[:, None] & (column < num_classes))
    else:
        tl.store(result + at, probs, mask=is_wanted)
