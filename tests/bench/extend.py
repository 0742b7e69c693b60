"""A run of N images is extended: N / 1000 images are new, N / 100,000 replaced and N / 100,000 gone.

python -m tests.bench.extend [IMAGES ...]    a million images: five minutes on 2 cores, most of it to write the run

The listing is a manifest, and masks are made without a network: what is measured is everything else that an extension does, in
processor seconds of its process. Beside it: planning the same archive from nothing.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import CorpusConfig, SegmentConfig
from pipeline.corpus import plan_shards, scan_items
from pipeline.runs import Lease, Run, describe, newest_state, verify
from pipeline.runs.extension import planned, publish, stage
from tests.bench.rows import record
from tests.bench.scaling import SHARD, SPACE, answer
from tests.bench.turns import show

SIZES = (10_000, 100_000, 1_000_000)


def manifest(folder: str, count: int, gone: int = 0, replaced: int = 0, new: int = 0) -> CorpusConfig:
    """A table of images on S3, written as the corpus is now."""
    numbers = range(gone, count + new)
    table = {
        "image": [f"s3://bucket/archive/city{k % 20}/{k:09d}.jpg" for k in numbers],
        "image_id": [f"city{k % 20}/{k:09d}" for k in numbers],
        "city": [f"city{k % 20}" for k in numbers],
        "bytes": [40_000 + k % 977 for k in numbers],
        "etag": [f"{k:032x}" if k >= gone + replaced or not replaced else f"{k + 1:032x}" for k in numbers],
    }
    pq.write_table(pa.table(table), f"{folder}/archive.parquet")
    return CorpusConfig(images=f"{folder}/archive.parquet", layout="manifest")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process, and what came out."""
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


def extend(uri: str, cfg: CorpusConfig) -> dict[str, float]:
    """Processor seconds of each step of `maskmill extend`."""
    seconds = {}
    info, state = describe(uri), newest_state(uri)
    assert state is not None
    with Lease(uri) as lease:
        seconds["know the plan"], known = timed(lambda: planned(uri, info, state))
        seconds["list and compare"], (made, _) = timed(
            lambda: stage(uri, info, state, known, scan_items(cfg, None), lambda changes: None)
        )
        assert made is not None
        seconds["answer, without a network"], _ = timed(lambda: answer(Run.open(made.uri)))
        seconds["publish"], _ = timed(lambda: publish(made, lease))
    return seconds


def main(sizes: list[int]) -> None:
    rows = []
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            uri, cfg = f"{folder}/run", manifest(folder, count)
            planning, run = timed(partial(begin, uri, cfg))
            answer(run)
            few = count // 100_000
            seconds = extend(uri, manifest(folder, count, gone=few, replaced=few, new=count // 1000))
            nothing, _ = timed(partial(unchanged, uri, folder))
            proof = verify(uri) if count <= 100_000 else None
            assert proof is None or not proof.problems
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            parts = [f"{value:.1f}" for value in seconds.values()]
            rows.append(
                [count, *parts, f"{sum(seconds.values()):.1f}", f"{nothing:.1f}", f"{planning:.1f}", f"{peak:.0f}"]
            )
            why = "rows of SQLite and Parquet are compared one by one: neither memory nor arithmetic bounds it"
            peer = {"planning it all from nothing": [planning]}
            record(f"extend a run of {count} images by a thousandth", "s cpu", [sum(seconds.values())], peer, why)
    header = ["images", *seconds, "extension", "nothing changed", "first plan", "peak MB"]
    show("an extension by a thousandth, processor seconds", header, rows)


def begin(uri: str, cfg: CorpusConfig) -> Run:
    """The run over the archive as it is now, planned."""
    config = SegmentConfig.model_validate(
        {"corpus": cfg.model_dump(), "checkpoint": "unused", "output": uri, "images_per_shard": SHARD,
         "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1}
    ).model_dump(mode="json")  # fmt: skip
    return Run.open_or_create(uri, {}, config, SPACE, lambda: plan_shards(scan_items(cfg, None), SHARD))


def unchanged(uri: str, folder: str) -> None:
    """The next night, in which nothing changed."""
    info, state = describe(uri), newest_state(uri)
    assert state is not None
    cfg = CorpusConfig(images=f"{folder}/archive.parquet", layout="manifest")
    made, _ = stage(uri, info, state, planned(uri, info, state), scan_items(cfg, None), lambda changes: None)
    assert made is None


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or list(SIZES))
