"""The whole way from zips to Parquet, on a real Ray: exactly once, resumed, refused, and read by other programs."""

import itertools
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.config import MetricsConfig, SegmentConfig, parse
from pipeline.corpus import list_items
from pipeline.errors import UserError
from pipeline.imaging.mask_png import decode_mask
from pipeline.metrics.boundary import count_boundary
from pipeline.metrics.instances import count_instances
from pipeline.models import checkpoint
from pipeline.runs import SECONDS, Run, mask_schema, verify
from pipeline.segment.driver import segment
from pipeline.segment.on_ray import OnRay
from pipeline.segment.progress import Progress
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.scenes import write_corpus
from tests.command import maskmill

WITHOUT_SECONDS = [name for name in mask_schema(19).names if name not in SECONDS]
CRF = {"iterations": 2, "smooth_weight": 1, "smooth_px": 1, "colour_weight": 1, "colour_px": 8, "colour_levels": 10}


def config(images, labels, checkpoint_uri, output, **changes) -> SegmentConfig:
    values = {
        "corpus": {"images": str(images), "labels": str(labels), "layout": "cityscapes"},
        "checkpoint": checkpoint_uri,
        "output": str(output),
        "crf": CRF,
        "images_per_shard": 4,
        "max_reject_rate": 0,
        "batch_size": 2,
        "actors": 2,
        "cpus_per_actor": 1,
    }
    return parse(SegmentConfig, values | changes, where="test")


