"""Divide an image into tiles, and assemble their results. Letters: C classes, H rows, W columns."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pipeline.predict.out_of_memory import Piece, TooLarge
from pipeline.predict.prediction import Prediction, summarise
from pipeline.predict.tile import Size, Tile

Span = tuple[int, int]  # first pixel, and the one after the last
Band = tuple[np.ndarray, np.ndarray | None]  # (h, W) uint8 rows of a mask, and of its confidence map


@dataclass(frozen=True)
class Grid:
    """Positions of the tiles of one image; in raster order, a row of tiles comes before the next row."""

    rows: list[Span]
    columns: list[Span]

    @classmethod
    def over(cls, size: Size, tile: Size | None, overlap: int) -> "Grid":
        """Return tiles spread evenly over an image, neighbours sharing at least `overlap` pixels; None means one tile."""
        rows, columns = (spread(n, n if tile is None else tile[axis], overlap) for axis, n in enumerate(size))
        return cls(rows, columns)

    @property
    def size(self) -> Size:
        return self.rows[-1][1], self.columns[-1][1]

    @property
    def overlaps(self) -> bool:
        return any(first[1] > second[0] for spans in (self.rows, self.columns) for first, second in pairwise(spans))

    def cut(self, image: Tile) -> list[Tile]:
        """Return the tiles, as views of the image, in raster order."""
        if len(self.rows) == len(self.columns) == 1:
            return [image]
        assert not image.reduced
        spans = [(row, column) for row in self.rows for column in self.columns]
        return [Tile.of(image.pixels[top:bottom, left:right]) for (top, bottom), (left, right) in spans]


def spread(size: int, tile: int, overlap: int) -> list[Span]:
    """Return the fewest spans of `tile` pixels that cover `size`, where neighbours share at least `overlap` pixels."""
    if size <= tile:
        return [(0, size)]
    gaps = -(-(size - overlap) // (tile - overlap)) - 1
    return [(start, start + tile) for start in ((2 * i * (size - tile) + gaps) // (2 * gaps) for i in range(gaps + 1))]


def ramps(spans: list[Span]) -> list[np.ndarray]:
    """Return float32 weights of each span's pixels: linear in overlaps, one elsewhere; at each pixel they sum to one."""
    total, raw = np.zeros(spans[-1][1]), []
    for index, (start, stop) in enumerate(spans):
        weights, middles = np.ones(stop - start), np.arange(start, stop) + 0.5
        if index and (shared := spans[index - 1][1] - start) > 0:
            weights = np.minimum(weights, (middles - start) / shared)
        if index + 1 < len(spans) and (shared := stop - spans[index + 1][0]) > 0:
            weights = np.minimum(weights, (stop - middles) / shared)
        total[start:stop] += weights
        raw.append(weights)
    return [(weights / total[start:stop]).astype(np.float32) for (start, stop), weights in zip(spans, raw, strict=True)]


def nearest(spans: list[Span]) -> np.ndarray:
    """Return for each pixel the index of the span with the largest weight there."""
    owner, most = np.zeros(spans[-1][1], np.int64), np.zeros(spans[-1][1], np.float32)
    for index, ((start, stop), weights) in enumerate(zip(spans, ramps(spans), strict=True)):
        larger = weights > most[start:stop]
        owner[start:stop][larger], most[start:stop][larger] = index, weights[larger]
    return owner


class Blend:
    """Weighted sum of class probabilities of overlapping tiles; a block is returned once no later tile touches it.

    Incomplete sums take C x H of a tile x overlap for the next tile, and twice C x overlap x W of the image for the next row
    of tiles. They are allocated once, since many small allocations among large ones would fragment the heap.
    """

    def __init__(self, grid: Grid) -> None:
        self._rows, self._columns = grid.rows, grid.columns
        self._row_weights, self._column_weights = (
            [torch.from_numpy(weights) for weights in ramps(spans)] for spans in (grid.rows, grid.columns)
        )
        # Incomplete sums: (C, h, shared), and (C, shared, W) twice, from the row of tiles above and for the row below.
        self.waiting: tuple[torch.Tensor, ...] = ()

    def add(self, row: int, column: int, probs: torch.Tensor) -> torch.Tensor:
        """Add (C, H, W) of the next tile in raster order; return the part (C, h, w) at its upper left that is now final."""
        if not self.waiting:
            classes, (shared_rows, shared_columns) = (
                probs.shape[0],
                (_most_shared(s) for s in (self._rows, self._columns)),
            )
            shapes = (probs.shape[1], shared_columns), *[(shared_rows, self._columns[-1][1])] * 2
            self.waiting = tuple(torch.zeros((classes, *shape), device=probs.device) for shape in shapes)
        right, *across = self.waiting
        above, below = across if row % 2 else reversed(across)
        top, left = self._rows[row][0], self._columns[column][0]
        height, width = _start_of_next(self._rows, row) - top, _start_of_next(self._columns, column) - left
        weights = self._row_weights[row][:, None] * self._column_weights[column][None, :]
        whole = probs.to(right.device) * weights.to(right.device)
        if column and (shared := self._columns[column - 1][1] - left) > 0:
            whole[..., :shared] += right[..., :shared]
        if row and (shared := self._rows[row - 1][1] - top) > 0:
            whole[:, :shared, :width] += above[:, :shared, left : left + width]
        right[..., : whole.shape[2] - width] = whole[..., width:]
        below[:, : whole.shape[1] - height, left : left + width] = whole[:, height:, :width]
        return whole[:, :height, :width]


