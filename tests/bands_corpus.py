"""Synthetic 16-bit GeoTIFFs and PNGs for tests and benchmarks: four bands of 12 bits at a known place on the earth."""

import csv
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from pipeline import labels, models
from pipeline.config import ImageConfig, parse_model
from pipeline.models import checkpoint

DECLARED = ImageConfig(bands=(3, 2, 1, 4), range=(0.0, 4095.0))
SPACE = labels.space("camvid11")
CRS, TRANSFORM = rasterio.CRS.from_epsg(32632), from_origin(500_000, 5_200_000, 10, 10)
UNET = {"name": "unet", "channels": 8, "depth": 2, "batch_norm": True}


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(4, H, W) uint16 of 12 bits and (H, W) stored ids: blocks of three classes, each brightest in a band of its own."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, (height // 16 + 1, width // 16 + 1)).repeat(16, 0).repeat(16, 1)[:height, :width]
    bands = rng.integers(200, 900, (4, height, width))
    for index in range(3):
        bands[index + 1][classes == index] += 2500
    return bands.astype(np.uint16), np.array(SPACE.stored_ids, np.uint8)[classes]


def write_tif(path: Path, bands: np.ndarray, **options: object) -> Path:
    """A GeoTIFF of bands (N, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2],
               "dtype": bands.dtype.name, "crs": CRS, "transform": TRANSFORM}  # fmt: skip
    with rasterio.open(path, "w", **{**profile, **options}) as file:
        file.write(bands)
    return path


def write_label(path: Path, ids: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="PNG", count=1, height=len(ids), width=ids.shape[1], dtype="uint8") as file:
        file.write(ids[None])
    return path


def write_manifest(folder: Path, splits: dict[str, int], height: int = 64, width: int = 96) -> Path:
    """Scenes as GeoTIFFs with labels, and a manifest of them."""
    rows = []
    for split, count in splits.items():
        for index in range(count):
            bands, ids = scene(height, width, seed=len(rows))
            name = f"{split}_{index}"
            write_tif(folder / f"images/{name}.tif", bands, nodata=0)
            write_label(folder / f"labels/{name}.png", ids)
            rows.append({"image": f"images/{name}.tif", "label": f"labels/{name}.png", "split": split})
    manifest = folder / "scenes.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def write_checkpoint(folder: Path, declared: ImageConfig = DECLARED) -> str:
    """A small network of random weights that sees the declared bands."""
    import torch

    torch.manual_seed(0)
    cfg = parse_model(UNET, where="test")
    network = models.build(cfg, SPACE.num_classes, bands=len(declared.bands))
    checkpoint.save(str(folder), network, cfg, SPACE, {"epoch": 0, "miou": 0.0}, declared)
    return str(folder)
