"""An actor that sleeps instead of answering shards, and returns such summaries; it imports no torch, so that many fit."""

import json
import time
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
from ray.experimental import internal_kv

from pipeline.segment.shard_progress import Count, CountReporter

SERVICE_S = 0.25  # of a shard
NAMESPACE = b"maskmill"  # as in pipeline/segment/on_ray.py
PART = {"bytes": 9000, "rows": 1, "footer_sha256": "0" * 64}
SECONDS = ("seconds_decode", "seconds_forward", "seconds_crf", "seconds_encode")


class Sleeper:
    """In the place of `Actor`: one image a shard, none rejected, nothing written."""

    def __init__(self, payload: dict[str, Any], fingerprint: str, retried: dict[int, list[str]]) -> None:
        key = f"{fingerprint}/{ray.get_runtime_context().get_actor_id()}"

        def send(count: Count) -> None:
            internal_kv._internal_kv_put(key, json.dumps(asdict(count)), overwrite=True, namespace=NAMESPACE)

        self.reporter = CountReporter(send)

    def __call__(self, row: pa.Table) -> pa.Table:
        shard, began = row["shard"][0].as_py(), time.time()
        self.reporter.begin(shard)
        time.sleep(SERVICE_S)
        self.reporter.answered()
        self.reporter.commit(shard, 1)
        summary = {"shard": shard, "images": 1, "rejects": [], "began": began, "ended": None, "warning": None,
                   "part": json.dumps(PART)} | dict.fromkeys(SECONDS, 0.1)  # fmt: skip
        texts = {"rejects": pa.list_(pa.string()), "ended": pa.string(), "warning": pa.string()}
        fields = [pa.field(name, texts.get(name) or pa.scalar(value).type) for name, value in summary.items()]
        return pa.Table.from_pylist([summary], schema=pa.schema(fields))
