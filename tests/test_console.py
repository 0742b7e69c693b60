"""What users read before a run starts, while it runs, and at its end."""

import io
import os
import re
import time
from collections import Counter

import pytest
from rich.console import Console

from pipeline import storage
from pipeline.cli import cli_output, console
from pipeline.cluster import connection
from pipeline.cluster.phases import PHASES
from pipeline.config import SegmentConfig, parse
from pipeline.corpus import list_items, plan_shards
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.runs import SECONDS, Run
from pipeline.segment.driver import Progress, Segmented, identity
from pipeline.segment.estimate import estimate
from pipeline.segment.shard import ShardSegmenter
from pipeline.segment.sizing import Prices
from tests.cluster_configs import segment_values
from tests.small_run import Drawn, make_run


@pytest.fixture
def printed(monkeypatch):
    """What the console prints, as a pipe would get it."""
    file = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=file, width=200, highlight=False, markup=False))
    return lambda: file.getvalue().splitlines()


def shard(images, rejects=(), **seconds):
    spent = dict.fromkeys(SECONDS, 0.0) | {f"seconds_{name}": value for name, value in seconds.items()}
    return {"images": images, "rejects": list(rejects), "began": time.time() - 10, **spent}


def test_a_pipe_gets_the_first_news_at_once_then_a_line_now_and_then_and_the_last(printed, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_EVERY_S", 0.1)
    monkeypatch.setattr(console, "SILENT_S", 0.2)
    progress = Progress(images=12, done=4)
    with console.segmenting("segmenting") as show:
        PHASES.info("loading %s", "weights")
        while len(printed()) < 2:
            time.sleep(0.05)
        show(progress)  # nothing is answered yet
        progress.unfinished = 1
        show(progress)
        progress.unfinished = 0
        progress.add(shard(4, ["truncated"], decode=1, forward=6, encode=1))
        show(progress)
        deadline = time.monotonic() + 60
        while len(printed()) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        progress.add(shard(4, ["truncated", "empty"], decode=1, forward=6, encode=1))
        show(progress)
    lines = printed()
    assert lines[0] == "segmenting: loading weights"
    waited = sum(line.startswith("segmenting: loading weights (0:0") for line in lines)
    assert waited
    first, second, third = lines[1 + waited : 4 + waited]
    assert first == "segmenting: 5/12 images · 4 of them kept · 0.0 images/s · ETA – · no rejects"
    assert second.startswith("segmenting: 8/12 images · ") and second == third  # nothing new, and still a line
    assert re.fullmatch(
        r"segmenting: 12/12 images · [\d.]+ images/s · ETA 0:00 · 3 rejects \(2 truncated, 1 empty\) · "
        r"decode 12 %, forward 75 %, encode 12 %",
        lines[-1],
    )


def test_a_narrow_terminal_still_shows_how_far_the_run_is_and_why(monkeypatch):
    file = io.StringIO()
    terminal = Console(file=file, width=80, force_terminal=True, color_system=None, highlight=False, markup=False)
    monkeypatch.setattr(console, "console", terminal)
    progress = Progress(images=101, done=40)
    progress.add(shard(8, ["truncated", "empty"], decode=1, forward=6, crf=2, encode=1))
    with console.segmenting("segmenting") as show:
        show(progress)
    lines = file.getvalue().splitlines()
    assert any("segmenting" in line and "48/101 images" in line for line in lines)
    assert any("1 truncated" in line for line in lines)
    assert any("encode 10 %" in line for line in lines)  # folded, not cut


def test_the_card_at_the_end_says_what_is_there_how_fast_and_where_to_look(printed):
    progress = Progress(images=12, done=4)
    progress.add(shard(8, ["empty"], decode=1, forward=3))
    done = Segmented("runs/x", 11, {"empty": 1}, answered_now=8, images_per_s=2.5)
    console.print_segmented(console.console, done, progress)
    assert printed() == [
        "  run         runs/x",
        "  images      12: 11 masks, 1 reject (1 empty)",
        "  this start  8 images at 2.50 images/s",
        "  stages      decode 25 %, forward 75 %",
        "  next        maskmill evaluate runs/x --report",
        "              maskmill retry-rejects runs/x, once the images are repaired",
    ]
    console.print_segmented(console.console, Segmented("runs/x", 12, {}, 0, 0.0), None)
    assert "  this start  nothing was left to do" in printed()[6:]


def test_what_comes_next_is_what_this_run_can_be_asked(printed, monkeypatch):
    def told(**values):
        before, plain = (
            len(printed()),
            {"run": "my runs/x", "rows": 3, "rejects": {}, "answered_now": 0, "images_per_s": 0.0},
        )
        console.print_segmented(console.console, Segmented(**plain | values), None)
        return [line.removeprefix("  next").strip() for line in printed()[before + 3 :]]

    assert told() == ["maskmill evaluate 'my runs/x' --report"]
    unlabelled = ["maskmill areas 'my runs/x'", "maskmill export 'my runs/x' --format png --out DIR"]
    assert told(labelled=False) == unlabelled
    assert told(rows=0, rejects={"empty": 3}) == ["maskmill status 'my runs/x'", "my runs/x/rejects"]
    monkeypatch.setattr(cli_output, "quiet", True)
    assert told() == []


def test_with_quiet_nothing_is_shown_of_the_way(printed, monkeypatch):
    monkeypatch.setattr(cli_output, "quiet", True)
    with console.counting("checking") as show:
        show(1, 2)
    console.hint("maskmill report x")
    assert printed() == []


def config(scenes, checkpoint, output, **changes):
    values = segment_values("s3://bucket") | {
        "corpus": {"images": scenes[0], "labels": scenes[1], "layout": "cityscapes"},
        "checkpoint": checkpoint, "output": output, "predict": {}, "images_per_shard": 4,
    }  # fmt: skip
    return parse(SegmentConfig, values | changes, where="test")


def test_a_dry_run_plans_and_estimates_and_writes_nothing(printed, scenes, tiny_checkpoint, tmp_path):
    cfg = config(scenes, tiny_checkpoint, str(tmp_path / "run"))
    found = estimate(cfg, starting=True)
    listing = found.listing
    assert (listing.images, listing.labelled, len(listing.shard_images), listing.splits) == (6, 6, 2, {"val": 6})
    assert found.done is None
    assert found.sample.images == 4
    assert found.sample.rejects == Counter()
    assert found.sample.seconds["seconds_forward"] > 0
    assert found.sample.memory_bytes > 100e6  # torch alone is more
    assert found.sizing.hours * 3600 > 6 / (2 * found.rates.images_per_s)
    console.print_estimate(console.console, found, Prices(), cfg.actors)
    lines = printed()
    assert lines[0].startswith("plan: 6 images (val 6), 6 with a label, ")
    assert lines[-1] == "nothing was written"
    assert [line.split(":")[0] for line in lines[1:6]] == ["output", "engine", "memory", "sample", "time"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_takes_another_runs_rates(scenes, tiny_checkpoint, tmp_path):
    like = make_run(str(tmp_path / "like"), [Drawn("a", "01"), Drawn("b", "11")])
    found = estimate(config(scenes, tiny_checkpoint, str(tmp_path / "run")), like=like, starting=True)
    assert found.sample is None
    assert found.rates.images_per_s == pytest.approx(1)  # one core: a quarter, a half and a quarter of a second
    assert not storage.exists(str(tmp_path / "run"))


def test_a_dry_run_refuses_a_package_that_the_run_would_lack(scenes, tiny_checkpoint, tmp_path, monkeypatch):
    def missing():
        raise UserError("polygons of regions need shapely")

    like = make_run(str(tmp_path / "like"), [Drawn("a", "01")])
    monkeypatch.setattr("pipeline.segment.driver.require_shapely", missing)
    cfg = config(scenes, tiny_checkpoint, str(tmp_path / "run"), regions={"polygons": 0})
    with pytest.raises(UserError, match="need shapely"):
        estimate(cfg, like=like, starting=True)


def test_a_dry_run_of_a_begun_run_tells_what_is_left_and_refuses_other_settings(scenes, tiny_checkpoint, tmp_path):
    cfg = config(scenes, tiny_checkpoint, str(tmp_path / "run"))
    ready = checkpoint.load(tiny_checkpoint)
    plan = plan_shards(list_items(cfg.corpus, cfg.split), cfg.images_per_shard, cfg.bytes_per_shard)
    described = cfg.model_dump(mode="json")
    run = Run.open_or_create(cfg.output, identity(cfg, ready), described, ready.label_space, lambda: plan)
    run.commit(1, *ShardSegmenter(ready, cfg).answer(run.shard_items(1)))
    before = {file.uri: file.bytes for file in storage.list_files(cfg.output)}
    found = estimate(cfg)
    assert (found.listing.images, found.done, found.pending_shards, found.sizing.images) == (6, 2, 1, 4)
    with pytest.raises(ValueError, match=r"images_per_shard: 4, now 2.*choose another output"):
        estimate(config(scenes, tiny_checkpoint, cfg.output, images_per_shard=2))
    assert {file.uri: file.bytes for file in storage.list_files(cfg.output)} == before


def test_log_lines_of_ray_s_start_are_kept_off_stderr_and_other_lines_are_not(capfd):
    with connection._without_log_lines():
        os.write(
            2, b"[2026-11-27 18:53:06,146 I 29629 29629] logging.cc:303: Set ray log level from environment variable\n"
        )
        os.write(2, b"[2026-11-27 18:53:07,001 W 29629 29640] core_worker.cc:2211: Actor with max_restarts\n")
        os.write(2, b"stopping: running work is being shut down\n[not a log line\nlast")
    os.write(2, b" words\n")
    assert capfd.readouterr().err == "stopping: running work is being shut down\n[not a log line\nlast words\n"
