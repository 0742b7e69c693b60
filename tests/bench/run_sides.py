"""The sides of `tests.bench.run`: each answers one chunk of images and prints [images, seconds after start-up]."""

import io
import json
import os
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from pipeline import labels, models, storage
from pipeline.cluster.worker_env import take_cores
from pipeline.config import CorpusConfig, SegmentConfig, parse_model
from pipeline.corpus import Item, list_items, read
from pipeline.imaging.decode import decode_image
from pipeline.imaging.mask_png import encode_mask
from pipeline.models import checkpoint
from pipeline.predict import Predictor
from pipeline.segment.driver import segment
from pipeline.segment.engine import with_engine
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.street import draw_scene
from tests.bench.run_peers import CLASSES, Chunk, empty_network, normalised, ray_data, stock
from tests.local_ray import start_ray

HEIGHT, WIDTH, MAX_PIXELS = 1024, 2048, 50_000_000


def scene(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_scene(np.random.default_rng(seed), HEIGHT, WIDTH)[0]).save(file, "PNG", compress_level=4)
    return file.getvalue()


def prepare(folder: Path, store: str, chunks: int, images: int, peers: int, cores: int) -> list[Chunk]:
    """Draw the scenes, lay them into the store and on the disk, and make one network for both libraries."""
    (folder / "stock.pt").write_bytes(network(folder))
    made = []
    with ProcessPoolExecutor(cores) as pool:
        for number in range(chunks):
            pictures = list(pool.map(scene, range(number * images, (number + 1) * images)))
            path = folder / f"chunk{number}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for index, data in enumerate(pictures):
                    archive.writestr(f"{index:04d}.png", data)
                    if index < peers:
                        storage.put(f"{store}/chunk{number}/{index:04d}.png", data)
            storage.put(f"{store}/chunk{number}.zip", path.read_bytes())
            made.append(
                {"folder": str(folder), "store": store, "name": f"chunk{number}", "peers": peers, "cores": cores}
            )
    return made


def network(folder: Path) -> bytes:
    """torchvision's LRASPP with random weights, biased so that all classes win somewhere; saved as our checkpoint too."""
    torch.manual_seed(0)
    published = empty_network()
    picture = np.asarray(Image.open(io.BytesIO(scene(0))))
    with torch.inference_mode():
        logits = published(normalised([picture]))["out"]
        published.classifier.low_classifier.bias -= logits.mean((0, 2, 3))
    cfg = parse_model({"name": "lraspp"}, where="bench")
    ours = models.build(cfg, CLASSES)
    ours.load_state_dict(models.published_weights(published.state_dict(), ours).state)
    checkpoint.save(str(folder / "checkpoint"), ours, cfg, labels.space("cityscapes19"), {})
    file = io.BytesIO()
    torch.save(published.state_dict(), file)
    return file.getvalue()


def config(chunk: Chunk, images: str) -> SegmentConfig:
    return SegmentConfig(
        corpus=CorpusConfig(images=images, layout="pairs", image_glob="*.png"), max_reject_rate=0, actors=1,
        checkpoint=f"{chunk['folder']}/checkpoint", output=f"{chunk['store']}/runs/{chunk['name']}",
        cpus_per_actor=chunk["cores"],
    )  # fmt: skip


def maskmill(chunk: Chunk) -> tuple[int, float]:
    start_ray(chunk["cores"])
    done = segment(config(chunk, f"{chunk['store']}/{chunk['name']}.zip"))
    return done.rows, done.answered_now / done.images_per_s


def fastest(chunk: Chunk) -> tuple[int, float]:
    """With the engine that `auto` takes."""
    start_ray(chunk["cores"])
    cfg = config(chunk, f"{chunk['store']}/{chunk['name']}.zip")
    done = segment(cfg.model_copy(update={"engine": "auto", "output": f"{cfg.output}-fastest"}))
    print(f"engine: {done.engine}", file=sys.stderr)
    return done.rows, done.answered_now / done.images_per_s


def bare(chunk: Chunk) -> tuple[int, float]:
    return _bare(*_loaded(chunk))


def bare_fastest(chunk: Chunk) -> tuple[int, float]:
    """With the engine that `auto` takes."""
    return _bare(*_loaded(chunk, "auto"))


def _bare(predictor: Predictor, items: list[Item]) -> tuple[int, float]:
    started = time.perf_counter()
    for item in items:
        encode_mask(predictor.masks([decode_image(read(item.image), MAX_PIXELS)])[0].mask)
    return len(items), time.perf_counter() - started


def bare_threads(chunk: Chunk) -> tuple[int, float]:
    """Two threads decode at most four images ahead of the model, one encodes behind it."""
    predictor, items = _loaded(chunk)
    started = time.perf_counter()
    todo, waiting, encoded = iter(items), deque[Future[np.ndarray]](), []
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as encoder:
        while True:
            while len(waiting) < 4 and (item := next(todo, None)) is not None:
                waiting.append(readers.submit(lambda item: decode_image(read(item.image), MAX_PIXELS), item))
            if not waiting:
                break
            image = waiting.popleft().result()
            encoded.append(encoder.submit(encode_mask, predictor.masks([image])[0].mask))
    return len(items), time.perf_counter() - started


def _loaded(chunk: Chunk, engine: Literal["torch", "auto"] = "torch") -> tuple[Predictor, list[Item]]:
    """The predictor as an actor makes it, and the items of the zip on the disk."""
    take_cores(chunk["cores"])
    cfg = config(chunk, f"{chunk['folder']}/{chunk['name']}.zip").model_copy(update={"engine": engine})
    begins = with_engine(cfg, checkpoint.load(cfg.checkpoint), None)
    print(f"engine: {begins.cfg.engine}", file=sys.stderr)
    return ShardSegmenter(begins.ready, begins.cfg).predictor, list_items(cfg.corpus, None)


SIDES: dict[str, Callable[[Chunk], tuple[int, float]]] = {
    "maskmill segment": maskmill,
    "maskmill, fastest engine": fastest,
    "bare loop": bare,
    "bare loop, fastest engine": bare_fastest,
    "bare loop, threads": bare_threads,
    "torchvision loop": stock,
    "plain Ray Data": ray_data,
}

if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    print(json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))))