@pytest.fixture(scope="module")
def finished(ray_session, scenes, tiny_checkpoint, tmp_path_factory):
    """A finished run over 14 scenes in 4 shards, and its config."""
    cfg = config(*scenes, tiny_checkpoint, tmp_path_factory.mktemp("finished") / "run")
    segment(cfg)
    return cfg


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run that a test may spoil."""
    shutil.copytree(finished.output, tmp_path / "run")
    return finished.model_copy(update={"output": str(tmp_path / "run")})


def rows(output, columns=None):
    return pq.read_table(f"{output}/masks", columns=columns).to_pylist()


def test_every_image_is_answered_once_with_a_mask_of_its_size(finished):
    proof = verify(finished.output)
    assert (proof.images, proof.masks, proof.rejects, proof.problems) == (14, 14, 0, [])
    ids = [item.image_id for item in list_items(finished.corpus, None)]
    answered = rows(finished.output, ["image_id", "height", "width", "mask", "city", "frame"])
    assert [row["image_id"] for row in answered] == ids
    assert {(row["height"], row["width"]) for row in answered} == {(64, 128)}
    assert answered[-1]["mask"]["path"] == ids[-1] + ".png"
    assert (answered[-1]["city"], answered[-1]["frame"]) == ("dunmere", 10)


def test_counts_equal_cityscapesscripts_integer_for_integer(finished, tmp_path):
    """The official program reads our masks, written as labelIds, beside the labels of the corpus."""
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    view = open_run(finished.output)
    predictions, truths = [], []
    with zipfile.ZipFile(finished.corpus.labels) as archive:
        archive.extractall(tmp_path)
    for row in rows(finished.output, ["image_id", "mask"]):
        prediction = tmp_path / f"{row['image_id'].replace('/', '-')}.png"
        Image.fromarray(view.space.to_stored(decode_mask(row["mask"]["bytes"]))).save(prediction)
        predictions.append(str(prediction))
        truths.append(str(tmp_path / "gtFine" / f"{row['image_id']}_gtFine_labelIds.png"))
    args = official.args
    args.evalInstLevelScore = args.evalPixelAccuracy = args.JSONOutput = False
    args.quiet = True
    theirs = official.generateMatrix(args)
    stats = official.generateInstanceStats(args)
    for prediction, truth in zip(predictions, truths, strict=True):
        official.evaluatePair(prediction, truth, theirs, stats, {}, args)
    ids = list(view.space.stored_ids)
    assert view.confusion().tolist() == theirs[np.ix_(ids, ids)].tolist()
    assert view.confusion().sum() > 50_000


def test_running_again_recomputes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in _parts(run)}
    again = segment(run)
    assert (again.answered_now, again.rows) == (0, 14)
    assert {path: path.stat().st_mtime_ns for path in _parts(run)} == before


def test_a_changed_crf_weight_is_refused_and_named(run):
    changed = run.model_copy(update={"crf": run.crf.model_copy(update={"colour_weight": 9.0})})
    with pytest.raises(ValueError, match=r"crf\.colour_weight: 1\.0, now 9\.0"):
        segment(changed)


def test_machine_side_knobs_may_change_between_starts(run):
    assert segment(run.model_copy(update={"actors": 1, "batch_size": 1, "cpus_per_actor": 2})).answered_now == 0


@pytest.mark.slow
def test_after_a_deleted_part_only_its_shard_is_redone_with_the_same_answer(run):
    before = rows(run.output, WITHOUT_SECONDS)
    untouched = {path: path.stat().st_mtime_ns for path in _parts(run) if path.name != "part-00002.parquet"}
    storage.delete(f"{run.output}/masks/part-00002.parquet")
    again = segment(run)
    assert (again.answered_now, again.rows) == (4, 14)
    assert {path: path.stat().st_mtime_ns for path in _parts(run) if path.name != "part-00002.parquet"} == untouched
    assert rows(run.output, WITHOUT_SECONDS) == before
    assert verify(run.output).problems == []


@pytest.mark.slow
def test_decoding_in_tasks_gives_the_same_rows(finished, tmp_path):
    """Pictures come from tasks of their own, through the object store."""
    cfg = finished.model_copy(update={"output": str(tmp_path / "run"), "decode": "tasks"})
    segment(cfg)
    assert rows(cfg.output, WITHOUT_SECONDS) == rows(finished.output, WITHOUT_SECONDS)
    assert min(row["seconds_decode"] for row in rows(cfg.output, ["seconds_decode"])) > 0
    assert list((tmp_path / "run/attempts").glob("*")) == []


@pytest.mark.slow
def test_a_bad_picture_in_a_decoding_task_is_a_reject_and_a_deadly_shard_is_left_to_children(
    ray_session, tiny_checkpoint, tmp_path
):
    images, labels = write_corpus(str(tmp_path / "corpus"), {"val": 4}, 64, 128, seed=1, packed=False)
    (broken, *_) = sorted((tmp_path / "corpus/leftImg8bit").rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:-200])
    cfg = config(images, labels, tiny_checkpoint, tmp_path / "run", max_reject_rate=1, images_per_shard=2, decode="tasks",
                 actors=1, crf=None)  # fmt: skip
    mark = tmp_path / "run/attempts/decode-00001"
    mark.parent.mkdir(parents=True)
    mark.write_text("what a task leaves that died")
    assert segment(cfg).rejects == {"truncated": 1}
    assert (verify(cfg.output).problems, verify(cfg.output).masks) == ([], 3)
    assert not mark.exists()


@pytest.mark.slow
def test_a_shard_that_killed_its_worker_is_answered_in_children_with_the_same_rows(run):
    """What a dead worker leaves behind: its attempt's mark, and no part."""
    before = rows(run.output, WITHOUT_SECONDS)
    (Path(run.output) / "masks/part-00002.parquet").unlink()
    mark = Path(run.output) / "attempts/shard-00002"
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("an hour ago")
    assert segment(run).answered_now == 4
    assert rows(run.output, WITHOUT_SECONDS) == before
    assert not mark.exists()
    assert verify(run.output).problems == []


