"""`maskmill estimate`: computed numbers equal arithmetic by hand, and measured rates come from a run's own parts."""

import json
import random
import re
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config import SegmentConfig, parse
from pipeline.segment import estimate, sizing
from tests.cluster_configs import segment_values
from tests.small_run import Drawn, make_run

GUIDE = Path(__file__).parent.parent / "infra" / "docs" / "sizing.md"
BUCKET = "s3://bucket"


def config(**changes):
    return parse(SegmentConfig, segment_values(BUCKET) | {"images_per_shard": 64} | changes, where="test")


def test_hours_parts_and_requests_follow_from_the_rate():
    found = sizing.size(config(), 640_000, 1_280_000, sizing.Rates(10, 2e6, 25e3), 20)
    assert found.shards == 10_000
    plan_s, finish_s = 640_000 * 31e-6 + 1_280_000 * 20e-6, 10 * 0.1 / 32 + 10_000 * 4e-5
    working_s = 10_000 / 20 * (64 / 10 + 3 * 0.02)
    assert found.plan_hours == pytest.approx(plan_s / 3600)
    assert found.finish_hours == pytest.approx(finish_s / 3600)
    assert found.hours == pytest.approx((plan_s + 60 + working_s + finish_s) / 3600)
    assert found.device_hours == pytest.approx((working_s + 60) / 3600 * 20)
    assert found.parts_per_s == pytest.approx(10_000 / working_s)
    assert (found.read_bytes, found.written_bytes) == (1.28e12, 16e9)
    assert found.gets == 2 * 640_000 + 22 * 3  # image and label; three parts of the plan
    renewals = int(3600 * found.hours) // 15  # of the lease
    assert found.puts == 2 * 10_000 + 3 + renewals + 1  # begin and part
    assert found.lists == 1_280 + 10 + renewals + 1
    assert found.warnings == ()


def test_the_slowest_device_has_a_whole_shard_more():
    five, eight = (sizing.size(config(), 64 * n, 0, sizing.Rates(0.1, 1e6, 25e3), 4) for n in (5, 8))
    assert five.device_hours == eight.device_hours


def test_a_shard_of_large_images_holds_fewer():
    found = sizing.size(config(images_per_shard=1024), 10**8, 0, sizing.Rates(100, 3e5, 25e3), 32)
    assert found.shards == 117_234  # of 853 images: 256 MB


def test_rays_driver_may_be_slower_than_its_devices():
    found = sizing.size(config(images_per_shard=1), 100_000, 0, sizing.Rates(100, 3e5, 25e3), 1000)
    assert found.device_hours == pytest.approx((60 + 100_000 * (9e-3 + 0.6e-3)) / 3600 * 1000)


def test_the_cost_is_devices_and_requests_and_a_month_of_masks():
    found = sizing.size(config(), 64_000, 0, sizing.Rates(10, 1e6, 25e3), 1)
    cost = found.cost(sizing.Prices(device_hour=3, million_gets=0.4, thousand_puts=0.005, gb_month=0.02))
    requests = found.gets * 0.4e-6 + (found.puts + found.lists) * 0.005e-3
    assert cost == pytest.approx(found.device_hours * 3 + requests + 1.6 * 0.02)


# images, listed, rate, devices, images a shard -> what is said, and nothing else
LIMITS = [
    ((640, 0, 10, 8, 64), "10 shards for 8 devices"),
    ((100_000, 0, 0.1, 4, 512), "a shard takes 85 min"),
    ((1_000_000, 0, 100, 8, 16), "a device waits 27% of its time"),
    ((6_000_000, 0, 10, 64, 16), "375,000 parts"),
    ((10_000_000, 0, 100, 64, 256), "6,247 images/s"),
    ((50_000_000, 0, 10, 64, 512), "planning takes 30 GB"),
]


@pytest.mark.parametrize(("case", "words"), LIMITS)
def test_what_will_not_go_well_is_said_and_its_advice_mends_it(case, words):
    images, listed, rate, devices, per_shard = case

    def warnings(**changes):
        cfg = config(**{"images_per_shard": per_shard} | changes)
        return sizing.size(cfg, images, listed, sizing.Rates(rate, 1e5, 25e3), devices).warnings

    [found] = warnings()
    assert found.startswith(words)
    if advice := re.search(r"images_per_shard to (\d+)", found):
        assert warnings(images_per_shard=int(advice[1])) == ()
    if advice := re.search(r"take (\d+) devices", found):
        devices = int(advice[1])
        assert warnings() == ()


