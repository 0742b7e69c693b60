"""Questions over a run of a million rows: seconds, peak memory, and the same group-by in DuckDB and Polars.

python -m tests.bench.queries [rows] [parts]    half a minute on 2 cores; writes about 600 MB below a temporary folder
python -m tests.bench.queries 300000 75 3       only the questions that other programs answer too, three rounds
python -m tests.bench.queries 32000 2000        the same for many small parts, where the cost is that of opening them

Counts are drawn (street-like: a third of the 361 cells), masks are empty: no question here reads one. Eight drawn parts are
written under all the names, with image ids of their own. Each question runs in a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline import labels
from pipeline.analysis import open_run
from pipeline.analysis.report.snippets import snippets
from pipeline.config import SegmentConfig
from pipeline.corpus import plan_shards
from pipeline.runs import Run, mask_schema
from pipeline.runs.parts import write_part
from pipeline.runs.schema import part_metadata
from tests.bench.rows import Limit, record
from tests.bench.turns import show

SPACE = labels.space("cityscapes19")
CITIES = [f"city{k:02d}" for k in range(20)]
DRAWN_PARTS = 8
QUESTIONS = {
    "areas by city": lambda run: run.areas(by=["city"]),
    "iou by city": lambda run: run.iou(by=["city"]),
    "iou by city and sequence": lambda run: run.iou(by=["city", "sequence"]),
    "worst 20 by class:person": lambda run: run.worst(20, by="class:person"),
    "next 200 by confidence": lambda run: run.next(200, by="confidence", labelled=True),
    "summary": lambda run: run.summary(),
    "intervals (1000 draws)": lambda run: run.intervals(),
    "duckdb: mIoU by city": lambda run: duckdb.sql(snippets(run.uri, "city", SPACE.classes)["DuckDB"]).fetchall(),
    "polars: mIoU by city": lambda run: exec(snippets(run.uri, "city", SPACE.classes)["Polars"], {}),
}


COMPARED = {"iou by city": "", "duckdb: mIoU by city": "DuckDB", "polars: mIoU by city": "Polars"}


def table(rng: np.random.Generator, rows: int) -> pa.Table:
    counts = (rng.lognormal(6, 2, (rows, 361)) * (rng.random((rows, 361)) < 0.33)).astype(np.int64)
    counts[:, ::20] *= 40
    lists = pa.ListArray.from_arrays(np.arange(0, counts.size + 1, 361, dtype=np.int32), counts.ravel())
    pixels = pa.FixedSizeListArray.from_arrays(counts.reshape(-1, 19, 19).sum(1).ravel(), 19)
    numbers = rng.random((3, rows), dtype=np.float32)
    columns = {
        "image_id": [f"val/{k}-{rng.integers(1 << 62)}" for k in range(rows)], "uri": ["s3://bucket/corpus.zip"] * rows,
        "split": ["val"] * rows, "city": rng.choice(CITIES, rows), "sequence": rng.choice(50, rows).astype(str),
        "frame": rng.integers(0, 30, rows), "height": [1024] * rows, "width": [2048] * rows,
        "pixels": pixels, "confusion": lists, "miou": numbers[0], "pixel_accuracy": numbers[1], "confidence": numbers[2],
    }  # fmt: skip
    schema = mask_schema(19)
    arrays = [
        pa.array(columns[field.name]).cast(field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_run(folder: str, rows: int, parts: int) -> str:
    cfg = {"corpus": {"images": folder, "layout": "cityscapes"}, "checkpoint": folder, "output": folder,
           "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1}  # fmt: skip
    described = SegmentConfig.model_validate(cfg).model_dump(mode="json")
    run = Run.open_or_create(folder, {}, described, SPACE, lambda: plan_shards([], 1))
    rng = np.random.default_rng(0)
    drawn = [table(rng, rows // parts) for _ in range(DRAWN_PARTS)]
    (Path(folder) / "masks").mkdir()
    for part in range(parts):
        metadata = part_metadata(run.fingerprint, SPACE, part, part)
        names = pa.array([f"val/{part}-{row}" for row in range(rows // parts)])
        drawn_part = drawn[part % DRAWN_PARTS]
        data = write_part(drawn_part.set_column(0, drawn_part.field(0), names), metadata)
        (Path(folder) / "masks" / f"part-{part:05d}.parquet").write_bytes(data)
    return folder


def ask(folder: str, question: str) -> None:
    run = open_run(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, worked = time.perf_counter(), time.process_time()
    QUESTIONS[question](run)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds, cpu, before / 1024, peak / 1024]))


def main(rows: int, parts: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_run(folder, rows, parts)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet")) / 1e6
        found, cpus = [], dict[str, list[float]]()
        for question in list(COMPARED) * rounds if rounds > 1 else QUESTIONS:
            command = [sys.executable, "-m", "tests.bench.queries", folder, question]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, cpu, before, peak = json.loads(done.stdout)
            found.append([question, f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:.0f}", f"{peak - before:.0f}"])
            cpus.setdefault(question, []).append(cpu)
        limit = Limit("bytes", rows * 361 * 8, "the counts of each row, decoded and read once")
        ours, *theirs = COMPARED
        peers = {COMPARED[one]: cpus[one] for one in theirs}
        record(f"mIoU by city over {rows} rows", "s cpu", cpus[ours], peers, limit)
        header = ["question", "s", "cpu s", "peak MB", "MB beyond the imports"]
        show(f"{rows} rows in {parts} parts, {size:.0f} MB", header, found)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2] in QUESTIONS:
        ask(sys.argv[1], sys.argv[2])
    else:
        given = [int(value) for value in sys.argv[1:]]
        main(*given, *(1_000_000, 250, 1)[len(given) :])
