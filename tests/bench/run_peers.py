"""The peers of `tests.bench.run`: what a user of torchvision, and one of Ray Data, would write."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

from tests.local_ray import start_ray

Chunk = dict[str, Any]  # as tests.bench.run_sides.prepare makes it
CLASSES = 19
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def empty_network() -> torch.nn.Module:
    """torchvision's LRASPP with random weights."""
    return torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, num_classes=CLASSES, weights_backbone=None
    ).eval()


def normalised(images: list[np.ndarray]) -> torch.Tensor:
    return torch.stack(
        [torchvision.transforms.functional.to_tensor((i / np.float32(255) - MEAN) / STD) for i in images]
    )


class Stock:
    """What a user of torchvision writes: float image in, full-size scores, argmax, PNG by Pillow."""

    def __init__(self, chunk: Chunk) -> None:
        torch.set_num_threads(chunk["cores"])
        self.chunk = chunk
        self.model = empty_network()
        self.model.load_state_dict(torch.load(f"{chunk['folder']}/stock.pt", weights_only=True))

    @torch.inference_mode()
    def masks(self, images: list[np.ndarray]) -> list[bytes]:
        found = self.model(normalised(images))["out"].argmax(1).to(torch.uint8).numpy()
        files = [io.BytesIO() for _ in images]
        for mask, file in zip(found, files, strict=True):
            Image.fromarray(mask).save(file, "PNG")
        return [file.getvalue() for file in files]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        mark = Path(self.chunk["folder"], f"{self.chunk['name']}.started")
        if not mark.exists():
            mark.write_text(str(time.time()))
        return {"path": batch["path"], "mask": self.masks(list(batch["image"]))}


def stock(chunk: Chunk) -> tuple[int, float]:
    side = Stock(chunk)
    with zipfile.ZipFile(f"{chunk['folder']}/{chunk['name']}.zip") as archive:
        started = time.perf_counter()
        names = sorted(archive.namelist())[: chunk["peers"]]
        for name in names:
            side.masks([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))])
    return len(names), time.perf_counter() - started


def ray_data(chunk: Chunk) -> tuple[int, float]:
    import ray.data

    start_ray(chunk["cores"])
    images = ray.data.read_images(f"{chunk['store']}/{chunk['name']}/", include_paths=True, mode="RGB")
    masks = images.map_batches(
        Stock, fn_constructor_args=(chunk,), batch_size=2, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=1)
    )
    masks.write_parquet(f"{chunk['store']}/raydata/{chunk['name']}")
    return chunk["peers"], time.time() - float(Path(chunk["folder"], f"{chunk['name']}.started").read_text())
