"""The sides of `tests.bench.faults`: Maskmill, and programs as users of Ray Data and of Daft write them by the documentation.

`python -m tests.bench.fault_sides SIDE PLAY` answers one play's images in this process; its output is what a user would read.
All sides decode PNGs, run tests.bench.fault_step with one worker of one CPU, and write eight images at a time to Parquet on S3.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from tests.bench.fault_step import CLASSES, build, mask

Play = dict[str, Any]  # images, manifest, output, state: URIs; checkpoint, code, log: paths; bad_images: bool
TOGETHER = 8  # images that are committed together
LOGICAL_CPUS = 4  # of Ray; with two, the actors that filter what is done would leave no place for readers
LEAVE_OUT = {"max_task_retries": 2, "max_restarts": -1}  # of an actor; as they come, both have no end


def maskmill(play: Play) -> None:
    """The command, as a user types it."""
    from pipeline.cli import main

    config = {
        "corpus": {"images": play["images"], "layout": "pairs", "image_glob": "*.png"}, "output": play["output"],
        "checkpoint": play["checkpoint"], "code": play["code"], "images_per_shard": TOGETHER, "actors": 1,
        "cpus_per_actor": 1, "max_reject_rate": 0.1,
    }  # fmt: skip
    file = Path(f"{play['log']}.yaml")
    file.write_text(json.dumps(config))
    start_ray()
    sys.argv = ["maskmill", "segment", str(file)]
    main()


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


class Answer:
    """A batch of Ray Data, or the bytes of Daft, to masks as PNG."""

    def __init__(self, log: str) -> None:
        torch.set_num_threads(1)
        self.step = build(CLASSES, log).eval()

    def png(self, data: bytes) -> bytes:
        return as_png(mask(self.step, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"path": batch["path"], "mask": [self.png(data) for data in batch["bytes"]]}


def ray_data(play: Play, resumes: bool = False) -> None:
    """Without checkpoints a second start begins from nothing, and `overwrite` clears away what the first one wrote."""
    import ray.data

    start_ray()
    context = ray.data.DataContext.get_current()
    context.retried_io_errors = [*context.retried_io_errors, "AWS Error"]
    if play["bad_images"]:  # a user knows of them: blocks that fail again and again are left out
        context.max_errored_blocks = -1
    if resumes:
        context.checkpoint_config = ray.data.checkpoint.CheckpointConfig(
            id_column="path", checkpoint_path=play["state"], delete_checkpoint_on_success=False
        )
    images = ray.data.read_binary_files(
        play["images"], include_paths=True, override_num_blocks=play["count"] // TOGETHER
    )
    masks = images.map_batches(
        Answer, fn_constructor_args=(play["log"],), batch_size=TOGETHER, num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1), **(LEAVE_OUT if play["bad_images"] else {}),
    )  # fmt: skip
    masks.write_parquet(play["output"], mode="append" if resumes else "overwrite")


def ray_data_resumes(play: Play) -> None:
    """Job-level checkpointing, part of open-source Ray: its own record of the paths that are written."""
    ray_data(play, resumes=True)


def daft_delta(play: Play) -> None:
    """Checkpoints and an idempotent commit to a Delta table: the stronger of the two ways that Daft's guide describes."""
    import daft

    start_ray()
    daft.set_runner_ray()
    s3 = daft.io.S3Config(
        endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name=os.environ["AWS_DEFAULT_REGION"], use_ssl=False,
        key_id=os.environ["AWS_ACCESS_KEY_ID"], access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    config = daft.io.IOConfig(s3=s3)
    daft.set_planning_config(default_io_config=config)
    daft.set_execution_config(scan_tasks_min_size_bytes=0, max_sources_per_scan_task=1)  # a file of the manifest a task

    @daft.cls(cpus=1, max_concurrency=1, use_process=True)
    class Masks:
        def __init__(self, log: str) -> None:
            self.answer = Answer(log)

        @daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=TOGETHER)
        def png(self, images: daft.Series) -> list[bytes]:
            return [self.answer.png(data) for data in images.to_pylist()]

    few = daft.KeyFilteringSettings(num_workers=1, cpus_per_worker=0.1)  # ample for some hundred keys
    store = daft.CheckpointStore(play["state"], io_config=config)
    images = daft.read_parquet(
        f"{play['manifest']}/*.parquet", checkpoint=daft.CheckpointConfig(store, on="path", settings=few)
    )
    data = images.with_column("data", daft.functions.download(images["path"]))
    masks = data.select(data["path"], Masks(play["log"]).png(data["data"]).alias("mask"))
    masks.write_deltalake(play["output"], checkpoint=daft.IdempotentCommit(store, idempotence_key="night"))


def start_ray() -> None:
    from tests.local_ray import start_ray

    start_ray(LOGICAL_CPUS, object_store_bytes=200_000_000)


def write_manifest(uri: str, paths: list[str], put: Callable[[str, bytes], object]) -> None:
    """What Daft reads: Parquet files of eight paths."""
    for first in range(0, len(paths), TOGETHER):
        file = io.BytesIO()
        pq.write_table(pa.table({"path": paths[first : first + TOGETHER]}), file)
        put(f"{uri}/{first:04d}.parquet", file.getvalue())


SIDES: dict[str, Callable[[Play], None]] = {
    "maskmill segment": maskmill,
    "Ray Data": ray_data,
    "Ray Data, checkpoints": ray_data_resumes,
    "Daft, checkpoints": daft_delta,
}

if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    SIDES[sys.argv[1]](json.loads(sys.argv[2]))
