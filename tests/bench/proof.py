"""Cost of finishing, inspecting and verifying a run of very many rows: processor time and memory per image.

python -m tests.bench.proof [IMAGES ...] [--shard N] [--keep FOLDER]    three minutes on 2 cores for 1000000
python -m tests.bench.proof --records PARTS    memory that `verify` keeps for so many parts while it reads them

The run is a real one: plan, `run.json` and Parquet parts on this disk, written by the product's own writer (110 bytes an
image), every image with an id of its own and a mask of 16x32, one of 64. Parts are written past `commit`, without its waits
for the disk; everything after that is what a user runs. Each step is a process of its own, so that its peak memory is its own.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.corpus.groups import GROUP_FIELDS, PLAN_FIELDS
from pipeline.imaging.mask_png import encode_mask
from pipeline.runs import PartEntry, Run, mask_schema, parts_of, read_success, verify
from pipeline.runs.info import Success, put_success, root_of
from pipeline.runs.parts import part_name, write_part
from pipeline.runs.schema import FORMAT, part_metadata
from pipeline.runs.status import status
from tests.bench.rows import record
from tests.bench.scaling import SPACE, config
from tests.bench.turns import show

SIZES, SHARD = (100_000, 1_000_000), 256
MASKS, HEIGHT, WIDTH = 64, 16, 32
TABLE_SHARDS = 64  # of the plan
WRITERS = 2


def plan(images: int, shard: int) -> Iterator[pa.Table]:
    """A plan as `plan_shards` makes it, column by column: ten million `Item` would take longer than the proof."""
    schema = pa.schema([*PLAN_FIELDS, *GROUP_FIELDS])
    for first in range(0, images, shard * TABLE_SHARDS):
        numbers = np.arange(first, min(images, first + shard * TABLE_SHARDS))
        columns = dict.fromkeys(schema.names, pa.nulls(len(numbers))) | {
            "image_id": [f"val/city{k % 20}/{k:09d}" for k in numbers],
            "uri": ["s3://bucket/corpus.zip"] * len(numbers),
            "member": [f"{k:09d}.png" for k in numbers],
            "shard": numbers // shard, "offset": 40_000 * numbers, "bytes": np.full(len(numbers), 40_000), "crc32": numbers,
            "split": ["val"] * len(numbers), "city": [f"city{k % 20}" for k in numbers], "frame": numbers % 30,
        }  # fmt: skip
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
        yield pa.Table.from_arrays(arrays, schema=schema)


def write_run(folder: str, images: int, shard: int) -> None:
    cfg = config(folder)
    run = Run.open_or_create(cfg.output, {}, cfg.model_dump(mode="json"), SPACE, lambda: plan(images, shard))
    Path(run.uri, "masks").mkdir()
    with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
        pool.starmap(write_parts, [(run.uri, number) for number in range(WRITERS)])


def write_parts(uri: str, writer: int) -> None:
    """The parts of every so manieth table of the plan."""
    run, rows = Run.open(uri), _mask_rows()
    for number, table in enumerate(run.plan.tables(["image_id", "city", "shard"])):
        if number % WRITERS != writer:
            continue
        shards = table["shard"].to_numpy()
        for shard in np.unique(shards):
            start, end = np.searchsorted(shards, [shard, shard + 1])
            ids, masks = table["image_id"][start:end], rows.take(pa.array(np.arange(start, end) % MASKS))
            pictures = pa.StructArray.from_arrays(
                [masks["mask"].combine_chunks().field("bytes"), pa.array([f"{one}.png" for one in ids.to_pylist()])],
                fields=list(masks.schema.field("mask").type),
            )
            for name, values in (("image_id", ids), ("city", table["city"][start:end]), ("mask", pictures)):
                index = masks.schema.get_field_index(name)
                masks = masks.set_column(index, masks.schema.field(index), values)
            data = write_part(masks.combine_chunks(), part_metadata(run.fingerprint, SPACE, shard, shard), [])
            Path(uri, "masks", part_name(int(shard), int(shard))).write_bytes(data)


def _mask_rows() -> pa.Table:
    """`MASKS` rows with their counts, as an actor makes them."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(MASKS):
        mask = rng.integers(0, SPACE.num_classes, (HEIGHT // 4, WIDTH // 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        pixels = np.bincount(mask.ravel(), minlength=SPACE.num_classes)
        rows.append(
            {"image_id": "", "uri": "s3://bucket/corpus.zip", "split": "val", "height": HEIGHT, "width": WIDTH,
             "mask": {"bytes": encode_mask(mask), "path": ""}, "pixels": pixels.tolist(),
             "confusion": np.diag(pixels).ravel().tolist(), "confidence": 0.9, "entropy": 0.3}
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=mask_schema(SPACE.num_classes))


def finish(uri: str, images: int) -> None:
    """Footers of all parts are read: as a start does that was killed after its last part."""
    assert Run.open(uri).finish(0).rows == images


def look(uri: str, images: int) -> None:
    found = status(uri)
    assert (found.answered, found.state) == (images, "finished")


def ask(uri: str, images: int) -> None:
    from pipeline.analysis import open_run

    assert open_run(uri).num_images == images


def prove(uri: str, images: int) -> None:
    found = verify(uri)
    assert (found.images, found.masks, found.problems) == (images, images, [])


def hold_records(parts: int) -> None:
    """The names of so many parts, of empty files, and their `_SUCCESS.json`: prints seconds and memory of holding both."""
    with tempfile.TemporaryDirectory() as uri:
        writing = multiprocessing.get_context("spawn").Process(target=write_records, args=(uri, parts))
        writing.start()
        writing.join()
        before, worked = _now_mb(), time.process_time()
        success = read_success(uri)
        assert success is not None and not success.faults()
        listed = parts_of(uri, "masks")
        assert len(listed) == len(success.parts) == parts
        worked, held, peak = (
            time.process_time() - worked,
            _now_mb(),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        show(
            f"the records of {parts} parts: {2**20 * (held - before) / parts:.0f} bytes a part held",
            ["cpu s", "MB before", "MB held", "peak MB"], [[f"{worked:.1f}", f"{before:.0f}", f"{held:.0f}", f"{peak:.0f}"]],
        )  # fmt: skip


def write_records(uri: str, parts: int) -> None:
    Path(uri, "masks").mkdir()
    entries = dict[str, PartEntry]()
    for number in range(parts):
        name = f"masks/{part_name(number, number)}"
        Path(uri, name).touch()
        entries[name] = PartEntry(9000 + number % 997, 16, hashlib.sha256(name.encode()).hexdigest())
    files = {"run.json": "0" * 64}
    put_success(
        uri,
        Success(format=FORMAT, fingerprint="0" * 64, finished="2026-01-01T00:00:00+00:00", rows=16 * parts, rejects=0,
                rejects_by_reason={}, parts=entries, files=files, root_sha256=root_of(files, entries)),
    )  # fmt: skip


def _now_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


STEPS: dict[str, Callable[[str, int], None]] = {"finish": finish, "status": look, "open_run": ask, "verify": prove}


def measure(step: str, uri: str, images: int) -> None:
    """One step, in this process: prints its processor seconds, its seconds and peak memory, all and beyond the imports."""
    if step == "open_run":
        import pipeline.analysis  # noqa: F401  # its imports are none of its memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worked, began = time.process_time(), time.perf_counter()
    STEPS[step](uri, images)
    worked, seconds = time.process_time() - worked, time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([worked, seconds, peak / 1024, (peak - before) / 1024]))


def point(step: str, uri: str, images: int) -> list[float]:
    """The same in a process of its own, which begins with the memory of this one: so nothing large is done here."""
    command = [sys.executable, "-m", "tests.bench.proof", "--step", step, uri, str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(sizes: list[int], shard: int, keep: str | None) -> None:
    found: dict[str, dict[int, list[float]]] = {step: {} for step in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        for images in sizes:
            home = f"{keep or folder}/{images}-{shard}"
            if not os.path.exists(home):
                writing = multiprocessing.get_context("spawn").Process(target=write_run, args=(home, images, shard))
                writing.start()
                writing.join()
                assert writing.exitcode == 0
            for step in STEPS:
                found[step][images] = point(step, f"{home}/run", images)
                print(f"{step}, {images} images: {found[step][images][0]:.1f} s", file=sys.stderr, flush=True)
    for step, points in found.items():
        rows = [
            [images, -(-images // shard), f"{cpu:.2f}", f"{1e6 * cpu / images:.2f}", f"{1e3 * cpu * shard / images:.3f}",
             f"{seconds:.1f}", f"{peak:.0f}", f"{grown:.0f}"]
            for images, (cpu, seconds, peak, grown) in points.items()
        ]  # fmt: skip
        header = ["images", "parts", "cpu s", "µs an image", "ms a part", "wall s", "peak MB", "MB beyond the imports"]
        show(f"{step}, {shard} images a part{_slopes(points, shard)}", header, rows)
        if len(points) > 1:
            (fewer, before), (more, after) = list(points.items())[-2:]
            record(
                f"{step}, {more} images of {shard} a part, an image", "µs cpu", [1e6 * after[0] / more],
                {f"the same with {fewer} (linear: 1)": [1e6 * before[0] / fewer]},
                "cost that grows no faster than the images: 1 or more",
            )  # fmt: skip


def _slopes(points: dict[int, list[float]], shard: int) -> str:
    """What each further image costs, between the two largest points."""
    if len(points) < 2:
        return ""
    (fewer, before), (more, after) = list(points.items())[-2:]
    cpu, memory = (after[0] - before[0]) / (more - fewer), (after[2] - before[2]) * 2**20 / (more - fewer)
    at_1e7 = after[2] + memory * (1e7 - more) / 2**20
    return (
        f"; each further image takes {1e6 * cpu:.1f} µs and {memory:.1f} bytes ({memory * shard:.0f} a part): "
        f"{at_1e7:.0f} MB at 10^7"
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("images", type=int, nargs="*", default=list(SIZES))
    arguments.add_argument("--shard", type=int, default=SHARD)
    arguments.add_argument("--keep", help="folder for the runs; those that it holds already are not written again")
    if sys.argv[1:2] == ["--step"]:
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        arguments.add_argument("--records", type=int, help="parts whose records are held")
        given = arguments.parse_args()
        if given.records:
            hold_records(given.records)
        else:
            main(given.images, given.shard, given.keep)
