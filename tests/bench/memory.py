"""Peak memory of a run's actor by the number of images: flat, whatever the corpus holds.

python -m tests.bench.memory [--images 100 2000] [--size 256 512]    three minutes on 2 cores
"""

import argparse
import multiprocessing
import resource
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline import labels, models
from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig, parse
from pipeline.config.models import DeepLabV3PlusConfig
from pipeline.corpus import list_items, plan_shards
from pipeline.models import checkpoint
from pipeline.runs import Run
from pipeline.segment.driver import identity
from pipeline.segment.shard import ShardSegmenter
from tests.bench.rows import record
from tests.bench.turns import show


def prepare(folder: Path, images: int, size: tuple[int, int]) -> SegmentConfig:
    """A corpus of smooth random pictures with labels, a small network, and a run that is planned and not begun."""
    rng = np.random.default_rng(0)
    for index in range(images):
        for kind, shape in (("images", (3,)), ("labels", ())):
            coarse = rng.integers(
                0, 11 if kind == "labels" else 256, (size[0] // 16, size[1] // 16, *shape), dtype=np.uint8
            )
            path = folder / kind / "val" / f"s_{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse.repeat(16, 0).repeat(16, 1)).save(path, compress_level=1)
    torch.manual_seed(0)
    network = DeepLabV3PlusConfig(
        name="deeplabv3plus", backbone="efficientnet_lite0", aspp_channels=16, low_level_channels=8, decoder_channels=16
    )
    space = labels.space("camvid11")
    checkpoint.save(str(folder / "model"), models.build(network, 11), network, space, {})
    values = {
        "corpus": {"images": str(folder), "layout": "camvid"}, "checkpoint": str(folder / "model"),
        "output": str(folder / "run"), "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1, "batch_size": 2,
    }  # fmt: skip
    cfg = parse(SegmentConfig, values, where="bench")
    ready = checkpoint.load(cfg.checkpoint)
    Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space,
        lambda: plan_shards(list_items(cfg.corpus, None), cfg.images_per_shard, cfg.bytes_per_shard),
    )  # fmt: skip
    return cfg


def answer_all(cfg: SegmentConfig) -> tuple[int, float]:
    """(images, peak MB) of a process that answers and commits every shard, as an actor does."""
    take_cores(1)
    run = Run.open(cfg.output)
    segmenter = ShardSegmenter(checkpoint.load(cfg.checkpoint), cfg)
    images = 0
    for shard in run.pending():
        masks, rejects = segmenter.answer(run.shard_items(shard))
        assert not rejects.num_rows, rejects.to_pylist()
        run.commit(shard, masks, rejects)
        images += masks.num_rows
    return images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def peak_of(images: int, size: tuple[int, int]) -> float:
    """Peak MB of a fresh process that answers so many images."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = prepare(Path(folder), images, size)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            answered, peak = pool.apply(answer_all, (cfg,))
        assert answered == images
    return peak


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, nargs="+", default=[100, 2000])
    arguments.add_argument("--size", type=int, nargs=2, default=[256, 512])
    given = arguments.parse_args()
    peaks = {images: peak_of(images, tuple(given.size)) for images in given.images}
    show(
        "peak memory of an actor's process, images of {}x{}".format(*given.size),
        ["images", "peak MB"],
        [[images, f"{peak:.0f}"] for images, peak in peaks.items()],
    )
    few, most = min(peaks), max(peaks)
    record(
        f"an actor's peak memory, {most} images", "MB", [peaks[most]], {f"{few} images (flat: 1)": [peaks[few]]},
        "flat, whatever the corpus holds: a ratio of 1",
    )  # fmt: skip


if __name__ == "__main__":
    main()
