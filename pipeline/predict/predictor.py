"""Images -> probs or masks at their own size: normalisation, padding to legal sizes, tiles, batches, scales, mirror images.

Letters: N batch, C classes, H rows, W columns.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import lcm
from operator import itemgetter
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.config import PredictConfig
from pipeline.errors import UserError
from pipeline.models import Network
from pipeline.predict.engines import Engine
from pipeline.predict.modes import (
    as_classifier,
    as_deconvnet,
    as_grid,
    mode_of,
    shift_and_stitch,
    slide_window,
    sub_windows,
)
from pipeline.predict.out_of_memory import Fitting, Piece
from pipeline.predict.prediction import Prediction, summarise
from pipeline.predict.tile import Size, Tile
from pipeline.predict.tiles import Assembly, Band, Grid, nearest
from pipeline.predict.upsample_argmax import enlarge_argmax
from pipeline.predict.upsample_confidence import enlarge_confidence
from pipeline.predict.upsample_torch import gpu_enlargements

T = TypeVar("T")


class Predictor:
    """A network on one device; training's validation and `segment` both predict through it.

    Args:
        batch_size: images or tiles of one pass, at most; fewer where the device's memory does not hold them.
        num_threads: of enlargement on the CPU.
        engine: computes the model's logits; by default torch.
        others: further networks of the same classes and bands: probabilities are the mean of all networks'.
        confidence_map: every prediction has one, of the largest of the probabilities that its mask is the argmax of.
    """

    def __init__(
        self,
        model: Network,
        cfg: PredictConfig,
        device: torch.device | str = "cpu",
        batch_size: int = 1,
        num_threads: int = 1,
        engine: Engine | None = None,
        others: Sequence[Network] = (),
        confidence_map: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.place(self.device)
        self.engine = engine or Engine(self.model)
        self.cfg, self.batch_size, self.num_threads = cfg, batch_size, num_threads
        self.confidence_map = confidence_map
        self._members = [self, *(Predictor(other, mode_of(other, cfg), device) for other in others)]
        step = lcm(*(member.model.multiple_of for member in self._members))
        self._pieces = Fitting(self._pass, batch_size, step).pieces

    def probs(self, images: list[np.ndarray]) -> torch.Tensor:
        """Class probabilities of whole images of one size.

        Args:
            images: N arrays (H, W, 3) uint8 RGB, or (H, W, D) float32 levels, all of the same height and width.
        Returns:
            (N, C, H, W) float32 on the predictor's device, summing to 1 over C. The mean over scales and mirror images
            of the softmax at each, and over the networks of an ensemble.
        Raises:
            UserError: the images differ in size.
        """
        if len({image.shape for image in images}) != 1:
            raise UserError(f"one batch holds images of one size, found {sorted({i.shape[:2] for i in images})}")
        return torch.stack(self._probs([Tile.of(image) for image in images]))

    def answers(self, images: Iterable[tuple[T, np.ndarray]], keep_probs: bool = False) -> Iterator[tuple[T, Assembly]]:
        """(token, answer) of each image, as they are ready; images as `probs` takes them, the rest as `passes`."""
        for completed in self.passes(((token, Tile.of(image)) for token, image in images), keep_probs):
            yield from completed

    def passes(
        self, images: Iterable[tuple[T, Tile]], keep_probs: bool = False
    ) -> Iterator[Iterator[tuple[T, Assembly]]]:
        """(token, answer) of the images that each pass completes, to be read before the next pass.

        Tiles of any images share batches where their padded sizes agree; which ones do changes answers by rounding at most. At
        most 2 * batch_size images wait for others.

        Args:
            images: (token, whole image), of any sizes; the token is the caller's, and comes back with the answer.
            keep_probs: full-size probabilities are asked for; else they are never made where the network ends by enlarging.
        """
        batches: dict[tuple[bool, tuple[Size, ...]], list[tuple[T, Assembly, Tile]]] = {}  # of (fused, padded sizes)
        for token, image in images:
            grid = Grid.over(image.size, self.cfg.tile, self.cfg.overlap)
            assembly = Assembly(grid, keep_probs, self.confidence_map)
            fused = self.fuses and not keep_probs and not grid.overlaps
            for tile in grid.cut(image):
                key = fused, self._paddings(tile)
                batches.setdefault(key, []).append((token, assembly, tile))
                if len(batches[key]) == self.batch_size:
                    yield self._completed(batches.pop(key), fused)
            if len({assembly for batch in batches.values() for _, assembly, _ in batch}) >= 2 * self.batch_size:
                key = next(iter(batches))
                yield self._completed(batches.pop(key), key[0])
        while batches:
            key = next(iter(batches))
            yield self._completed(batches.pop(key), key[0])

    def _completed(self, batch: list[tuple[T, Assembly, Tile]], fused: bool) -> Iterator[tuple[T, Assembly]]:
        """Run a batch of tiles; (token, answer) of each image of which this was the last tile."""
        started = time.perf_counter()
        pieces = self._pieces([tile for _, _, tile in batch], fused)
        for (_, assembly, _), piece in zip(batch, pieces, strict=True):
            assembly.add(piece)
        for _, assembly, _ in batch:
            assembly.seconds += (time.perf_counter() - started) / len(batch)
        complete = {assembly: token for token, assembly, _ in batch if assembly.complete}
        batch.clear()  # the caller may let go of an image while the others of its batch wait
        while complete:
            assembly = next(iter(complete))
            yield complete.pop(assembly), assembly

    def masks(self, images: list[np.ndarray]) -> list[Prediction]:
        """The answers of images at hand, in their order."""
        return [assembly.prediction for _, assembly in sorted(self.answers(enumerate(images)), key=itemgetter(0))]

    def strips(
        self,
        grid: Grid,
        strip: Callable[[int, int], np.ndarray],
        levels: Callable[[np.ndarray], np.ndarray] = lambda tile: tile,
    ) -> Iterator[tuple[Assembly, Band]]:
        """An image that is never whole in memory: the rows of its mask from the top, as they are ready.

        Args:
            grid: of its tiles.
            strip: (h, W, D) of rows from .. to - 1; asked for from the top down, rows that tiles share twice.
            levels: makes of a tile of a strip what `probs` takes, a few tiles at a time: stored values are often smaller.
        Raises:
            MemoryError: a tile does not fit.
        Yields:
            The assembly, whose sums are whole after the last rows, and the next rows.
        """
        assembly = Assembly(grid, confidence_map=self.confidence_map)
        for top, bottom in grid.rows:
            self._predict_strip(assembly, strip(top, bottom), levels)
            assembly.check()
            yield assembly, assembly.take()

    def _predict_strip(self, assembly: Assembly, rows: np.ndarray, levels: Callable[[np.ndarray], np.ndarray]) -> None:
        """The next row of tiles; its pixels are let go of at the end, before those of the next are read."""
        grid = assembly.grid
        for first in range(0, len(grid.columns), self.batch_size):
            spans = grid.columns[first : first + self.batch_size]
            tiles = [Tile.of(levels(rows[:, left:right])) for left, right in spans]
            for piece in self._pieces(tiles, self.fuses and not grid.overlaps):
                assembly.add(piece)

    @torch.inference_mode()
    def logits_at(self, image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Logits of some pixels, before the temperature; the mean of their softmax over K is `probs`, without tiles' blends.

        Args:
            image: as `probs` takes it.
            rows, columns: (P,) of the pixels.
        Returns:
            (P, K, C) float32; K counts networks, scales and mirror images. Where tiles overlap, those of the tile that has the
            larger part in the pixel.
        """
        grid = Grid.over((image.shape[0], image.shape[1]), self.cfg.tile, self.cfg.overlap)
        down, across = nearest(grid.rows)[rows], nearest(grid.columns)[columns]
        found: np.ndarray | None = None
        for index, tile in enumerate(grid.cut(Tile.of(image))):
            row, column = divmod(index, len(grid.columns))
            here = np.flatnonzero((down == row) & (across == column))
            if not len(here):
                continue
            y = torch.from_numpy(rows[here] - grid.rows[row][0]).to(self.device)
            x = torch.from_numpy(columns[here] - grid.columns[column][0]).to(self.device)
            passes = [logits[:, y, x].cpu() for member in self._members for _, logits in member._own_logits([tile])]
            values = torch.stack(passes).permute(2, 0, 1).numpy()
            found = np.empty((len(rows), *values.shape[1:]), np.float32) if found is None else found
            found[here] = values
        return np.empty((0, 1, 1), np.float32) if found is None else found

    @property
    def fuses(self) -> bool:
        """Whether coarse logits become a mask in one step, so that full-size ones are never made."""
        one_size = self.cfg.scales == (1.0,) or self.cfg.reduced_decode
        one_pass = one_size and not self.cfg.flip and self.cfg.mode == "whole" and len(self._members) == 1
        return one_pass and self.model.enlarges

    def _pass(self, tiles: list[Tile], fused: bool) -> list[Piece]:
        return list(self._fused(tiles) if fused else self._probs(tiles))

    @torch.inference_mode()
    def _fused(self, tiles: list[Tile]) -> list[Prediction]:
        (scale,) = self.cfg.scales
        x = self._input(tiles, scale, mirrored=False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            coarse = self.engine.coarse(x).float()
        padded = _size_of(x)
        return [
            self._enlarged(scores, padded, _scaled(tile.size, scale), tile.size)
            for scores, tile in zip(coarse, tiles, strict=True)
        ]

    def _enlarged(self, scores: torch.Tensor, padded: Size, seen: Size, size: Size) -> Prediction:
        """Mask of (C, h, w) logits; confidence and entropy are means over their grid, as far as the image reaches.

        Logits that are NaN or infinite give an entropy of NaN.

        Args:
            padded: of the network's input, of which the image fills `seen` from the top left.
            size: of the mask.
        """
        if not torch.isfinite(scores).all():  # one class at minus infinity would leave the softmax finite
            nothing = np.zeros(size, np.uint8)
            return Prediction(nothing, float("nan"), float("nan"), nothing if self.confidence_map else None)
        rows, columns = (
            max(1, -(-n * small // big)) for n, big, small in zip(seen, padded, scores.shape[1:], strict=True)
        )
        full = (padded[0] * size[0] / seen[0], padded[1] * size[1] / seen[1])  # `padded` in pixels of the mask
        tempered = self._tempered(scores)  # the mask is that of the scores as they are: equal, bit for bit
        rest = summarise(tempered[:, :rows, :columns].softmax(dim=0))
        sure = None
        if self.device.type == "cpu":
            mask = enlarge_argmax(scores.numpy(), full, size, self.num_threads)
            if self.confidence_map:
                sure = enlarge_confidence(tempered.numpy(), full, size, self.num_threads)
        else:
            argmax, confidence = gpu_enlargements()
            mask = argmax(scores, full, size).cpu().numpy()
            if self.confidence_map:
                sure = confidence(tempered, full, size).cpu().numpy()
        return Prediction(mask, rest.confidence, rest.entropy, sure)

    @torch.inference_mode()
    def _probs(self, tiles: list[Tile]) -> list[torch.Tensor]:
        """(C, H, W) of each tile: the mean over networks, scales and mirror images."""
        totals = self._own_probs(tiles)
        for other in self._members[1:]:
            for total, probs in zip(totals, other._own_probs(tiles), strict=True):
                total.add_(probs)
        members = len(self._members)
        return [total.div_(members) for total in totals] if members > 1 else totals

    def _own_probs(self, tiles: list[Tile]) -> list[torch.Tensor]:
        """(C, H, W) of each tile by this network: the mean over scales and mirror images."""
        totals: list[torch.Tensor | None] = [None] * len(tiles)
        for index, logits in self._own_logits(tiles):
            probs, total = self._tempered(logits).softmax(dim=0), totals[index]
            totals[index] = probs if total is None else total.add_(probs)
        passes = len(self.cfg.scales) * (2 if self.cfg.flip else 1)
        return [total / passes if passes > 1 else total for total in totals if total is not None]

    def _tempered(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits divided by the temperature. Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2."""
        return logits if self.cfg.temperature == 1 else logits / self.cfg.temperature

    def _own_logits(self, tiles: list[Tile]) -> Iterator[tuple[int, torch.Tensor]]:
        """Index of a tile and its (C, H, W) float32 logits at its own size, by this network: at each scale, and mirrored."""
        for scale in self.cfg.scales:
            for mirrored in (False, True) if self.cfg.flip else (False,):
                logits = self._logits(self._input(tiles, scale, mirrored))
                for index, tile in enumerate(tiles):
                    height, width = _scaled(tile.size, scale)
                    own = logits[index : index + 1, :, :height, :width]
                    own = own.flip(-1) if mirrored else own
                    own = own if scale == 1 else _resize(own, tile.size)
                    yield index, own[0].float()

    def _input(self, tiles: list[Tile], scale: float, mirrored: bool) -> torch.Tensor:
        """(N, D, H, W) float32, channels last: each tile scaled, turned, and padded at the bottom and right to a legal size.

        Padding is zero: the mean colour, after normalisation.
        """
        padded = self._padded(_scaled(tiles[0].size, scale))
        views = []
        for tile in tiles:
            pixels = torch.from_numpy(np.array(tile.pixels))  # a copy: decoders hand out memory that may not be written
            if self.device.type == "cuda":
                pixels = pixels.pin_memory()
            x = self.model.normalise(pixels.to(self.device, non_blocking=True).permute(2, 0, 1)[None])
            seen = _scaled(tile.size, scale)
            x = x if _size_of(x) == seen else _resize(x, seen)
            views.append(x.flip(-1) if mirrored else x)
        if len(views) == 1 and _size_of(views[0]) == padded:
            return views[0].contiguous(memory_format=torch.channels_last)
        batch = torch.zeros((len(views), views[0].shape[1], *padded), device=self.device).contiguous(
            memory_format=torch.channels_last
        )
        for place, x in zip(batch, views, strict=True):
            place[:, : x.shape[-2], : x.shape[-1]] = x[0]
        return batch

    def _paddings(self, tile: Tile) -> tuple[Size, ...]:
        """The padded size at each scale, of each network: tiles that share all of them share batches."""
        sizes = [_scaled(tile.size, scale) for scale in self.cfg.scales]
        return tuple(member._padded(size) for member in self._members for size in sizes)

    def _padded(self, size: Size) -> Size:
        step = lcm(self.cfg.pad_multiple, self.model.multiple_of)
        return self.model.legal_size(*(-(-n // step) * step if self.cfg.pad_multiple > 1 else n for n in size))

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) logits of (N, D, H, W) of a legal size."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            match self.cfg.mode:
                case "whole":
                    logits = self.engine.logits(x)
                case "shift_and_stitch":
                    logits = shift_and_stitch(as_grid(self.model), x)
                case "sliding_window":
                    logits = slide_window(as_classifier(self.model), x)
                case "sub_windows":
                    logits = sub_windows(as_deconvnet(self.model), x, self.cfg.windows)
        return logits


def _size_of(x: torch.Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _scaled(size: Size, scale: float) -> Size:
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))) if scale != 1 else size


def _resize(x: torch.Tensor, size: Size) -> torch.Tensor:
    smaller = size[0] < x.shape[-2] or size[1] < x.shape[-1]
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=smaller)
