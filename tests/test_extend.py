"""A run over a growing archive: changes are found, answered once and published as a generation, even after kills."""

import gzip
import io
import json
import os
import shutil
import tarfile
import time
import uuid
import zipfile
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import orc

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus import plan_shards, scan_items
from pipeline.errors import UserError
from pipeline.runs import Lease, Run, compact, describe, extension, generations, lease, newest_state, verify
from pipeline.runs.changes import Changes, times_written
from pipeline.runs.extension import planned, publish, rejected_ids, stage, staged, tidy
from pipeline.segment import estimate
from pipeline.segment.driver import segment as segment_corpus
from pipeline.segment.extend import extend as extend_run
from tests.command import maskmill
from tests.crash_points import Killed, dying
from tests.ledger_play import rejecting
from tests.test_run import IDENTITY, SPACE

BAD = ("b/003", "b/007")  # rejected whenever they are answered, but for the first once it was mended


@pytest.fixture(autouse=True)
def dead_leases(monkeypatch):
    """The lease of a process that dies here is dead, though this process lives on."""
    monkeypatch.setattr(lease, "EXPIRES_S", -1000.0)
    monkeypatch.setattr(extension, "_THREADS", 1)  # so that steps follow each other


class Archive:
    """A folder of small images with one group, and the run over it."""

    def __init__(self, root: str, images: int) -> None:
        self.images, self.run = f"{root}/images", f"{root}/run"
        self.cfg = CorpusConfig(images=self.images, layout="pairs", image_glob="{sequence}/*.png")
        for number in range(images):
            self.add(f"b/{number:03d}", number)

    def add(self, image_id: str, grey: int) -> None:
        """A new image, or a replaced one: of another size in bytes."""
        picture = np.full((2, 3 + grey, 3), grey, np.uint8)
        storage.put(f"{self.images}/{image_id}.png", _png(picture))

    def remove(self, image_id: str) -> None:
        storage.delete(f"{self.images}/{image_id}.png")

    def change(self) -> None:
        """Three new, two replaced (one of them a reject), two gone (one of them a reject)."""
        for number in range(3):
            self.add(f"c/{number:03d}", 50 + number)
        self.add("b/003", 200)
        self.add("b/005", 201)
        self.remove("b/000")
        self.remove("b/007")


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def segment(archive, images_per_shard=3, rejected=BAD):
    """`maskmill segment`, without a network."""
    config = {"images_per_shard": images_per_shard, "bytes_per_shard": 1 << 40, "crf": {"smooth_weight": 3.0},
              "max_pixels": 10_000, "corpus": archive.cfg.model_dump(mode="json"), "output": archive.run}  # fmt: skip
    with Lease(archive.run) as held:
        run = Run.open_or_create(
            archive.run, IDENTITY, config, SPACE, lambda: plan_shards(scan_items(archive.cfg, None), images_per_shard)
        )
        _answer(run, rejected)
        run.finish(1, held)


def _answer(run, rejected):
    for shard in run.pending():
        run.begin(shard)
        run.commit(shard, *rejecting(rejected)(run.shard_items(shard)))


def extend(archive, rejected=("b/007",), again=False):
    """What pipeline/segment/extend.py does, one shard after the other."""
    with Lease(archive.run) as held:
        info, state = describe(archive.run), newest_state(archive.run)
        tidy(archive.run, state)
        made = staged(archive.run, state)
        if made is None:
            bad = rejected_ids(archive.run, info, state) if again else ()
            known = planned(archive.run, info, state, bad, times_written(archive.images, None))
            made, changes = stage(archive.run, info, state, known, scan_items(archive.cfg, None), lambda changes: None)
            if made is None:
                return changes
        with Lease(made.uri) as its:
            run = Run.open(made.uri)
            _answer(run, rejected)
            if not run.finished():
                run.finish(1, its)
        return publish(made, held)