@pytest.mark.slow
@pytest.mark.scorecard("fault", 29)
def test_the_part_of_another_run_is_refused_by_name_and_made_again_once_it_is_deleted(run, tmp_path):
    """Begun with another CRF weight, over the same images: it would pass for this run's by all but its fingerprint."""
    crf = run.crf.model_copy(update={"colour_weight": 9.0})
    other = run.model_copy(update={"crf": crf, "output": str(tmp_path / "other")})
    segment(other)
    before = rows(run.output, WITHOUT_SECONDS)
    (Path(run.output) / "_SUCCESS.json").unlink()
    (Path(run.output) / "masks/part-00002.parquet").unlink()
    alien = Path(shutil.copy(f"{other.output}/masks/part-00001.parquet", f"{run.output}/masks/part-00001.parquet"))
    names = [Run.open(uri).fingerprint[:12] for uri in (other.output, run.output)]
    with pytest.raises(
        UserError, match=rf"masks/part-00001\.parquet is a part of another run .*{names[0]}.*{names[1]}"
    ):
        segment(run)
    assert any("part-00001.parquet is a part of another run" in problem for problem in verify(run.output).problems)
    alien.unlink()
    assert segment(run).answered_now == 8
    assert rows(run.output, WITHOUT_SECONDS) == before
    assert verify(run.output).problems == []


@pytest.mark.slow
def test_a_task_of_many_shards_goes_on_where_its_worker_died(run, monkeypatch):
    """The first shard's part is there, the mark of the second too: the task that held both is tried again."""
    before = rows(run.output, WITHOUT_SECONDS)
    (Path(run.output) / "_SUCCESS.json").unlink()
    for shard in (1, 2, 3):
        (Path(run.output) / f"masks/part-{shard:05d}.parquet").unlink()
    cfg, kept = run.model_copy(update={"actors": 1}), Path(run.output) / "masks/part-00000.parquet"
    written, mark = kept.stat().st_mtime_ns, Path(run.output) / "attempts/shard-00001"
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("of the dead worker")
    monkeypatch.setattr("pipeline.segment.actor.TASKS", 1)
    monkeypatch.setattr("pipeline.segment.actor.TASKS_AN_ACTOR", 1)
    summaries = list(OnRay(cfg, Run.open(cfg.output), Progress(14, 0)).summaries([0, 1, 2, 3]))
    assert [row["shard"] for row in summaries] == [0, 1, 2, 3]
    assert [row["images"] for row in summaries] == [4, 4, 4, 2]
    assert [row["seconds_forward"] > 0 for row in summaries] == [False, True, True, True]
    assert kept.stat().st_mtime_ns == written
    assert segment(run).answered_now == 0
    assert rows(run.output, WITHOUT_SECONDS) == before
    assert verify(run.output).problems == []


@pytest.mark.slow
def test_retried_rejects_are_answered_once_they_are_mended(ray_session, scenes, tiny_checkpoint, tmp_path):
    images, labels = write_corpus(str(tmp_path / "corpus"), {"val": 6}, 64, 128, seed=1, packed=False)
    (broken, *_) = sorted((tmp_path / "corpus/leftImg8bit").rglob("*.png"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-200])
    cfg = config(images, labels, tiny_checkpoint, tmp_path / "run", max_reject_rate=1)
    assert segment(cfg).rejects == {"truncated": 1}
    broken.write_bytes(whole)
    assert segment(cfg).answered_now == 0  # a finished run stays as it is until it is told to try again
    assert Run.open(cfg.output).withdraw_rejects() == {0: 1}
    assert not (tmp_path / "run/_SUCCESS.json").exists()
    assert (status := maskmill("status", cfg.output)).returncode == 0
    assert (
        "2 of 6 images answered, 1 shards pending; not finished and not running; to resume it: maskmill resume"
        in status.stdout
    )
    done = segment(cfg)
    assert (done.rows, done.rejects, done.answered_now) == (6, {}, 4)
    assert "6 of 6 images answered, 0 shards pending; finished" in maskmill("status", cfg.output).stdout
    assert verify(cfg.output).problems == []
    assert list((tmp_path / "run/rejects").glob("*.parquet")) == []