@pytest.mark.parametrize(("images", "devices", "per_shard"), [(10, 1, 16), (3, 2, 1)])
def test_nothing_is_advised_where_no_device_waits_or_no_shard_can_be_smaller(images, devices, per_shard):
    cfg = config(images_per_shard=per_shard)
    assert sizing.size(cfg, images, 0, sizing.Rates(10, 1e5, 25e3), devices).warnings == ()


def test_many_list_s3_at_once_and_one_another_store():
    """20 000 pages of 0.1 s, 32 at a time; the client takes 20 us an object meanwhile."""
    rates = sizing.Rates(10, 1e5, 25e3)
    found = sizing.size(config(images_per_shard=256), 10**7, 2 * 10**7, rates, 64)
    assert found.warnings == ()
    assert found.plan_hours == pytest.approx((10**7 * 31e-6 + 2 * 10**7 * 20e-6) / 3600)
    other = config(images_per_shard=256, corpus={"images": "gs://bucket", "layout": "cityscapes"})
    [warning] = sizing.size(other, 10**7, 2 * 10**7, rates, 64).warnings
    assert warning.startswith("the corpus is listed in 33 min")


def test_footers_are_read_at_the_end_where_regions_follow_from_them():
    asked = config(regions={"min_area": 1})
    plain, regions = (sizing.size(cfg, 640_000, 0, sizing.Rates(10, 2e6, 25e3), 20) for cfg in (config(), asked))
    assert regions.gets - plain.gets == 10_000
    assert 3600 * (regions.finish_hours - plain.finish_hours) == pytest.approx(10_000 * 0.02 / 16)


def test_only_s3_has_the_limits_of_s3():
    folder = config(images_per_shard=256, corpus={"images": "file:///mnt/corpus", "layout": "cityscapes"})
    assert sizing.size(folder, 10**7, 0, sizing.Rates(100, 1e5, 25e3), 64).warnings == ()


def test_larger_shards_of_large_images_need_more_bytes():
    rates = sizing.Rates(10, 1e7, 25e3)
    [found] = sizing.size(config(), 6_000_000, 0, rates, 64).warnings
    assert found.endswith("; set bytes_per_shard to 300000000")  # 30 images
    assert sizing.size(config(bytes_per_shard=300_000_000), 6_000_000, 0, rates, 64).warnings == ()


def test_all_that_small_shards_lead_to_has_one_advice():
    found = sizing.size(config(images_per_shard=16), 10**7, 0, sizing.Rates(100, 1e5, 25e3), 8).warnings
    assert [warning.partition("; ")[2] for warning in found] == ["set images_per_shard to 60"] * 2


SECONDS = {"seconds_decode": 8.0, "seconds_forward": 5.0, "seconds_crf": 2.0, "seconds_encode": 4.0}


@pytest.mark.parametrize(
    ("cpus", "gpus", "decode", "expected"),
    [
        (1, 0, "actor", 2 + 5 + 12),
        (4, 0, "actor", 2 + 5 + 12 / 4),
        (4, 0, "tasks", 2 + 5 + 4 / 4),
        (1, 1, "actor", (2 + 12) / 0.9),  # the cores are slower than the GPU
        (4, 1, "actor", (2 + 5) / 0.9),
        (1, 1, "tasks", (2 + 5) / 0.9),
    ],
)
def test_stages_take_turns_on_a_cpu_and_a_gpu_works_beside_its_cores(cpus, gpus, decode, expected):
    cfg = config(cpus_per_actor=cpus, gpus_per_actor=gpus, decode=decode)
    assert estimate.working_s(SECONDS, cfg) == pytest.approx(expected)


def test_rates_are_those_of_a_finished_run(tmp_path):
    run = make_run(
        str(tmp_path / "run"), [Drawn("a", "01", label="01"), Drawn("b", "11", label="01"), Drawn("c", None)]
    )
    rates = estimate.measured(run)
    assert rates.images_per_s == pytest.approx(1)  # one core: 0.25 s of decoding, 0.5 of the model, 0.25 of encoding
    parts = storage.list_files(storage.join(run, "masks"))
    assert rates.mask_bytes == parts[0].bytes / 2