def answers(uri, generation=None):
    """image id -> how often a reader of `_SUCCESS.json` finds it, and as what."""
    view = open_run(uri, generation)
    masks, rejects = (ids_in(view.parts(kind)) if view.parts(kind) else [] for kind in ("masks", "rejects"))
    assert len(set(masks + rejects)) == len(masks) + len(rejects)
    return dict.fromkeys(masks, "mask") | dict.fromkeys(rejects, "reject")


def globbed(archive):
    """The image ids of whoever reads `masks/part-*.parquet` and `rejects/part-*.parquet`."""
    kinds = ("masks", "rejects")
    return sorted(ids_in(file.uri for kind in kinds for file in storage.list_files(f"{archive.run}/{kind}")))


def ids_in(uris):
    files = (pq.ParquetFile(io.BytesIO(storage.read(uri))) for uri in uris)
    return [image_id for file in files for image_id in file.read(["image_id"])["image_id"].to_pylist()]


@pytest.fixture
def archive(tmp_path):
    made = Archive(str(tmp_path), 10)
    segment(made)
    return made


def test_what_is_new_replaced_and_gone_becomes_a_generation(archive):
    before = answers(archive.run)
    archive.change()
    state = extend(archive)
    last = state.generations[-1]
    assert (last.new, last.replaced, last.gone, last.images) == (3, 2, 2, 11)
    kept = {image_id: kind for image_id, kind in before.items() if image_id not in ("b/000", "b/007")}
    new = {**dict.fromkeys(("c/000", "c/001", "c/002", "b/005", "b/003"), "mask")}
    assert answers(archive.run) == kept | new
    assert globbed(archive) == sorted(kept | new)
    assert answers(archive.run, 1) == before
    assert verify(archive.run).problems == []
    view = open_run(archive.run)
    assert (view.num_images, view.generation) == (11, 2)
    planned_now = [image_id for table in view.plan().tables(["image_id"]) for image_id in table["image_id"].to_pylist()]
    assert sorted(planned_now) == sorted(kept | new)
    assert view.areas().iloc[0]["images"] == 11
    assert set(view.masks(["c/001", "b/005", "b/001"])) == {"c/001", "b/005", "b/001"}
    assert [one.number for one in generations(archive.run)] == [1, 2]


def test_an_unchanged_archive_makes_no_generation(archive):
    assert extend(archive).rows == []
    assert newest_state(archive.run).generations == ()
    assert not storage.list_files(f"{archive.run}/generations")


def test_generations_follow_each_other_and_each_is_proved(archive):
    archive.change()
    extend(archive)
    archive.remove("b/001")
    archive.remove("c/001")  # of the second generation
    extend(archive)  # nothing to answer
    archive.add("b/005", 77)  # replaced once more
    archive.add("d/000", 3)
    archive.add("b/000", 3)  # back again
    state = extend(archive)
    assert [(one.new, one.replaced, one.gone) for one in state.generations] == [(3, 2, 2), (0, 0, 2), (2, 1, 0)]
    expected = {f"b/{number:03d}" for number in (0, 2, 3, 4, 5, 6, 8, 9)} | {"c/000", "c/002", "d/000"}
    assert set(answers(archive.run)) == expected
    assert globbed(archive) == sorted(expected)
    assert [len(answers(archive.run, number)) for number in (1, 2, 3, 4)] == [10, 11, 9, 11]
    assert verify(archive.run).problems == []


def test_rejects_are_answered_again(archive):
    assert list(answers(archive.run).values()).count("reject") == 2
    state = extend(archive, rejected=("b/007",), again=True)
    assert (state.generations[-1].replaced, state.rejects, state.rejects_by_reason) == (2, 1, {"truncated": 1})
    assert verify(archive.run).problems == []
    with pytest.raises(UserError, match="has 2 generations, which retry-rejects cannot take"):
        Run.open(archive.run).withdraw_rejects()