@pytest.mark.slow
def test_bad_files_become_rejects_with_reasons_and_their_neighbours_are_unharmed(
    ray_session, tiny_checkpoint, tmp_path
):
    write_corpus(str(tmp_path / "good"), {"val": 6}, 64, 128, seed=3, packed=False)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    images = sorted((tmp_path / "bad/leftImg8bit").rglob("*.png"))
    labels = sorted((tmp_path / "bad/gtFine").rglob("*.png"))
    images[0].write_bytes(images[0].read_bytes()[:3000])
    images[1].write_bytes(b"")
    Image.fromarray(np.zeros((32, 128), np.uint8)).save(labels[2])
    Image.fromarray(np.full((64, 128), 77, np.uint8)).save(labels[3])
    good = config(tmp_path / "good", tmp_path / "good", tiny_checkpoint, tmp_path / "run-good", images_per_shard=6)
    bad = config(tmp_path / "bad", tmp_path / "bad", tiny_checkpoint, tmp_path / "run-bad", images_per_shard=6,
                 max_reject_rate=0.9)  # fmt: skip
    segment(good)
    done = segment(bad)
    assert done.rejects == {"truncated": 1, "empty": 1, "label_size": 1, "label_out_of_range": 1}
    rejects = {row["image_id"]: row for row in pq.read_table(f"{bad.output}/rejects").to_pylist()}
    assert [row["stage"] for _, row in sorted(rejects.items())] == ["decode", "decode", "label", "label"]
    assert "label id 77 is outside cityscapes19" in rejects["val/dunmere/dunmere_000000_000030"]["message"]
    assert verify(bad.output).problems == []
    survivors = {row["image_id"]: row["mask"]["bytes"] for row in rows(bad.output)}
    originals = {row["image_id"]: row["mask"]["bytes"] for row in rows(good.output)}
    assert survivors == {key: originals[key] for key in list(originals)[4:]}

    strict = bad.model_copy(update={"max_reject_rate": 0.1})
    storage.delete(f"{bad.output}/_SUCCESS.json")
    with pytest.raises(ValueError, match="4 of 6 images were rejected"):
        segment(strict)


@pytest.mark.scorecard("fault", 23)
def test_scores_that_are_not_finite_reject_their_image_alone(scenes, tiny_checkpoint, tmp_path):
    cfg = config(*scenes, tiny_checkpoint, tmp_path)
    segmenter = ShardSegmenter(checkpoint.load(tiny_checkpoint), cfg)
    real, images = segmenter.predictor.model.forward, itertools.count()

    def forward(x):
        logits = real(x)[-1].clone()
        for scores in logits:
            if next(images) % 2 == 0:
                scores[3, 5, 7] = float("nan")
        return [logits]

    segmenter.predictor.model.forward = forward
    masks, rejects = segmenter.answer(list_items(cfg.corpus, "val")[:4])
    assert (masks.num_rows, rejects["error"].to_pylist()) == (2, ["scores_not_finite"] * 2)


@pytest.mark.slow
def test_the_same_run_from_and_to_an_s3_server_gives_the_same_masks(ray_session, s3, tiny_checkpoint, finished):
    images, labels = write_corpus(storage.join(s3, "segment"), {"train": 8, "val": 6}, 64, 128, seed=1)
    cfg = config(images, labels, tiny_checkpoint, storage.join(s3, "segment/run"))
    segment(cfg)
    assert verify(cfg.output).problems == []
    view, local = open_run(cfg.output), open_run(finished.output)
    assert view.confusion().tolist() == local.confusion().tolist()
    assert view.areas(by=["city"]).to_dict() == local.areas(by=["city"]).to_dict()
    segment(cfg)


def test_a_cluster_that_is_too_small_is_told_so_at_once(ray_session, scenes, tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"need 64 CPUs \(1 x 64\) and the cluster has 4"):
        segment(config(*scenes, tiny_checkpoint, tmp_path, cpus_per_actor=64))


