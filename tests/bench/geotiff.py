"""A large 16-bit GeoTIFF of four bands: segmented by `maskmill segment`, exported as a COG, and the peak memory of both.

python -m tests.bench.geotiff [HEIGHT WIDTH] [--tile 1024 1024] [--overlap 0]    20000 x 20000: 3.2 GB, about 10 minutes
python -m tests.bench.geotiff 4096 4096 --bare    one shard in this process, a network that costs nothing; one line of JSON
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import rasterio
import torch
import yaml
from rasterio.windows import Window

from pipeline import models
from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig, parse, parse_model
from pipeline.corpus import list_items
from pipeline.models import checkpoint
from pipeline.models.checkpoint import Checkpoint
from pipeline.segment.shard import ShardSegmenter
from tests.bands_corpus import CRS, DECLARED, SPACE, TRANSFORM
from tests.bench.huge import Brightness
from tests.bench.turns import show

BLOCK_PX, VOID_PX = 512, 100  # side of a block of the file; of the margin without data
MARK = "MASKMILL_BENCH_GEOTIFF"  # of the processes that are watched


class FirstBand(Brightness):
    """Class 0 where the first declared band is dark, 1 where it is bright."""

    mean, std = (0.5,) * 4, (0.1,) * 4


def draw(path: Path, height: int, width: int) -> Path:
    """Four bands of 12 bits, deflated, never whole in memory: dark and bright halves with noise, and a margin without data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 400, (4, BLOCK_PX, width), dtype=np.uint16)
    profile = {"driver": "GTiff", "count": 4, "height": height, "width": width, "dtype": "uint16", "crs": CRS, "nodata": 0,
               "transform": TRANSFORM, "tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate",
               "zlevel": 1, "interleave": "pixel", "bigtiff": "if_safer"}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, height, BLOCK_PX):
            rows = noise[:, : min(BLOCK_PX, height - top)].copy()
            rows[:, :, width // 2 :] += 3500
            rows[:, :, :VOID_PX] = 0
            file.write(rows, window=Window(0, top, width, rows.shape[1]))
    return path


def config(folder: Path, tile: list[int], overlap: int, **changes: object) -> SegmentConfig:
    values = {
        "corpus": {"images": str(folder), "layout": "pairs", "image_glob": "*.tif"}, "checkpoint": str(folder / "model"),
        "output": str(folder / "run"), "max_pixels": 10**11, "stream_above_pixels": 10_000,
        "predict": {"tile": tile, "overlap": overlap}, "max_reject_rate": 0, "actors": 1,
        "cpus_per_actor": os.cpu_count() or 1,
    }  # fmt: skip
    return parse(SegmentConfig, {**values, **changes}, where="bench")


def bare(height: int, width: int, tile: list[int], overlap: int) -> dict[str, object]:
    """The row of such a file, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "a.tif", height, width)
        cfg = config(Path(folder), tile, overlap, cpus_per_actor=1)
        ready = Checkpoint(FirstBand(), parse_model({"name": "unet"}, where=""), SPACE, "", {}, DECLARED)
        masks, rejects = ShardSegmenter(ready, cfg).answer(list_items(cfg.corpus, None))
        assert not rejects.num_rows, rejects.to_pylist()
        row: dict[str, object] = masks.to_pylist()[0]
        return row


def measure_bare(height: int, width: int, tile: list[int], overlap: int) -> dict[str, object]:
    """How far the peak of this process rises above that of a small file."""
    take_cores(1)
    bare(2 * tile[0], 2 * tile[1], tile, overlap)
    before, started = _own_peak_mb(), time.perf_counter()
    row = bare(height, width, tile, overlap)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "rise_mb": round(_own_peak_mb() - before),
        "peak_mb": round(_own_peak_mb()),
        "stored_mb": height * width * 8 // 1_000_000,
        "decoded_mb": height * width * 16 // 1_000_000,
        "pixels": row["pixels"][:2],  # type: ignore[index]
    }


def whole(folder: Path, height: int, width: int, tile: list[int], overlap: int) -> list[list[object]]:
    """[what, seconds, peak MB] of each command, by its own processes."""
    started = time.perf_counter()
    draw(folder / "a.tif", height, width)
    size_mb = (folder / "a.tif").stat().st_size / 1e6
    rows: list[list[object]] = [[f"write the image, {size_mb:,.0f} MB", f"{time.perf_counter() - started:.0f}", ""]]
    torch.manual_seed(0)
    network = parse_model({"name": "lraspp"}, where="bench")
    made = models.build(network, SPACE.num_classes, bands=4)
    checkpoint.save(str(folder / "model"), made, network, SPACE, {"epoch": 0, "miou": 0.0}, DECLARED)
    cfg = config(folder, tile, overlap)
    (folder / "segment.yaml").write_text(yaml.safe_dump(cfg.model_dump(mode="json")))
    run, out = str(folder / "run"), str(folder / "out")
    for name, arguments in (
        ("maskmill segment", ["segment", str(folder / "segment.yaml")]),
        ("maskmill verify", ["verify", run]),
        ("maskmill export --format geotiff", ["export", run, "--format", "geotiff", "--out", out]),
    ):
        seconds, peaks = watched([str(Path(sys.executable).parent / "maskmill"), *arguments])
        rows.append([name, f"{seconds:.0f}", f"{max(peaks.values()):.0f}"])
        print({process: round(peak) for process, peak in sorted(peaks.items())}, flush=True)
    started = time.perf_counter()
    rio = [sys.executable, "-c", "from rasterio.rio.main import main_group; main_group()"]
    subprocess.run([*rio, "cogeo", "validate", "--strict", f"{out}/a.tif"], check=True)
    rows.append(["rio cogeo validate", f"{time.perf_counter() - started:.0f}", ""])
    with rasterio.open(f"{out}/a.tif") as mask, rasterio.open(folder / "a.tif") as image:
        assert (mask.crs, mask.transform, mask.shape) == (image.crs, image.transform, image.shape)
        assert (mask.read(1, window=Window(0, 0, VOID_PX, 100)) == 255).all()
    return rows


def watched(command: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds of a command, and the peak MB (VmHWM) of each process that computes for it: itself, Ray's workers."""
    mark, over, peaks = uuid.uuid4().hex, threading.Event(), dict[str, float]()

    def watch() -> None:
        while not over.wait(0.3):
            for process in Path("/proc").glob("[0-9]*"):
                if (found := _marked(process, mark)) is not None:
                    peaks[found[0]] = max(found[1], peaks.get(found[0], 0.0))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    subprocess.run(command, env={**os.environ, MARK: mark}, check=True)
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    return seconds, peaks


def _marked(process: Path, mark: str) -> tuple[str, float] | None:
    """Name and peak of a process of this command; None of others, and of Ray's own servers."""
    try:
        if f"{MARK}={mark}".encode() not in (process / "environ").read_bytes().split(b"\0"):
            return None
        command = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        if not command.startswith("ray::") and "maskmill" not in command.split(" --")[0]:
            return None
        status = (process / "status").read_text()
    except (OSError, ValueError):
        return None
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
    name = command.split()[0] if command.startswith("ray::") else "command"
    return None if peak is None else (f"{name} {process.name}", int(peak.split()[1]) * 1024 / 1e6)


def _own_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("height", type=int, nargs="?", default=20_000)
    arguments.add_argument("width", type=int, nargs="?", default=20_000)
    arguments.add_argument("--tile", type=int, nargs=2, default=[1024, 1024])
    arguments.add_argument("--overlap", type=int, default=0)
    arguments.add_argument("--bare", action="store_true")
    given = arguments.parse_args()
    if given.bare:
        print(json.dumps(measure_bare(given.height, given.width, given.tile, given.overlap)))
        return
    folder = Path(tempfile.mkdtemp(prefix="geotiff-"))
    try:
        rows = whole(folder, given.height, given.width, given.tile, given.overlap)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(f"a GeoTIFF of {given.height}x{given.width}, 4 bands of 16 bits", ["what", "seconds", "peak MB"], rows)


if __name__ == "__main__":
    main()