def test_a_compacted_copy_has_the_newest_generation_as_its_first_and_grows_too(archive):
    archive.change()
    extend(archive)
    archive.remove("b/001")
    extend(archive)
    copy = f"{archive.run}-compact"
    done = compact(archive.run, copy, part_bytes=60_000)
    assert (done.rows, done.rejects) == (newest_state(archive.run).rows, newest_state(archive.run).rejects)
    assert answers(copy) == answers(archive.run)
    assert rows_of(copy) == rows_of(archive.run)
    assert [one.number for one in generations(copy)] == [1]
    assert len(open_run(copy).parts("masks")) < len(open_run(archive.run).parts("masks"))
    assert verify(copy).problems == []
    assert compact(archive.run, copy) == done  # again: nothing is left to do
    before, archive.run = answers(archive.run), copy
    archive.remove("c/001")
    archive.add("e/000", 9)
    extend(archive)
    assert answers(copy) == {**{key: kind for key, kind in before.items() if key != "c/001"}, "e/000": "mask"}
    assert verify(copy).problems == []


def test_a_compacted_copy_of_a_run_that_grew_finds_nothing_changed(archive):
    time.sleep(2.1)  # the clocks of stores and of this machine may differ by that
    archive.add("c/000", 50)
    time.sleep(2.1)
    extend(archive)
    copy = f"{archive.run}-compact"
    compact(archive.run, copy)
    archive.run = copy
    assert changes_of(archive).rows == []


def test_a_file_of_the_same_size_is_told_by_the_time_when_it_was_written(archive):
    path = f"{archive.images}/b/004.png"
    os.utime(path, (time.time() + 5, time.time() + 5))
    assert [row[:2] for row in changes_of(archive).rows] == [("b/004", "replaced")]


@pytest.mark.parametrize("scheme", ["file://", "memory://"])
def test_stores_without_etags_are_asked_for_the_time_too(scheme, tmp_path):
    archive = Archive(f"{scheme}{tmp_path}", 2)
    archive.run = f"{tmp_path}/run"
    segment(archive)
    assert changes_of(archive).rows == []
    time.sleep(2.1)
    storage.put(f"{archive.images}/b/001.png", storage.read(f"{archive.images}/b/001.png"))
    assert [row[:2] for row in changes_of(archive).rows] == [("b/001", "replaced")]


