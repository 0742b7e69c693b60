"""`maskmill plan`: what is counted equals hand arithmetic, what is measured comes from a run's own parts."""

from pathlib import Path

import pytest

from pipeline import sizing, storage
from pipeline.config import SegmentConfig, parse
from tests.cluster_configs import segment_values
from tests.small_run import Drawn, make_run

GUIDE = Path(__file__).parent.parent / "infra" / "README.md"


def config(**changes):
    return parse(SegmentConfig, segment_values("s3://bucket") | {"images_per_shard": 64} | changes, where="test")


def test_hours_parts_and_requests_follow_from_the_rate():
    found = sizing.size(config(), 640_000, 0, sizing.Rates(10, 2e6, 25e3), 20)
    assert found.shards == found.images // 64 == 10_000
    working_h = 640_000 / (10 * 20) / 3600
    finish_h = (10_000 * 0.04 + 640_000 * 25e3 / 200e6) / 3600
    assert found.hours == pytest.approx(640_000 * 40e-6 / 3600 + 60 / 3600 + working_h + finish_h)
    assert found.device_hours == pytest.approx((working_h + 60 / 3600) * 20)
    assert found.parts_per_s == pytest.approx(200 / 64)
    assert found.read_bytes == 1.28e12
    assert found.gets == 2 * 640_000 + 2 * 10_000 + 2 * 20  # image and label; footer and whole part; plan and weights
    assert found.warnings == ()


def test_the_cost_is_devices_and_requests_and_a_month_of_masks():
    found = sizing.size(config(), 64_000, 0, sizing.Rates(10, 1e6, 25e3), 1)
    cost = found.cost(device_hour=3, million_gets=0.4, thousand_puts=0.005, gb_month=0.02)
    requests = found.gets * 0.4e-6 + (found.puts + found.lists) * 0.005e-3
    assert cost == pytest.approx(found.device_hours * 3 + requests + 1.6 * 0.02)


def test_what_will_not_scale_is_said_with_what_to_do():
    huge = sizing.size(config(), 10**8, 10**8, sizing.Rates(100, 3e5, 25e3), 64)
    assert any("set images_per_shard to 1112" in warning for warning in huge.warnings)
    assert any("23 GB" in warning or "22 GB" in warning for warning in huge.warnings)
    assert any("into 6 runs" in warning for warning in huge.warnings)
    small = sizing.size(config(), 640, 0, sizing.Rates(10, 1e6, 25e3), 8)
    assert any("set images_per_shard to 10" in warning for warning in small.warnings)


def test_rates_are_those_of_a_finished_run(tmp_path):
    run = make_run(str(tmp_path / "run"), [Drawn("a", "01", label="01"), Drawn("b", "11", label="01")])
    rates = sizing.measured(run)
    # decode 0.25 s in two threads, forward 0.5 s, encode 0.25 s beside each other: the model sets the pace.
    assert rates.images_per_s == pytest.approx(0.9 / 0.5)
    parts = storage.list_files(storage.join(run, "masks"))
    assert rates.mask_bytes == sum(part.bytes for part in parts) / 2


def test_a_run_that_is_not_finished_has_no_rates(tmp_path):
    run = make_run(str(tmp_path / "run"), [Drawn("a", "01")], finish=False)
    with pytest.raises(ValueError, match="is not finished"):
        sizing.measured(run)


@pytest.mark.parametrize(("images", "rate", "devices"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_number_that_is_not_above_0_is_named(images, rate, devices):
    with pytest.raises(ValueError, match="must be above 0"):
        sizing.size(config(), images, 0, sizing.Rates(rate, 1, 1), devices)


def test_a_corpus_is_counted_by_listing_it(scenes):
    images, labels = scenes
    cfg = config(corpus={"images": images, "labels": labels, "layout": "cityscapes"})
    count, mean_bytes, listed = sizing.corpus(cfg)
    assert (count, listed) == (6, 0)
    assert 1_000 < mean_bytes < 100_000


def test_the_guides_table_is_what_plan_computes():
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
