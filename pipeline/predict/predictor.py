"""Predict images at their own size: normalisation, padding to legal sizes, tiles, batches, scales, mirror images.

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
    """A network on one device; both `segment` and the validation in training predict with it.

    Args:
        batch_size: most images or tiles in one pass; fewer if the device's memory does not hold them.
        num_threads: threads for enlargement on the CPU.
        engine: computes the model's logits; by default torch.
        others: further networks with the same classes and bands; probabilities are the mean over all networks.
        confidence_map: add to every prediction a map of the largest probability, that of the class in the mask.
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
        """Return the class probabilities of whole images of one size.

        Args:
            images: N arrays (H, W, 3) uint8 RGB, or (H, W, D) float32 levels, all of the same height and width.
        Returns:
            (N, C, H, W) float32 on the predictor's device, summing to 1 over C: the softmax, averaged over scales, mirror
            images and the networks of an ensemble.
        Raises:
            UserError: the images differ in size.
        """
        if len({image.shape for image in images}) != 1:
            raise UserError(f"one batch holds images of one size, found {sorted({i.shape[:2] for i in images})}")
        return torch.stack(self._probs([Tile.of(image) for image in images]))

    def answers(self, images: Iterable[tuple[T, np.ndarray]], keep_probs: bool = False) -> Iterator[tuple[T, Assembly]]:
        """Yield (token, answer) of each image when it is ready; images as in `probs`, other arguments as in `passes`."""
        for completed in self.passes(((token, Tile.of(image)) for token, image in images), keep_probs):
            yield from completed

    def passes(
        self, images: Iterable[tuple[T, Tile]], keep_probs: bool = False
    ) -> Iterator[Iterator[tuple[T, Assembly]]]:
        """Yield for each pass the (token, answer) of the images that it completes, to be read before the next pass.

        Tiles of different images share a batch if their padded sizes agree, which changes answers at most by rounding. At most
        2 * batch_size images wait for others.

        Args:
            images: (token, whole image), of any sizes; a token is anything by which the caller knows the image again.
            keep_probs: keep full-size probabilities; otherwise they are never made if the network ends by enlarging.
        """
        batches: dict[tuple[bool, tuple[Size, ...]], list[tuple[T, Assembly, Tile]]] = {}  # by (fused, padded sizes)
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
        """Run a batch of tiles, and yield (token, answer) of each image whose last tile is among them."""
        started = time.perf_counter()
        pieces = self._pieces([tile for _, _, tile in batch], fused)
        for (_, assembly, _), piece in zip(batch, pieces, strict=True):
            assembly.add(piece)
        for _, assembly, _ in batch:
            assembly.seconds += (time.perf_counter() - started) / len(batch)
        complete = {assembly: token for token, assembly, _ in batch if assembly.complete}
        batch.clear()  # so that the caller can free an image while the others of its batch wait
        while complete:
            assembly = next(iter(complete))
            yield complete.pop(assembly), assembly

    def masks(self, images: list[np.ndarray]) -> list[Prediction]:
        """Return the predictions of images, in their order."""
        return [assembly.prediction for _, assembly in sorted(self.answers(enumerate(images)), key=itemgetter(0))]

    def strips(
        self,
        grid: Grid,
        strip: Callable[[int, int], np.ndarray],
        levels: Callable[[np.ndarray], np.ndarray] = lambda tile: tile,
    ) -> Iterator[tuple[Assembly, Band]]:
        """Predict an image that is never whole in memory: yield the rows of its mask from the top, when they are ready.

        Args:
            grid: grid of its tiles.
            strip: returns (h, W, D) of rows from .. to - 1; called from the top down, twice for rows that tiles share.
            levels: converts a tile of a strip to what `probs` takes, a few tiles at a time, as stored values are often smaller.
        Raises:
            MemoryError: a tile does not fit the memory.
        Yields:
            The assembly, whose sums are complete after the last rows, and the next rows.
        """
        assembly = Assembly(grid, confidence_map=self.confidence_map)
        for top, bottom in grid.rows:
            self._predict_strip(assembly, strip(top, bottom), levels)
            assembly.check()
            yield assembly, assembly.take()

    def _predict_strip(self, assembly: Assembly, rows: np.ndarray, levels: Callable[[np.ndarray], np.ndarray]) -> None:
        """Predict the next row of tiles; its pixels are freed on return, before those of the next row are read."""
        grid = assembly.grid
        for first in range(0, len(grid.columns), self.batch_size):
            spans = grid.columns[first : first + self.batch_size]
            tiles = [Tile.of(levels(rows[:, left:right])) for left, right in spans]
            for piece in self._pieces(tiles, self.fuses and not grid.overlaps):
                assembly.add(piece)

    @torch.inference_mode()
    def logits_at(self, image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the logits of some pixels, before the temperature; averaged over K, their softmax is `probs` but for blending.

        Args:
            image: as in `probs`.
            rows, columns: (P,) positions of the pixels.
        Returns:
            (P, K, C) float32; K counts networks, scales and mirror images. Where tiles overlap, the logits come from the tile
            with the largest weight at the pixel.
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
        """Whether masks are made directly from coarse logits, without full-size ones."""
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
        """Return the prediction from logits (C, h, w); its means are over the part of the coarse grid that the image covers.

        Logits that are NaN or infinite give a confidence and entropy of NaN.

        Args:
            padded: size of the network's input, of which the image fills the top left part, of size `seen`.
            size: size of the mask.
        """
        if not torch.isfinite(scores).all():  # with one class at minus infinity, the softmax would be finite
            nothing = np.zeros(size, np.uint8)
            return Prediction(nothing, float("nan"), float("nan"), nothing if self.confidence_map else None)
        rows, columns = (
            max(1, -(-n * small // big)) for n, big, small in zip(seen, padded, scores.shape[1:], strict=True)
        )
        full = (padded[0] * size[0] / seen[0], padded[1] * size[1] / seen[1])  # `padded` in pixels of the mask
        tempered = self._tempered(scores)  # not for the mask, so that no temperature changes it
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
        """Return (C, H, W) of each tile: the mean over networks, scales and mirror images."""
        totals = self._own_probs(tiles)
        for other in self._members[1:]:
            for total, probs in zip(totals, other._own_probs(tiles), strict=True):
                total.add_(probs)
        members = len(self._members)
        return [total.div_(members) for total in totals] if members > 1 else totals

    def _own_probs(self, tiles: list[Tile]) -> list[torch.Tensor]:
        """Return (C, H, W) of each tile by this network: the mean over scales and mirror images."""
        totals: list[torch.Tensor | None] = [None] * len(tiles)
        for index, logits in self._own_logits(tiles):
            probs, total = self._tempered(logits).softmax(dim=0), totals[index]
            totals[index] = probs if total is None else total.add_(probs)
        passes = len(self.cfg.scales) * (2 if self.cfg.flip else 1)
        return [total / passes if passes > 1 else total for total in totals if total is not None]

    def _tempered(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits divided by the temperature. Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2."""
        return logits if self.cfg.temperature == 1 else logits / self.cfg.temperature

    def _own_logits(self, tiles: list[Tile]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield a tile's index and its (C, H, W) float32 logits at its own size, by this network, for each scale and flip."""
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
        """Return (N, D, H, W) float32, channels last: tiles scaled, mirrored, padded at the bottom and right to a legal size.

        Padding is zero, which is the mean colour after normalisation.
        """
        padded = self._padded(_scaled(tiles[0].size, scale))
        views = []
        for tile in tiles:
            pixels = torch.from_numpy(np.array(tile.pixels))  # a copy: decoders may return read-only memory
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
        """Return the padded size for each network and scale; tiles for which all of them agree share batches."""
        sizes = [_scaled(tile.size, scale) for scale in self.cfg.scales]
        return tuple(member._padded(size) for member in self._members for size in sizes)

    def _padded(self, size: Size) -> Size:
        step = lcm(self.cfg.pad_multiple, self.model.multiple_of)
        return self.model.legal_size(*(-(-n // step) * step if self.cfg.pad_multiple > 1 else n for n in size))

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (N, C, H, W) of x (N, D, H, W), which has a legal size."""
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
