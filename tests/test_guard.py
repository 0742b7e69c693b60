"""Limits on a run's requests to the store, counted by a proxy, not timed. Limits on copies are in test_guard_copies.py."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipeline import labels, storage
from pipeline.config import CorpusConfig, SegmentConfig
from pipeline.corpus import Item, Place, list_items, plan_shards
from pipeline.runs import REJECT_SCHEMA, Run, mask_schema
from pipeline.synthetic.scenes import write_corpus
from tests.counting_proxy import Request, counting_proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a Ray of its own on a busy machine
SHARD = 4
IMAGES = {"small": 8, "large": 24}
HEADER_BYTES = 512  # of a zip member, and what is read beyond it
# Begin, part, end, and its footer at the finish; the one more is slack for what asks once an actor.
REQUESTS_A_SHARD = 5
MASK_BYTES, ROWS = 100_000, 40  # of the run whose masks nobody should read
# One process with a Ray of its own, so that no client and no worker remembers another endpoint. A look for an object that is
# not there marks where a step begins.
STEPS = """
import json, sys
from pipeline import storage
from pipeline.analysis import open_run
from pipeline.config import SegmentConfig, parse
from pipeline.runs import verify
from pipeline.segment.driver import segment
from tests.local_ray import start_ray
def step(name, work):
    storage.exists(f"s3://maskmill/guard-step/{name}")
    work()
start_ray(num_cpus=2, object_store_bytes=100_000_000)
configs, heavy = json.loads(sys.argv[1])
for name, values in configs.items():
    cfg = parse(SegmentConfig, values, where=name)
    step(name, lambda: segment(cfg))
step("verify", lambda: verify(cfg.output))
step("iou", lambda: open_run(heavy).iou())
"""


@pytest.fixture(scope="module")
def corpora(s3: str) -> dict[str, tuple[str, str]]:
    """Image zip and label zip of two corpora that differ in size alone."""
    return {
        name: write_corpus(f"{s3}/guard-{name}", {"val": images}, 64, 128, seed=3) for name, images in IMAGES.items()
    }


@pytest.fixture(scope="module")
def requests(s3: str, corpora: dict[str, tuple[str, str]], tiny_checkpoint: str) -> dict[str, list[Request]]:
    """Step -> what it asked: segmenting each corpus, verifying the larger run, and the IoU of a run with heavy masks."""
    configs = {
        name: {
            "corpus": {"images": uris[0], "labels": uris[1], "layout": "cityscapes"}, "checkpoint": tiny_checkpoint,
            "output": f"{s3}/guard-run-{name}", "images_per_shard": SHARD, "max_reject_rate": 0, "actors": 1,
            "cpus_per_actor": 1,
        } for name, uris in corpora.items()
    }  # fmt: skip
    heavy = heavy_run(f"{s3}/guard-run-heavy")
    with counting_proxy(os.environ["AWS_ENDPOINT_URL"]) as (endpoint, log):
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-c", STEPS, json.dumps([configs, heavy])]
        environment["AWS_ENDPOINT_URL"] = endpoint
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850)
        assert done.returncode == 0, done.stderr[-3000:]
    steps: dict[str, list[Request]] = {}
    for request in log:
        if "/guard-step/" in request.key:
            found = steps.setdefault(request.key.rpartition("/")[2], [])
        elif "guard-step" not in request.key:
            found.append(request)
    return steps


def heavy_run(uri: str) -> str:
    """A finished run of one part, most of whose bytes are masks that cannot be compressed (and are none)."""
    space, rng = labels.space("camvid11"), np.random.default_rng(0)
    cfg = SegmentConfig.model_validate(
        {"corpus": {"images": uri, "layout": "camvid"}, "checkpoint": uri, "output": uri, "max_reject_rate": 0,
         "actors": 1, "cpus_per_actor": 1}
    )  # fmt: skip
    items = [Item(str(index), Place(f"{uri}/{index}.png", bytes=1)) for index in range(ROWS)]
    run = Run.open_or_create(uri, {}, cfg.model_dump(mode="json"), space, lambda: plan_shards(items, ROWS))
    rows = [
        {"image_id": item.image_id, "uri": item.image.uri, "height": 2, "width": 2, "pixels": [4] + [0] * 10,
         "mask": {"bytes": rng.bytes(MASK_BYTES), "path": "0.png"}, "confusion": [4] + [0] * 120}
        for item in items
    ]  # fmt: skip
    schema = mask_schema(space.num_classes)
    run.commit(0, pa.Table.from_pylist(rows, schema=schema), pa.Table.from_pylist([], schema=REJECT_SCHEMA))
    run.finish(max_reject_rate=0)
    return uri


def below(found: list[Request], uri: str, *methods: str) -> list[Request]:
    key = uri.removeprefix("s3://")
    return [one for one in found if one.method in methods and f"{one.key}/".startswith(f"{key}/")]


def test_a_zip_member_costs_one_ranged_read_of_its_own_bytes(requests, corpora):
    images, truths = corpora["large"]
    items = list_items(CorpusConfig(images=images, labels=truths, layout="cityscapes"), None)
    for uri, places in ((images, [i.image for i in items]), (truths, [i.label for i in items])):
        reads = below(requests["large"], uri, "GET")
        assert all(read.start is not None for read in reads)  # never the whole zip
        for place in places:
            inside = [read for read in reads if place.offset <= read.start < place.offset + place.bytes]
            # The directory's block may begin inside a member too; it is larger than any.
            own = [read for read in inside if read.received <= place.bytes + HEADER_BYTES]
            assert [read.start for read in own] == [place.offset], place.member


def test_an_image_costs_one_request_and_a_zip_two_more(requests, corpora):
    for which in (0, 1):
        small, large = (len(below(requests[name], corpora[name][which], "GET", "HEAD")) for name in IMAGES)
        assert large - small == IMAGES["large"] - IMAGES["small"]
        assert small - IMAGES["small"] <= 2  # its size, and its directory


def test_a_shard_costs_one_part_write_and_a_few_small_requests(requests, s3):
    asked = {}
    for name, images in IMAGES.items():
        written = below(requests[name], f"{s3}/guard-run-{name}/masks", "PUT", "POST")
        assert sorted(one.key.rpartition("-")[2] for one in written) == [
            f"{shard:05d}.parquet" for shard in range(images // SHARD)
        ]
        asked[name] = [one for one in requests[name] if "_lease" not in one.key and "guard-run" in one.key]
    shards = (IMAGES["large"] - IMAGES["small"]) // SHARD
    assert len(asked["large"]) - len(asked["small"]) <= REQUESTS_A_SHARD * shards


def test_verifying_reads_each_part_once(requests, s3):
    read = Counter(one.key for one in below(requests["verify"], f"{s3}/guard-run-large/masks", "GET"))
    assert len(read) == IMAGES["large"] // SHARD
    assert set(read.values()) == {1}


def test_the_iou_of_a_run_moves_no_mask(requests, s3):
    part = f"{s3}/guard-run-heavy/masks/part-00000.parquet"
    moved = sum(one.received for one in below(requests["iou"], part, "GET"))
    assert 0 < moved < 0.1 * storage.size(part)