def test_a_run_of_many_parts_is_sampled(tmp_path):
    count = estimate.SAMPLE_PARTS + 2
    run = make_run(str(tmp_path / "run"), [Drawn(f"{n:03d}", "01") for n in range(count)], images_per_shard=1)
    storage.delete(storage.join(run, "masks/part-00001.parquet"))  # every other one is read
    assert estimate.measured(run).images_per_s == pytest.approx(1)
    storage.delete(storage.join(run, "masks/part-00002.parquet"))
    with pytest.raises(ValueError, match=r"part-00002\.parquet is gone"):
        estimate.measured(run)


def test_masks_are_not_read_for_rates(tmp_path):
    rng = random.Random(0)
    noise = "/".join("".join(rng.choices("0123456789", k=1000)) for _ in range(1000))
    run = make_run(str(tmp_path / "run"), [Drawn("a", noise), Drawn("b", noise)])
    [part] = storage.list_files(storage.join(run, "masks"))
    estimate.measured(run)  # what is loaded once is read here
    before = bytes_read()
    estimate.measured(run)
    assert 0 < bytes_read() - before < part.bytes / 4


def bytes_read() -> int:
    """By this process so far."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_a_rate_of_other_settings_is_pointed_out(tmp_path):
    run = make_run(str(tmp_path / "run"), [Drawn("a", "01")])
    cfg = parse(SegmentConfig, json.loads(storage.read(f"{run}/run.json"))["config"], where="run")
    assert estimate.unlike(run, cfg.model_copy(update={"output": "elsewhere", "actors": 8})) == []
    [warning] = estimate.unlike(run, cfg.model_copy(update={"cpus_per_actor": 4}))
    assert "cpus_per_actor: 1, now 4" in warning


def test_a_run_that_is_not_finished_has_no_rates(tmp_path):
    run = make_run(str(tmp_path / "run"), [Drawn("a", "01")], finish=False)
    with pytest.raises(ValueError, match="is not finished"):
        estimate.measured(run)


@pytest.mark.parametrize(("images", "rate", "devices"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_number_that_is_not_above_0_is_named(images, rate, devices):
    with pytest.raises(ValueError, match="must be above 0"):
        sizing.size(config(), images, 0, sizing.Rates(rate, 1, 1), devices)


def test_a_corpus_is_counted_by_planning_it(scenes, tmp_path):
    images, labels = scenes
    cfg = config(corpus={"images": images, "labels": labels, "layout": "cityscapes"}, output=str(tmp_path / "new"))
    found = estimate.estimate(cfg, rate=1.0)
    listing = found.listing
    assert (listing.images, listing.labelled, listing.objects, sizing.objects_of(cfg, 6)) == (6, 6, 0, 0)
    assert 1_000 < listing.bytes / 6 < 100_000
    folder = f"{make_run(str(tmp_path / 'run'), [Drawn('a', '01'), Drawn('b', '01')])}-corpus"
    loose = {"corpus": {"images": folder, "layout": "pairs", "image_glob": "*.png"}, "split": None}
    found = estimate.estimate(config(**loose, output=str(tmp_path / "new")), rate=1.0)
    sizes = [file.bytes for file in storage.list_files(folder)]
    assert (found.listing.images, found.listing.bytes, found.listing.objects) == (2, sum(sizes), 2)
    assert (found.sizing.read_bytes, found.sizing.written_bytes) == (sum(sizes), 2 * sizing.MASK_BYTES)
    assert found.sizing.lists > sizing.size(config(**loose), 2, 0, found.rates, 2).lists
    assert sizing.objects_of(config(**loose), 2) == 2


def test_the_guides_table_is_what_is_computed():
    rows = [
        line.strip("| ").split(" | ")
        for line in GUIDE.read_text().splitlines()
        if line.startswith("| ") and " GB |" in line
    ]
    assert len(rows) == 8
    for images, rate, devices, per_shard, *written in rows:
        cfg = config(
            images_per_shard=int(per_shard), corpus={"images": "s3://bucket/corpus.zip", "layout": "cityscapes"}
        )
        count = int(images.replace(",", ""))
        image_bytes = 2.4e6 if count <= 150_000 else 0.3e6
        found = sizing.size(cfg, count, 0, sizing.Rates(float(rate), image_bytes, 30e3), int(devices))
        assert written == [
            f"{found.hours:.1f}",
            f"{found.device_hours:.0f}",
            f"{found.shards:,}",
            f"{found.read_bytes / 1e9:,.0f} GB",
            f"{found.written_bytes / 1e9:,.1f} GB",
        ]