def test_nothing_beside_an_archive_is_listed(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("b/000.png", b"")
    assert list(times_written(f"{tmp_path}/a.zip", None)) == [f"{tmp_path}/a.zip"]


def test_an_extension_cut_off_before_it_was_published_is_forgotten_when_rejects_are_withdrawn(archive):
    archive.change()
    names = []
    shutil.copytree(archive.run, f"{archive.run}-copy")
    with dying(archive.run, None, names):
        extend(archive)
    shutil.rmtree(archive.run)
    shutil.move(f"{archive.run}-copy", archive.run)
    with pytest.raises(Killed), dying(archive.run, names.index("put _SUCCESS.json"), []):
        extend(archive)
    with Lease(archive.run) as held:
        assert Run.open(archive.run).withdraw_rejects(held) == {1: 1, 2: 1}
    assert newest_state(archive.run) is None
    run = Run.open(archive.run)
    _answer(run, ())
    with Lease(archive.run) as held:
        run.finish(1, held)
    assert extend(archive).generation == 2
    assert verify(archive.run).problems == []


CONFIG = {"crf": None, "images_per_shard": 16, "max_reject_rate": 0.1, "actors": 1, "cpus_per_actor": 1}


def street(root, number, seed):
    """One labelled image, of 32x64."""
    draw = np.random.default_rng(seed)
    for kind, high, planes in (("images", 256, (3,)), ("labels", 19, ())):
        blocks = draw.integers(0, high, (4, 8, *planes), dtype=np.uint8)
        storage.put(f"{root}/{kind}/{number:04d}.png", _png(blocks.repeat(8, 0).repeat(8, 1)))


@pytest.fixture
def five_hundred(ray_session, tiny_checkpoint, tmp_path):
    """A finished run over 500 images, all of which have a label; and its config."""
    for number in range(500):
        street(tmp_path, number, number)
    corpus = {"images": str(tmp_path), "layout": "pairs", "image_glob": "images/*.png", "label_glob": "labels/*.png"}
    cfg = parse(
        SegmentConfig,
        {"corpus": corpus, "checkpoint": tiny_checkpoint, "output": f"{tmp_path}-run", **CONFIG},
        where="test",
    )
    segment_corpus(cfg)
    return cfg


def change_500(root):
    """+50 new, 3 replaced, 2 gone."""
    for number in range(500, 550):
        street(root, number, number)
    for number in (7, 8, 321):
        street(root, number, 10_000 + number)
    for number in (100, 499):
        for kind in ("images", "labels"):
            storage.delete(f"{root}/{kind}/{number:04d}.png")


def rows_of(uri):
    """image id -> what does not tell the time."""
    view = open_run(uri)
    columns = ["image_id", "mask", "pixels", "confusion", "confidence"]
    tables = [pq.ParquetFile(part).read(columns) for part in view.parts("masks")]
    return {row["image_id"]: row for table in tables for row in table.to_pylist()}


@pytest.mark.slow
def test_of_500_images_exactly_the_53_are_answered_and_counts_equal_those_of_a_run_from_nothing(five_hundred):
    cfg = five_hundred
    root = cfg.corpus.images
    change_500(root)
    said = maskmill("segment", _yaml(cfg))
    assert "50 new (0500, 0501, 0502, ...), 3 replaced (0007" in said.stdout, said.stderr
    assert f"maskmill extend {cfg.output}" in said.stdout
    done = extend_run(cfg)
    assert (done.changes, done.images) == ({"new": 50, "replaced": 3, "gone": 2}, 548)
    assert (done.answered.answered_now, done.answered.rows) == (53, 53)
    fresh = cfg.model_copy(update={"output": f"{cfg.output}-fresh"})
    segment_corpus(fresh)
    assert rows_of(cfg.output) == rows_of(fresh.output)
    one, other = (open_run(uri) for uri in (cfg.output, fresh.output))
    assert (one.confusion() == other.confusion()).all()
    assert one.iou().equals(other.iou())
    proved = maskmill("verify", cfg.output)
    assert (proved.returncode, proved.stdout) == (0, "548 images planned: 548 masks, 0 rejects, 0 faults\n")
    again = maskmill("extend", cfg.output)
    assert "2: nothing has changed in the archive" in again.stdout, again.stderr
    storage.delete(f"{cfg.output}/_SUCCESS.json")
    assert "_SUCCESS.json is gone; `maskmill resume" in maskmill("verify", cfg.output).stdout
    Path(root, "loop").symlink_to("loop")  # the archive cannot be listed any more, and nothing of the run needs it
    assert maskmill("resume", cfg.output).returncode == 0
    assert maskmill("verify", cfg.output).returncode == 0


def _yaml(cfg):
    path = f"{cfg.output}.yaml"
    storage.put(path, json.dumps(cfg.model_dump(mode="json")).encode())
    return path


def changes_of(archive):
    info, state, changes = describe(archive.run), newest_state(archive.run), Changes()
    known = planned(archive.run, info, state, (), times_written(archive.images, None))
    list(known.to_answer(scan_items(archive.cfg, None), changes))
    return changes


@pytest.mark.scorecard("fault", 19)
@pytest.mark.slow
@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.long)])
def test_after_a_kill_at_any_step_readers_see_one_generation_and_the_same_command_ends_it(store, request, tmp_path):
    root = str(tmp_path) if store == "folder" else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    first = Archive(f"{root}/first", 8)
    segment(first)
    old = answers(first.run)
    first.change()
    copies = storage.list_files(f"{root}/first")

    def copied(name):
        archive = Archive(f"{root}/{name}", 0)
        for file in copies:  # the run is of the first archive's images, wherever it lies
            storage.put(f"{root}/{name}/{file.path}", storage.read(file.uri))
        archive.images, archive.cfg = first.images, first.cfg
        return archive

    whole, names = copied("whole"), []
    with dying(whole.run, None, names):
        extend(whole)
    new = answers(whole.run)
    assert {"create generations/00002/run.json", "put generations/00002/changes.parquet", "put _SUCCESS.json",
            "put masks/part-g00002-00001.parquet", "put generations/00002/withdrawn/masks/part-00000.parquet",
            "put masks/part-00000.g00002.parquet", "delete masks/part-00000.parquet"} <= set(names)  # fmt: skip
    seen = set()
    for at, name in enumerate(names):
        archive = copied(f"at-{at}")
        with pytest.raises(Killed), dying(archive.run, at, []):
            extend(archive)
        found = answers(archive.run)
        assert found in (old, new), name
        seen.add(found == new)
        extend(archive)
        assert answers(archive.run) == new, name
        assert globbed(archive) == sorted(new), name
        assert verify(archive.run).problems == [], name
        if store == "folder":
            shutil.rmtree(f"{root}/at-{at}")
    assert seen == {False, True}


