"""Regions of a 1024x2048 mask, and of a mask in strips, compared with scipy and cc3d; queries to a table of a million regions.

python -m tests.bench.regions [rounds] [rows]    half a minute; pip install connected-components-3d for its row
"""

import importlib.util
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import torch
from scipy import ndimage

from pipeline import labels
from pipeline.imaging.regions import RegionFinder, find_regions
from pipeline.labels import IGNORE
from pipeline.predict.upsample_argmax import enlarge_argmax
from pipeline.runs import region_schema
from pipeline.runs.parts import write_part
from tests.bench.masks import HEIGHT, WIDTH, scene_scores
from tests.bench.rows import Limit
from tests.bench.turns import compare, show

SPACE = labels.space("cityscapes19")
SIDE = 20_000  # of the mask that is never whole
A_PART = 16 * 40  # rows: 40 regions an image
# Of infra/docs/ask.md, and two more.
QUESTIONS = {
    "more than three persons in the lower half": """
        select image_id, count(*) as persons from '{0}' where class = 'person' and centroid_row > height / 2
        group by image_id having persons > 3 order by persons desc""",
    "the largest uncut car of each city": """
        select city, max(area), max_by(image_id, area) from '{0}'
        where class = 'car' and not (touches_top or touches_left or touches_bottom or touches_right) group by city""",
    "regions and mean area by class": "select class, count(*), avg(area) from '{0}' group by class",
}