OTHER_PROGRAMS = {
    "duckdb": """
import duckdb
print([int(n) for n in duckdb.sql(
    f"select sum(n) from (select unnest(pixels) n, generate_subscripts(pixels, 1) c from '{run}/masks/part-*.parquet') "
    "group by c order by c").fetchnumpy()["sum(n)"]])
""",
    "polars": """
import polars
frame = polars.scan_parquet(f"{run}/masks/part-*.parquet").select("pixels").collect()
print([int(frame["pixels"].arr.get(c).sum()) for c in range(19)])
""",
    "pillow": """
import io, glob, numpy, pyarrow.parquet as pq
from PIL import Image
counts = numpy.zeros(19, int)
for path in glob.glob(f"{run}/masks/part-*.parquet"):
    for mask in pq.read_table(path, columns=["mask"])["mask"].to_pylist():
        counts += numpy.bincount(numpy.asarray(Image.open(io.BytesIO(mask["bytes"]))).ravel(), minlength=19)
print(counts.tolist())
""",
}


@pytest.mark.parametrize("program", OTHER_PROGRAMS)
def test_other_programs_read_the_masks_without_this_package(finished, program):
    code = f"import sys; run = {finished.output!r}\n{OTHER_PROGRAMS[program]}\nassert 'pipeline' not in sys.modules"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    view = open_run(finished.output)
    assert eval(done.stdout) == view.areas().loc["all", list(view.space.classes)].tolist()


def _parts(cfg):
    from pathlib import Path

    return sorted(Path(cfg.output).rglob("part-*.parquet"))


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_keeps_the_counts_it_was_asked_for(packed, tiny_checkpoint, tmp_path):
    """Boundary, instance and confidence counts of a shard, from instanceIds beside labels in a folder and in a zip."""
    write_corpus(str(tmp_path / "corpus"), {"val": 2}, 64, 128, seed=5, packed=False)
    things = {}
    for path in sorted((tmp_path / "corpus/gtFine").rglob("*_labelIds.png")):
        label = np.asarray(Image.open(path)).astype(np.uint16)
        things[path.name] = np.where((label >= 24) & (label <= 33), label * 1000 + np.arange(128) // 8, label)
        Image.fromarray(things[path.name].astype(np.uint16)).save(str(path).replace("labelIds", "instanceIds"))
    if packed:
        with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
            for path in sorted((tmp_path / "corpus").rglob("*.png")):
                archive.write(path, path.relative_to(tmp_path / "corpus"))
    corpus = tmp_path / ("corpus.zip" if packed else "corpus")
    wanted = {"boundary_px": [2, 4], "instances": True, "calibration_bins": 10}
    cfg = config(corpus, corpus, tiny_checkpoint, tmp_path / "run", metrics=wanted)
    items = list_items(cfg.corpus, None)
    assert len(items) == 2
    ready = checkpoint.load(tiny_checkpoint)
    for row, name in zip(ShardSegmenter(ready, cfg).answer(items)[0].to_pylist(), sorted(things), strict=True):
        mask = decode_mask(row["mask"]["bytes"])
        stored = np.asarray(Image.open(tmp_path / "corpus/gtFine/val/dunmere" / name))
        label = ready.label_space.to_train(stored, name)
        assert row["boundary"] == count_boundary(label, mask, 19, (2, 4)).ravel().tolist()
        assert row["boundary_raw"] is not None
        assert row["instances"] == count_instances(things[name], mask, ready.label_space).ravel().tolist()
        pixels, right, _ = np.reshape(row["calibration"], (3, 10))
        assert (pixels.sum(), right.sum()) == ((label != 255).sum(), (label == mask).sum())
    off = ShardSegmenter(ready, cfg.model_copy(update={"metrics": MetricsConfig()})).answer(items)[0]
    assert [off[name].null_count for name in ("boundary", "boundary_raw", "instances", "calibration")] == [2] * 4


def test_instances_that_are_missing_reject_the_image_with_a_reason(tiny_checkpoint, scenes, tmp_path):
    cfg = config(*scenes, tiny_checkpoint, tmp_path / "run", metrics={"instances": True})
    _, rejects = ShardSegmenter(checkpoint.load(tiny_checkpoint), cfg).answer(list_items(cfg.corpus, "val")[:1])
    assert rejects["error"].to_pylist() == ["not_found"]
    assert "leave metrics.instances off for this corpus" in rejects["message"][0].as_py()