def _most_shared(spans: list[Span]) -> int:
    return max((first[1] - second[0] for first, second in pairwise(spans)), default=0)


def _start_of_next(spans: list[Span], index: int) -> int:
    return spans[index + 1][0] if index + 1 < len(spans) else spans[-1][1]


class Assembly:
    """Assembles the prediction of one image from the pieces of its tiles, in raster order.

    Args:
        keep_probs: also keep the probabilities (C, H, W); those of several tiles are on the CPU.
        confidence_map: add one to the prediction; each piece that is a `Prediction` then has its own.
    """

    def __init__(self, grid: Grid, keep_probs: bool = False, confidence_map: bool = False) -> None:
        self.grid, self.seconds = grid, 0.0
        # Finished rows of the mask and of the confidence map, (h, W) uint8, from the top; `take` removes them.
        self._bands: list[np.ndarray] = []
        self._confidence_bands: list[np.ndarray] = []
        self.probs: torch.Tensor | None = None
        self._keep_probs, self._confidence_map, self._blend = keep_probs, confidence_map, Blend(grid)
        self._next, self._confidence, self._entropy, self._too_large = 0, 0.0, 0.0, False

    @property
    def complete(self) -> bool:
        return self._next == len(self.grid.rows) * len(self.grid.columns)

    def add(self, piece: Piece) -> None:
        """Add the piece of the next tile: its probabilities, or if it overlaps no other, its prediction."""
        row, column = divmod(self._next, len(self.grid.columns))
        self._next += 1
        self._too_large = self._too_large or isinstance(piece, TooLarge)
        if self._too_large or isinstance(piece, TooLarge):
            return
        top, left = self.grid.rows[row][0], self.grid.columns[column][0]
        if isinstance(piece, torch.Tensor):
            alone = len(self.grid.rows) == len(self.grid.columns) == 1
            probs = piece if alone else self._blend.add(row, column, piece)
            piece = summarise(probs, self._confidence_map)
            if self._keep_probs:
                self._keep(probs, top, left, alone)
        height, width = piece.mask.shape
        self._place(piece.mask, self._bands, left)
        if piece.confidence_map is not None:
            self._place(piece.confidence_map, self._confidence_bands, left)
        self._confidence += piece.confidence * height * width
        self._entropy += piece.entropy * height * width

    def _place(self, rows: np.ndarray, bands: list[np.ndarray], left: int) -> None:
        """Copy the rows of a piece to the last band, from column `left` on; a piece at column 0 begins a new band."""
        if rows.shape[1] == self.grid.size[1]:
            bands.append(rows)
            return
        if not left:
            bands.append(np.empty((rows.shape[0], self.grid.size[1]), np.uint8))
        bands[-1][:, left : left + rows.shape[1]] = rows

    def take(self) -> Band:
        """Return the rows that were finished last, and remove them."""
        return self._bands.pop(), self._confidence_bands.pop() if self._confidence_map else None

    def _keep(self, probs: torch.Tensor, top: int, left: int, alone: bool) -> None:
        if alone:
            self.probs = probs
            return
        if self.probs is None:
            self.probs = torch.empty((probs.shape[0], *self.grid.size))
        self.probs[:, top : top + probs.shape[1], left : left + probs.shape[2]] = probs

    @property
    def confidence(self) -> float:
        """Mean over the pixels of the largest probability, as in `Prediction`."""
        return self._confidence / (self.grid.size[0] * self.grid.size[1])

    @property
    def entropy(self) -> float:
        """Mean over the pixels, nats."""
        return self._entropy / (self.grid.size[0] * self.grid.size[1])

    @property
    def fits(self) -> bool:
        """Whether every tile so far fitted the memory."""
        return not self._too_large

    def check(self) -> None:
        """Raise MemoryError if a tile so far did not fit the memory."""
        if not self.fits:
            height, width = self.grid.size
            raise MemoryError(f"the memory does not hold an image of {height}x{width} pixels (height x width)")

    @property
    def prediction(self) -> Prediction:
        """The prediction of the complete image; MemoryError if one of its tiles did not fit the memory."""
        assert self.complete
        self.check()
        sure = _joined(self._confidence_bands) if self._confidence_map else None
        return Prediction(_joined(self._bands), self.confidence, self.entropy, sure)


def _joined(bands: list[np.ndarray]) -> np.ndarray:
    return bands[0] if len(bands) == 1 else np.concatenate(bands)