def inventory_of(bucket, kind):
    """A report of the bucket in the form that AWS documents; the store's own listing is where its figures come from."""
    name = bucket.removeprefix("s3://").partition("/")[0]
    files = storage.list_files(f"s3://{name}")
    rows = [{"bucket": name, "key": file.uri.removeprefix(f"s3://{name}/"), "size": file.bytes,
             "e_tag": file.etag.strip('"'), "is_latest": True, "is_delete_marker": False} for file in files]  # fmt: skip
    rows.append(rows[0] | {"key": "old/deleted.png", "is_delete_marker": True})
    home, data = f"inventory/{uuid.uuid4().hex}", io.BytesIO()
    if kind == "CSV":
        lines = [",".join(f'"{value}"' for value in (row["bucket"], quote_plus(row["key"], "/"), "v1", row["is_latest"],
                 row["is_delete_marker"], row["size"], row["e_tag"])) for row in rows]  # fmt: skip
        data.write(gzip.compress("\n".join(lines).encode()))
    elif kind == "Parquet":
        pq.write_table(pa.Table.from_pylist(rows), data)
    else:
        orc.write_table(pa.Table.from_pylist(rows), data)
    storage.put(f"s3://{name}/{home}/data", data.getvalue())
    manifest = {"sourceBucket": name, "destinationBucket": f"arn:aws:s3:::{name}", "version": "2016-11-30", "fileFormat": kind,
                "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag",
                "files": [{"key": f"{home}/data", "size": data.tell()}]}  # fmt: skip
    storage.put(f"s3://{name}/{home}/manifest.json", json.dumps(manifest).encode())
    return f"s3://{name}/{home}/manifest.json"


@pytest.mark.parametrize("kind", ["CSV", "Parquet", "ORC"])
def test_an_inventory_report_stands_for_the_listing_of_a_bucket(s3, kind, monkeypatch):
    archive = Archive(f"{s3}/grows {kind}+", 5)
    archive.add("b/a b+c", 7)
    listed = list(scan_items(archive.cfg, None))
    report = archive.cfg.model_copy(update={"inventory": inventory_of(s3, kind)})

    def scan(uri):
        raise AssertionError(f"{uri} is listed")

    monkeypatch.setattr(storage, "scan", scan)
    assert list(scan_items(report, None)) == listed


