"""Run tiles in passes that fit the memory of a device or of this process, whose limit is unknown until it is exceeded."""

import logging
from collections.abc import Callable

import torch

from pipeline.predict.prediction import Prediction
from pipeline.predict.tile import Tile

HALO_PX = 128  # if a tile is halved for lack of memory, each half includes this much of the other
_log = logging.getLogger(__name__)


class TooLarge:
    """Takes the place of a tile's result: it does not fit the memory, even in parts."""


Piece = Prediction | torch.Tensor | TooLarge  # result of a tile: its prediction, or its probabilities (C, H, W)


def memory_is_full(error: BaseException) -> bool:
    """Return whether an error means that memory ran out; for the CPU's memory, torch raises no class of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


class Fitting:
    """Runs tiles through a pass, all together if memory allows, and remembers what it did not allow.

    Args:
        run: function of tiles of one padded size, and of whether probabilities may be left out; returns a piece per tile.
        multiple_of: the network's, in pixels; parts of a tile begin at multiples of it.
    """

    def __init__(self, run: Callable[[list[Tile], bool], list[Piece]], batch_size: int, multiple_of: int) -> None:
        self._run, self._batch_size, self._multiple_of = run, batch_size, multiple_of
        # Limits of one pass, as far as they are known.
        self._most_tiles, self._most_pixels = batch_size, float("inf")

    def pieces(self, tiles: list[Tile], fused: bool) -> list[Piece]:
        """Return the pieces of tiles that have the same padded sizes.

        If memory runs out, batches are halved, and on a GPU then the tile itself; what still does not fit is `TooLarge`.
        """
        pieces: list[Piece] = []
        while tiles:
            count = min(len(tiles), self._most_tiles)
            batch = tiles[:count]
            height, width = batch[0].pixels.shape[:2]
            if height * width > self._most_pixels:
                pieces, tiles = [*pieces, self._in_halves(batch[0])], tiles[1:]
                continue
            try:
                pieces += self._run(batch, fused)
                tiles = tiles[count:]
                continue
            except (MemoryError, RuntimeError) as error:
                if not memory_is_full(error):
                    raise
                sentence, on_device = str(error).split(". ")[0], isinstance(error, torch.OutOfMemoryError)
            # Outside of `except`, since its traceback keeps the tensors of the failed pass in memory.
            if count > 1 or on_device:
                self._shrink(count, height, width, sentence)
            else:
                pieces, tiles = [*pieces, TooLarge()], tiles[1:]
        return pieces

    def _shrink(self, count: int, height: int, width: int, sentence: str) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if self._most_tiles == self._batch_size and self._most_pixels == float("inf"):
            _log.warning(
                "the memory does not hold %d x %dx%d pixels (%s): smaller batches, then parts of tiles, from here "
                "on; set a lower batch_size or predict.tile",
                count, height, width, sentence,
            )  # fmt: skip
        if count > 1:
            self._most_tiles = count // 2
        else:
            self._most_pixels = height * width - 1

    def _in_halves(self, tile: Tile) -> torch.Tensor | TooLarge:
        """Return (C, H, W), on the CPU, of a tile that runs in two parts, each of which includes `HALO_PX` of the other.

        The labels are those of the whole tile if the network sees no farther than that; features that it pools over the
        whole input differ.
        """
        pixels = tile.pixels
        height, width = pixels.shape[:2]
        if tile.reduced or max(height, width) <= 2 * HALO_PX:
            return TooLarge()
        across = width >= height
        size = max(height, width)
        step = self._multiple_of
        middle = max(step, size // 2 // step * step)
        start = max(0, (middle - HALO_PX) // step * step)
        stop = middle + HALO_PX
        parts = (pixels[:, :stop], pixels[:, start:]) if across else (pixels[:stop], pixels[start:])
        first, second = (self._part(Tile.of(part)) for part in parts)
        if isinstance(first, TooLarge) or isinstance(second, TooLarge):
            return TooLarge()
        dim = 2 if across else 1
        return torch.cat([first.narrow(dim, 0, middle), second.narrow(dim, middle - start, size - middle)], dim=dim)

    def _part(self, part: Tile) -> torch.Tensor | TooLarge:
        (piece,) = self.pieces([part], fused=False)
        assert not isinstance(piece, Prediction)
        return piece if isinstance(piece, TooLarge) else piece.cpu()
