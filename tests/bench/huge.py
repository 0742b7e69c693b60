"""One huge picture through a shard in bounded memory: a PNG of two grey halves and its label, two classes.

python -m tests.bench.huge HEIGHT WIDTH [--tile 1024 1024] [--overlap 64]    one line of JSON: seconds, memory, counts
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pipeline import labels
from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig, parse, parse_model
from pipeline.corpus import list_items
from pipeline.imaging.mask_png import MaskWriter
from pipeline.models import Network
from pipeline.models.checkpoint import Checkpoint
from pipeline.segment.shard import ShardSegmenter


class Brightness(Network):
    """Class 0 where a pixel is dark, 1 where it is bright, of 11: as cheap as a network can be."""

    mean, std = (0.5,) * 3, (0.1,) * 3
    min_size = multiple_of = 8

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        scores = torch.full((x.shape[0], 11, *x.shape[-2:]), -50.0)
        scores[:, 0], scores[:, 1] = -x[:, 0], x[:, 0]
        return [scores]


def draw(path: Path, height: int, width: int, levels: tuple[int, int]) -> None:
    """A grey PNG, left half of one level, right half of the other, written without its pixels in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = MaskWriter(height, width)
    for top in range(0, height, 64):
        rows = np.full((min(64, height - top), width), levels[0], np.uint8)
        rows[:, width // 2 :] = levels[1]
        writer.add(rows)
    path.write_bytes(writer.finish())


def answer(height: int, width: int, tile: list[int], overlap: int) -> dict[str, object]:
    """The row of such a picture."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "images/val/s_1.png", height, width, (40, 220))
        draw(Path(folder) / "labels/val/s_1.png", height, width, (CLASS_IDS[0], CLASS_IDS[1]))
        values = {
            "corpus": {"images": folder, "layout": "camvid"}, "checkpoint": folder, "output": folder,
            "max_pixels": 10**11, "stream_above_pixels": 10_000, "predict": {"tile": tile, "overlap": overlap},
            "max_reject_rate": 0, "actors": 1, "cpus_per_actor": torch.get_num_threads(), "batch_size": 2,
        }  # fmt: skip
        cfg = parse(SegmentConfig, values, where="bench")
        network = parse_model({"name": "unet"}, where="bench")
        ready = Checkpoint(Brightness(), network, labels.space("camvid11"), "", {})
        masks, rejects = ShardSegmenter(ready, cfg).answer(list_items(cfg.corpus, None))
        assert not rejects.num_rows, rejects.to_pylist()
        return masks.to_pylist()[0]


CLASS_IDS = labels.space("camvid11").stored_ids


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("height", type=int)
    arguments.add_argument("width", type=int)
    arguments.add_argument("--tile", type=int, nargs=2, default=[1024, 1024])
    arguments.add_argument("--overlap", type=int, default=64)
    given = arguments.parse_args()
    take_cores(1)
    answer(3 * given.tile[0], 2 * given.tile[1], given.tile, given.overlap)
    before, started = _peak_mb(), time.perf_counter()
    row = answer(given.height, given.width, given.tile, given.overlap)
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - started, 1),
                "rise_mb": round(_peak_mb() - before),
                "peak_mb": round(_peak_mb()),
                "decoded_mb": given.height * given.width * 3 // 1_000_000,
                "pixels": row["pixels"][:2],
                "confusion": np.reshape(row["confusion"], (11, 11))[:2, :2].ravel().tolist(),
            }
        )
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