def masks() -> dict[str, np.ndarray]:
    """As a trained network gives them, and noise: squares of 4x4 pixels, nearly each a region of its own."""
    scene = enlarge_argmax(scene_scores()[0].numpy(), (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    squares = np.random.default_rng(0).integers(0, 19, (HEIGHT // 4, WIDTH // 4), dtype=np.uint8)
    return {"street": scene, "noise": squares.repeat(4, 0).repeat(4, 1)}


def of_scipy(mask: np.ndarray, confidence: np.ndarray | None) -> int:
    """Area and box of each region, with confidence centroid and mean confidence too; how many there are."""
    count = 0
    for class_id in np.unique(mask[mask != IGNORE]):
        numbers, found = ndimage.label(mask == class_id)
        index = np.arange(1, found + 1)
        np.bincount(numbers.ravel())
        ndimage.find_objects(numbers)
        if confidence is not None:
            ndimage.center_of_mass(np.ones_like(numbers), numbers, index)
            ndimage.mean(confidence, numbers, index)
        count += found
    return count


def of_cc3d(mask: np.ndarray, confidence: np.ndarray) -> int:
    """The same."""
    import cc3d

    numbers, count = cc3d.connected_components(mask + np.uint8(1), connectivity=4, return_N=True)  # 255 becomes 0
    cc3d.statistics(numbers)
    np.bincount(numbers.ravel(), confidence.ravel())
    return int(count)


def image(rounds: int) -> None:
    confidence = np.random.default_rng(1).random((HEIGHT, WIDTH), np.float32)
    for name, mask in masks().items():
        ours = find_regions(mask, 1, confidence)
        ways: dict[str, Callable[[], object]] = {"maskmill": lambda mask=mask: find_regions(mask, 1, confidence)}
        ways["maskmill, no confidence"] = lambda mask=mask: find_regions(mask)
        if importlib.util.find_spec("cc3d"):
            assert of_cc3d(mask, confidence) == len(ours.area)
            ways["cc3d"] = lambda mask=mask: of_cc3d(mask, confidence)
        assert of_scipy(mask, confidence) == len(ours.area)
        ways["scipy, class by class"] = lambda mask=mask: of_scipy(mask, confidence)
        ways["scipy, areas and boxes alone"] = lambda mask=mask: of_scipy(mask, None)
        title = f"{len(ours.area)} regions of a {name} mask of {HEIGHT}x{WIDTH}, one thread"
        limit = Limit("bytes", mask.size + confidence.nbytes, "mask and confidence read once")
        compare(title, ways, rounds, budget_s=10, row=f"regions of a {name} mask of {HEIGHT}x{WIDTH}", limit=limit)


def streamed(side: int) -> tuple[int, float, float]:
    """(regions, seconds, MB beyond the rows) of a mask of side x side that comes 512 rows at a time: the street, tiled."""
    street, finder, seconds = masks()["street"], RegionFinder(side, 50), 0.0
    rows = np.ascontiguousarray(np.tile(street[:512], (1, -(-side // WIDTH)))[:, :side])
    find_regions(street)  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for top in range(0, side, 512):
        started = time.perf_counter()
        finder.add(rows[: min(512, side - top)])
        seconds += time.perf_counter() - started
    found = len(finder.finish().area)
    return found, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def table(rng: np.random.Generator, rows: int, first_image: int) -> pa.Table:
    """Regions of made-up images, 40 each, with the schema of a run."""
    image = first_image + np.arange(rows) // 40
    class_id = rng.integers(0, 19, rows)
    top, left = rng.integers(0, 900, rows), rng.integers(0, 1900, rows)
    height, width = rng.integers(1, 125, rows), rng.integers(1, 149, rows)
    columns = {
        "image_id": [f"val/city{k % 20:02d}/{k:06d}" for k in image], "split": ["val"] * rows,
        "city": [f"city{k % 20:02d}" for k in image], "sequence": ["s"] * rows, "frame": image % 30,
        "height": np.full(rows, 1024), "width": np.full(rows, 2048), "class": np.array(SPACE.classes)[class_id],
        "class_id": class_id, "area": height * width // 2 + 1, "box_top": top, "box_left": left, "box_bottom": top + height,
        "box_right": left + width, "centroid_row": top + height / 2, "centroid_col": left + width / 2,
        "confidence": rng.random(rows), "touches_top": top == 0, "touches_left": left == 0,
        "touches_bottom": top + height == 1024, "touches_right": left + width == 2048,
    }  # fmt: skip
    schema = region_schema()
    return pa.Table.from_arrays([pa.array(columns[field.name]).cast(field.type) for field in schema], schema=schema)


def write_regions(folder: Path, rows: int) -> float:
    """Parts as a run of shards of 16 images has them; their MB."""
    rng, size = np.random.default_rng(0), 0
    for number in range(rows // A_PART):
        data = write_part(table(rng, A_PART, number * 16), {})
        (folder / f"part-{number:05d}.parquet").write_bytes(data)
        size += len(data)
    return size / 1e6


def questions(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "small").mkdir()
        size = write_regions(Path(folder) / "small", rows)
        small, large = f"{folder}/small/*.parquet", f"{folder}/large.parquet"
        writer = write_part(duckdb.sql(f"from '{small}'").to_arrow_table(), {})
        Path(large).write_bytes(writer)
        found = []
        for question, text in QUESTIONS.items():
            for kind, files in ((f"{rows // A_PART} parts", small), ("one part, as compacted", large)):
                child = [sys.executable, "-c", CHILD, text.format(files)]
                done = subprocess.run(child, capture_output=True, text=True, check=True)
                seconds, cpu, answers = json.loads(done.stdout)
                found.append([question, kind, f"{seconds:.2f}", f"{cpu:.2f}", answers])
        header = ["question", "table", "s", "cpu s", "rows of the answer"]
        show(f"DuckDB, {rows} regions, {size:.0f} MB in small parts; a process for each question", header, found)


CHILD = """
import json, sys, time, duckdb
started, worked = time.perf_counter(), time.process_time()
rows = duckdb.sql(sys.argv[1]).fetchall()
print(json.dumps([time.perf_counter() - started, time.process_time() - worked, len(rows)]))
"""


def main(rounds: int, rows: int) -> None:
    torch.set_num_threads(1)
    image(rounds)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        count, seconds, peak = pool.apply(streamed, (SIDE,))
    told = f"{count} regions of 50 pixels or more in {seconds:.1f} s, {peak:.0f} MB beyond the rows"
    print(f"\n{SIDE}x{SIDE}, 512 rows at a time: {told}")
    if rows:  # the book asks no questions
        questions(rows)


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:]]
    main(*given, *(7, 1_000_000)[len(given) :])
