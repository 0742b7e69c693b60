"""One actor compared with a bare loop of the same decode, model and encode on the same cores, interleaved in one process.

python -m tests.bench.actor [--cores 1] [--images 12] [--rounds 3] [--engine openvino] [--network lraspp]

Efficiency = bare seconds / actor seconds, by the clock and by processor time; another engine's also beside torch's bare loop.
The stock loop is what a notebook does: full-size logits, argmax, Pillow's PNG.
"""

import argparse
import io
import tempfile
import time

import numpy as np
import torch
from PIL import Image

from pipeline import labels, models
from pipeline.config import SegmentConfig, parse, parse_model
from pipeline.corpus import Item, list_items, read
from pipeline.imaging.decode import decode_image
from pipeline.imaging.mask_png import encode_mask
from pipeline.models import checkpoint
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict.engines import GRAPHS
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.scenes import write_corpus

HEIGHT, WIDTH = 1024, 2048


NETWORKS = {"deeplabv3plus": {"name": "deeplabv3plus", "backbone": "efficientnet_lite0"}, "lraspp": {"name": "lraspp"}}


def prepare(folder: str, images: int, name: str = "deeplabv3plus") -> tuple[Checkpoint, SegmentConfig, list[Item]]:
    """A network with random weights, and that many drawn scenes in a zip beside their labels."""
    torch.manual_seed(0)
    network = parse_model(NETWORKS[name], where="bench")
    checkpoint.save(f"{folder}/model", models.build(network, 19), network, labels.space("cityscapes19"), {})
    zips = write_corpus(f"{folder}/corpus", {"val": images}, HEIGHT, WIDTH, seed=1)
    values = {
        "corpus": {"images": zips[0], "labels": zips[1], "layout": "cityscapes"}, "checkpoint": f"{folder}/model",
        "output": f"{folder}/run", "max_reject_rate": 0, "actors": 1, "cpus_per_actor": torch.get_num_threads(),
    }  # fmt: skip
    cfg = parse(SegmentConfig, values, where="bench")
    return checkpoint.load(cfg.checkpoint), cfg, list_items(cfg.corpus, None)


def bare(segmenter: ShardSegmenter, items: list[Item]) -> list[bytes]:
    """Read, decode, predict, encode: one image after the other, nothing else."""
    images = (decode_image(read(item.image), segmenter.cfg.max_pixels) for item in items)
    return [encode_mask(segmenter.predictor.masks([image])[0].mask) for image in images]


@torch.inference_mode()
def stock(ready: Checkpoint, items: list[Item]) -> list[bytes]:
    """The same with torch and Pillow as they come."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ready.model.mean, ready.model.std))
    encoded = []
    for item in items:
        image = np.array(Image.open(io.BytesIO(read(item.image))).convert("RGB"))
        x = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - mean) / std
        file = io.BytesIO()
        Image.fromarray(ready.model(x[None])[-1].argmax(1)[0].to(torch.uint8).numpy()).save(file, format="PNG")
        encoded.append(file.getvalue())
    return encoded


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cores", type=int, default=1)
    arguments.add_argument("--images", type=int, default=12)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--engine", default="torch", choices=["torch", *GRAPHS])
    arguments.add_argument("--network", default="deeplabv3plus", choices=list(NETWORKS))
    given = arguments.parse_args()
    torch.set_num_threads(given.cores)
    with tempfile.TemporaryDirectory() as folder:
        ready, cfg, items = prepare(folder, given.images, given.network)
        by_torch = ShardSegmenter(ready, cfg)
        segmenter = ShardSegmenter(ready, cfg.model_copy(update={"engine": given.engine}))
        ways = {
            "bare": lambda: bare(segmenter, items),
            "actor": lambda: segmenter.answer(items),
            "stock": lambda: stock(ready, items[:4]),
        }
        if given.engine != "torch":
            ways["bare, torch"] = lambda: bare(by_torch, items)
        segmenter.answer(items[:2])  # compiles
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, way in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                way()
                count = 4 if name == "stock" else len(items)
                seconds[name].append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    for name, found in seconds.items():
        wall, cpu = (1e3 * min(column) for column in zip(*found, strict=True))
        print(f"{name}: {wall:.0f} ms an image, {cpu:.0f} ms of processor time")
    least = {name: [min(column) for column in zip(*found, strict=True)] for name, found in seconds.items()}
    for name in (name for name in seconds if name != "actor"):
        wall, cpu = (other / own for other, own in zip(least[name], least["actor"], strict=True))
        print(f"efficiency beside the {name} loop: {wall:.3f}, by processor time {cpu:.3f}")


if __name__ == "__main__":
    main()