def _tar(members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def test_an_inventory_opens_tars_as_a_listing_does_and_may_come_from_any_partition_of_aws(s3):
    root = f"{s3}/{uuid.uuid4().hex}"
    storage.put(f"{root}/train-0000.tar", _tar({"0.png": b"one", "1.png": b"two"}))
    storage.put(f"{root}/2.png", b"three")
    cfg = CorpusConfig(images=root, layout="folder")
    uri = inventory_of(s3, "CSV")
    storage.put(uri, storage.read(uri).replace(b"arn:aws:", b"arn:aws-us-gov:"))
    listed = list(scan_items(cfg, None))
    assert [item.image_id for item in listed] == ["2", "train-0000/0", "train-0000/1"]
    assert list(scan_items(cfg.model_copy(update={"inventory": uri}), None)) == listed
    alone = CorpusConfig(images=f"{root}/train-0000.tar", layout="folder", inventory=uri)
    assert [item.image_id for item in scan_items(alone, None)] == ["0", "1"]


def _parquet(value):
    data = io.BytesIO()
    pq.write_table(pa.table({"image": [value], "image_id": ["a"]}), data, compression="none")
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "made", "layout"),
    [
        ("a.tar", lambda value: _tar({"a.png": value}), "folder"),
        ("tars/a.tar", lambda value: _tar({"a.png": value}), "folder"),
        ("a.parquet", _parquet, "parquet"),
        ("tables/a.parquet", _parquet, "parquet"),
    ],
)
def test_an_archive_on_s3_that_was_replaced_by_one_of_the_same_size_is_noticed(s3, name, made, layout):
    archive = Archive(f"{s3}/{uuid.uuid4().hex}", 0)
    uri = f"{archive.images}/{name}"
    archive.images = uri if "/" not in name else uri.rpartition("/")[0]
    archive.cfg = CorpusConfig(images=archive.images, layout=layout)
    storage.put(uri, made(b"before"))
    segment(archive)
    assert changes_of(archive).rows == []
    assert len(made(b"before")) == len(made(b"behind"))
    storage.put(uri, made(b"behind"))
    assert [row[1] for row in changes_of(archive).rows] == ["replaced"]


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"{}", "is not the manifest.json of an S3 Inventory report"),
        (b'{"fileFormat": "CSV", "files": [{"key": "gone"}], "fileSchema": "Bucket", "destinationBucket": "BUCKET"}',
         "it names s3://.*/gone, which is not there"),
    ],
)  # fmt: skip
def test_what_is_no_inventory_is_said(s3, manifest, said):
    name = s3.removeprefix("s3://").partition("/")[0]
    uri = f"{s3}/{uuid.uuid4().hex}.json"
    storage.put(uri, manifest.replace(b"BUCKET", name.encode()))
    archive = Archive(f"{s3}/{uuid.uuid4().hex}", 1)
    with pytest.raises(UserError, match=said):
        list(scan_items(archive.cfg.model_copy(update={"inventory": uri}), None))
    with pytest.raises(UserError, match="lists a bucket of S3, and the images are at /"):
        list(scan_items(archive.cfg.model_copy(update={"inventory": uri, "images": "/tmp"}), None))


def test_a_manifest_tells_a_replaced_file_by_size_and_etag(tmp_path):
    from pipeline.corpus.readers.tables import manifest_items

    table = {"image": ["s3://b/x.png", "y.png"], "bytes": [10, 20], "etag": ["abc", "def"]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("image,bytes,etag\ns3://b/x.png,10,abc\ny.png,20,def\n")
    for name in ("m.parquet", "m.csv"):
        one, other = (item.image for item in manifest_items(f"{tmp_path}/{name}"))
        assert (one.bytes, one.etag) == (10, '"abc"')
        assert (other.bytes, other.etag) == (20, None)  # a disk has none


def test_a_dry_run_of_an_extended_run_counts_its_newest_images_as_done(tmp_path, monkeypatch):
    archive = Archive(str(tmp_path), 8)
    segment(archive)
    for number in range(3):  # the whole first shard
        archive.add(f"b/{number:03d}", 90 + number)
    archive.change()
    extend(archive)
    cfg = parse(SegmentConfig, {"corpus": archive.cfg, "checkpoint": "unused", "output": archive.run}, where="test")
    monkeypatch.setattr(estimate, "identity", lambda cfg, ready: IDENTITY)
    listing, done, pending = estimate._listed(cfg, object(), describe(archive.run))
    assert (listing.images, done, pending) == (9, 9, [])
