"""Cost against work: plan, verify, evaluate and segment over more and more images, with the exponent and the memory.

python -m tests.bench.scaling [plan|verify|evaluate|segment ...] [--short]    four minutes on 2 cores; without the largest, one

Every point is a process of its own, so that peak memory is its own. The exponent is the slope of log processor time against log
images over the upper half of the points: 1 is linear, and below 1 something fixed is still seen. Segmenting is counted by wall
time after start-up, since Ray's workers do it.
"""

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import labels
from pipeline.config import SegmentConfig
from pipeline.corpus import Item, Place, plan_shards
from pipeline.imaging.mask_png import encode_mask
from pipeline.runs import REJECT_SCHEMA, Run, mask_schema, verify
from tests.bench.rows import record
from tests.bench.turns import show

SHARD = 256
SPACE = labels.space("camvid11")
SIZES = {
    "plan": (1_000, 10_000, 100_000, 1_000_000),
    "verify": (100, 10_000, 100_000, 1_000_000),
    "evaluate": (100, 10_000, 100_000, 1_000_000),
    "segment": (32, 128, 512, 2048),
}


def items(count: int) -> list[Item]:
    return [
        Item(f"val/city{k % 20}/{k:09d}", Place("s3://bucket/corpus.zip", f"{k:09d}.png", 40_000 * k, 40_000, k),
             groups={"split": "val", "city": f"city{k % 20}", "sequence": str(k // 30), "frame": k % 30})
        for k in range(count)
    ]  # fmt: skip


def config(folder: str) -> SegmentConfig:
    return SegmentConfig.model_validate(
        {"corpus": {"images": folder, "layout": "cityscapes"}, "checkpoint": f"{folder}/model", "output": f"{folder}/run",
         "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1}
    )  # fmt: skip


def write_run(folder: str, count: int) -> None:
    """A finished run: every row a mask of 16x32 with its counts."""
    cfg = config(folder)
    run = Run.open_or_create(
        cfg.output, {}, cfg.model_dump(mode="json"), SPACE, lambda: plan_shards(items(count), SHARD)
    )
    answer(run)


def answer(run: Run) -> None:
    """Every pending shard, and the end of the run."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 11, (16, 32)).astype(np.uint8)
    pixels = np.bincount(mask.ravel(), minlength=11)
    row = {"uri": "s3://bucket/corpus.zip", "split": "val", "height": 16, "width": 32, "pixels": pixels.tolist(),
           "mask": {"bytes": encode_mask(mask), "path": "mask.png"}, "confusion": np.diag(pixels).ravel().tolist()}  # fmt: skip
    alike = pa.Table.from_pylist([row] * SHARD, schema=mask_schema(SPACE.num_classes))
    nothing = pa.Table.from_pylist([], schema=REJECT_SCHEMA)
    for shard in run.pending():
        found = run.shard_items(shard)
        rows = alike.slice(0, len(found))
        for name, values in (("image_id", [i.image_id for i in found]), ("city", [i.groups["city"] for i in found])):
            index = rows.schema.get_field_index(name)
            rows = rows.set_column(index, rows.schema.field(index), pa.array(values, rows.schema.field(index).type))
        run.commit(shard, rows, nothing)
    run.finish(max_reject_rate=0)


def plan(folder: str, count: int) -> None:
    cfg, found = config(folder), items(count)
    run = Run.open_or_create(cfg.output, {}, cfg.model_dump(mode="json"), SPACE, lambda: plan_shards(found, 64))
    assert len(run.pending()) == math.ceil(count / 64)


def check(folder: str, count: int) -> None:
    found = verify(f"{folder}/run")
    assert (found.masks, found.problems) == (count, [])


def evaluate(folder: str, count: int) -> None:
    from pipeline.analysis import open_run

    assert len(open_run(f"{folder}/run").iou(by=["city"])) >= 20


def segment_scenes(folder: str, count: int) -> float:
    """Seconds after start-up."""
    import torch

    from pipeline import models
    from pipeline.config import parse_model
    from pipeline.models import checkpoint
    from pipeline.segment.driver import segment
    from pipeline.synthetic.scenes import write_corpus
    from tests.local_ray import start_ray

    start_ray(num_cpus=2)
    torch.manual_seed(0)
    network = parse_model({"name": "lraspp"}, where="bench")
    space = labels.space("cityscapes19")
    checkpoint.save(f"{folder}/model", models.build(network, space.num_classes), network, space, {})
    uris = write_corpus(folder, {"val": count}, 64, 128, seed=1)
    cfg = config(folder)
    done = segment(cfg.model_copy(update={"corpus": cfg.corpus.model_copy(update={"images": uris[0]})}))
    assert done.rows == count
    return count / done.images_per_s


WORK: dict[str, Callable[[str, int], float | None]] = {
    "write": write_run, "plan": plan, "verify": check, "evaluate": evaluate, "segment": segment_scenes
}  # fmt: skip


def measure(name: str, count: int, folder: str) -> None:
    """One point, in this process: prints its seconds and peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worked = time.process_time()
    seconds = WORK[name](folder, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds or time.process_time() - worked, peak / 1024, (peak - before) / 1024]))


def point(name: str, count: int, folder: str) -> list[float]:
    """The same in a process of its own, which begins with the memory of this one: so nothing large is done here."""
    command = [sys.executable, "-m", "tests.bench.scaling", "point", name, str(count), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of log seconds against log images, over the upper half of the points and at least two."""
    upper = np.log(points[min(len(points) // 2, len(points) - 2) :])
    return float(np.polyfit(upper[:, 0], upper[:, 1], 1)[0])


def main(names: list[str], short: bool) -> None:
    with tempfile.TemporaryDirectory() as kept:
        for name in names or SIZES:
            points, rows = [], []
            for count in SIZES[name][:-1] if short else SIZES[name]:
                if name in ("verify", "evaluate"):
                    folder = f"{kept}/{count}"
                    if not Path(folder).exists():
                        point("write", count, folder)
                else:
                    folder = f"{kept}/{name}-{count}"
                seconds, peak, grown = point(name, count, folder)
                points.append((count, seconds))
                rows.append([count, f"{seconds:.2f}", f"{1e6 * seconds / count:.0f}", f"{peak:.0f}", f"{grown:.0f}"])
            (fewer, before), (more, after) = ((count, 1e6 * seconds / count) for count, seconds in points[-2:])
            record(
                f"{name} {more} images, an image", "µs wall" if name == "segment" else "µs cpu", [after],
                {f"the same with {fewer} (linear: 1)": [before]}, "cost that grows no faster than the images: 1 or more",
            )  # fmt: skip
            header = ["images", "s", "µs an image", "peak MB", "MB beyond the imports"]
            show(f"{name}: exponent {exponent(points):.2f}", header, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["point"]:
        measure(sys.argv[2], int(sys.argv[3]), str(Path(sys.argv[4])))
    else:
        main([name for name in sys.argv[1:] if name != "--short"], "--short" in sys.argv)
