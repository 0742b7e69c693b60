"""The plan of corpora of growing size: seconds, CPU seconds, peak memory, and what follows for ten million images.

python -m tests.bench.plan [largest]    some minutes on 2 cores for 1000000; writes about 1 GB below a temporary folder

Three corpora: a zip (pairs of images and labels, empty members, a real central directory of zip64), a manifest (CSV, in no
order), a local folder of empty files (up to 100000). Each plan is written as `maskmill segment` writes it, in a process of
its own; peak memory is above that of the imports. The exponent is the slope of log seconds over log images, from 10^4 on.
"""

import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.config import CorpusConfig
from pipeline.corpus import plan_shards, scan_items
from pipeline.runs.plan import Plan, write_plan

LARGEST_FOLDER = 100_000


def write_zip(folder: Path, images: int) -> dict[str, str]:
    """Stored empty members, written by hand: `zipfile` itself would need more memory than the plan."""
    path, offset, entries = folder / "corpus.zip", 0, 0
    with path.open("wb") as file, (folder / "directory").open("w+b") as directory:
        for number in range(images):
            stem = f"train/seq{number // 1000:05d}_f{number % 1000:05d}"
            for name in (f"images/{stem}.jpg".encode(), f"labels/{stem}.png".encode()):
                header = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0)
                file.write(b"PK\3\4" + header + name)
                extra = struct.pack("<HHQ", 1, 8, offset) if offset >= 2**32 - 1 else b""
                central = struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(name), len(extra), 0, 0, 0, 0,
                                      min(offset, 2**32 - 1))  # fmt: skip
                directory.write(b"PK\1\2" + central + name + extra)
                offset, entries = offset + 30 + len(name), entries + 1
        length = directory.tell()
        directory.seek(0)
        while block := directory.read(1 << 20):
            file.write(block)
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, length, offset))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, offset + length, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0))
    return {"images": str(path), "layout": "camvid"}


def write_manifest(folder: Path, images: int) -> dict[str, str]:
    numbers = list(range(images))
    random.Random(0).shuffle(numbers)
    with (folder / "m.csv").open("w") as file:
        file.write("image,label,split\n")
        file.writelines(f"s3://b/images/{n:08d}.jpg,s3://b/labels/{n:08d}.png,train\n" for n in numbers)
    return {"images": str(folder / "m.csv"), "layout": "manifest"}


def write_folder(folder: Path, images: int) -> dict[str, str]:
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (folder / "corpus" / kind / "train").mkdir(parents=True)
        for number in range(images):
            (folder / "corpus" / kind / "train" / f"seq{number // 1000:05d}_f{number % 1000:05d}.{suffix}").touch()
    return {"images": str(folder / "corpus"), "layout": "camvid"}


KINDS = {"zip": write_zip, "manifest": write_manifest, "folder": write_folder}


def measure(corpus: dict[str, str], out: str) -> None:
    """Make the plan, then read shards of it as an actor does; print the figures."""
    before = _peak_mb()
    started, worked = time.perf_counter(), time.process_time()
    written = write_plan(out, plan_shards(scan_items(CorpusConfig.model_validate(corpus), None), 16))
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    planned = _peak_mb()
    plan = Plan(out, written)
    started = time.process_time()
    for shard in range(0, plan.num_shards, max(1, plan.num_shards // 20)):
        assert plan.shard(shard).num_rows
    shard_s = (time.process_time() - started) / 20
    size = sum(path.stat().st_size for path in Path(out, "plan").iterdir())
    found = {"images": plan.num_images, "parts": len(plan.parts), "seconds": seconds, "cpu": cpu, "shard_ms": 1000 * shard_s,
             "peak_mb": planned - before, "bytes_an_image": size / plan.num_images}  # fmt: skip
    print(json.dumps(found))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(largest: int) -> None:
    print(f"{'corpus':<10}{'images':>10}{'parts':>7}{'s':>8}{'CPU s':>8}{'peak MB':>9}{'B/image':>9}{'ms a shard':>12}")
    for kind, write in KINDS.items():
        sizes, cpus = [], []
        most = min(largest, LARGEST_FOLDER) if kind == "folder" else largest
        for images in (10**power for power in range(3, 9) if 10**power <= most):
            with tempfile.TemporaryDirectory() as folder:
                corpus = json.dumps(write(Path(folder), images))
                command = [sys.executable, "-m", "tests.bench.plan", corpus, str(Path(folder, "run"))]
                found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            assert found["images"] == images
            sizes.append(images)
            cpus.append(found["cpu"])
            print(
                f"{kind:<10}{images:>10}{found['parts']:>7}{found['seconds']:>8.1f}{found['cpu']:>8.2f}{found['peak_mb']:>9.0f}"
                f"{found['bytes_an_image']:>9.1f}{found['shard_ms']:>12.1f}",
                flush=True,
            )
        if len(sizes) > 2:
            slope, _ = np.polyfit(np.log(sizes[1:]), np.log(cpus[1:]), 1)
            print(f"  exponent {slope:.2f}; 10^7 images: {cpus[-1] * (1e7 / sizes[-1]) ** slope:.0f} CPU s")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(json.loads(sys.argv[1]), sys.argv[2])
    else:
        main(int((*sys.argv[1:], "1000000")[0]))
