"""Procedural street scenes in the Cityscapes layout: a labelled corpus for the demo and tests that needs no download."""

import io
import zipfile

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.synthetic.street import draw_scene

CITIES = {"train": ("aldermoor", "brackwater", "cresthaven"), "val": ("dunmere",), "test": ("eastmarch",)}
FRAMES = 4  # per sequence


def write_corpus(
    folder: str, scenes: dict[str, int], height: int, width: int, seed: int, packed: bool = True
) -> tuple[str, str]:
    """Write scenes in the Cityscapes layout; the same arguments give the same bytes.

    Args:
        folder: URI of the folder to write into.
        scenes: number of scenes of each split, e.g. {"train": 96, "val": 32}.
        packed: write two zips with uncompressed members, as Cityscapes is distributed; else a tree of files.
    Returns:
        URIs of the images and of the labels, for a corpus config.
    """
    images: dict[str, bytes] = {}
    labels: dict[str, bytes] = {}
    for split, count in scenes.items():
        cities = CITIES.get(split, ("farrowby",))
        for index in range(count):
            sequence, frame = divmod(index, FRAMES)
            city = cities[sequence % len(cities)]
            image, label = draw_scene(np.random.default_rng([seed, *split.encode(), sequence, frame]), height, width)
            stem = f"{split}/{city}/{city}_{sequence:06d}_{frame * 10:06d}"
            images[f"leftImg8bit/{stem}_leftImg8bit.png"] = _png(image)
            labels[f"gtFine/{stem}_gtFine_labelIds.png"] = _png(label)
    if not packed:
        for path, data in {**images, **labels}.items():
            storage.put(storage.join(folder, path), data)
        return folder, folder
    uris = storage.join(folder, "leftImg8bit_trainvaltest.zip"), storage.join(folder, "gtFine_trainvaltest.zip")
    storage.put(uris[0], _zip(images))
    storage.put(uris[1], _zip(labels))
    return uris


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(members.items()):
            archive.writestr(zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0)), data)
    return file.getvalue()
