import hashlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.corpus import Item, Place, plan_shards
from pipeline.imaging.mask_png import encode_mask
from pipeline.labels import space
from pipeline.runs import REJECT_SCHEMA, Run, mask_schema, read_table, verify
from pipeline.runs.parts import footer_of, write_part
from pipeline.runs.schema import part_metadata
from tests.small_run import Drawn, forget_hashes, make_run

SPACE = space("camvid11")
IDENTITY = {"crf": {"smooth_weight": 3.0}, "weights_sha256": "a"}
ITEMS = [
    Item(f"val/s_{i}", Place(f"/corpus/{i}.png", bytes=1), groups={"split": "val", "sequence": "s", "frame": i})
    for i in range(5)
]


def open_run(uri, identity=IDENTITY):
    return Run.open_or_create(str(uri), identity, {"crf": {"smooth_weight": 3.0}}, SPACE, lambda: plan_shards(ITEMS, 2))


def tables(items, rejected=()):
    """Masks of 2x3 pixels, all of class 1, for the items that are not rejected."""
    mask = np.ones((2, 3), np.uint8)
    masks = [
        {"image_id": item.image_id, "uri": item.image.uri, "split": item.groups.get("split"), "height": 2, "width": 3,
         "mask": {"bytes": encode_mask(mask), "path": f"{item.image_id}.png"}, "pixels": [0, 6] + [0] * 9}
        for item in items if item.image_id not in rejected
    ]  # fmt: skip
    rejects = [
        {"image_id": item.image_id, "uri": item.image.uri, "stage": "decode", "error": "truncated", "message": "cut",
         "attempts": 1}
        for item in items if item.image_id in rejected
    ]  # fmt: skip
    return pa.Table.from_pylist(masks, mask_schema(11)), pa.Table.from_pylist(rejects, REJECT_SCHEMA)


def part_of(run, shard, items):
    """Bytes of a masks part that answers some items."""
    return write_part(tables(items)[0], part_metadata(run.fingerprint, SPACE, shard, shard), [])


def replace(run, shard, items, say=None):
    """Write another part over the one of a shard; in it stands that it is of another shard."""
    storage.put(storage.join(run.uri, f"masks/part-{shard:05d}.parquet"), part_of(run, say or shard, items))


def flip_a_byte(run):
    uri = storage.join(run.uri, "masks/part-00001.parquet")
    data = bytearray(storage.read(uri))
    data[60] ^= 1
    storage.put(uri, bytes(data))


def complete(run, rejected=()):
    for shard in run.pending():
        run.commit(shard, *tables(run.shard_items(shard), rejected))


def test_a_run_says_where_it_was_begun(tmp_path):
    make_run(str(tmp_path / "run"), [Drawn("a", "01")])
    begun = json.loads((tmp_path / "run/run.json").read_text())
    assert re.fullmatch(r"(\d+ cores|one core) of .+, \d+ GiB, .+", begun["machine"])
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    if git.returncode == 0:
        assert begun["commit"].removesuffix("+changes") == git.stdout.strip()
    del begun["machine"], begun["commit"]  # as runs were before
    (tmp_path / "run/run.json").write_text(json.dumps(begun))
    forget_hashes(str(tmp_path / "run"))
    assert verify(str(tmp_path / "run")).problems == []


def test_a_new_run_has_every_shard_pending_and_a_complete_one_none(tmp_path):
    run = open_run(tmp_path)
    assert run.pending() == [0, 1, 2]
    run.commit(1, *tables(run.shard_items(1)))
    assert run.pending() == [0, 2]
    complete(run)
    assert run.pending() == []
    assert run.finish(0).rows == 5
    assert verify(str(tmp_path)).problems == []


def test_a_run_folder_has_the_documented_files(tmp_path):
    run = open_run(tmp_path)
    complete(run, rejected=("val/s_3",))
    run.finish(1)
    (plan,) = (tmp_path / "plan").iterdir()
    assert re.fullmatch(r"part-00000-[0-9a-f]{8}\.parquet", plan.name)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and p != plan) == [
        "_SUCCESS.json", "masks/part-00000.parquet", "masks/part-00001.parquet", "masks/part-00002.parquet",
        "rejects/part-00001.parquet", "run.json",
    ]  # fmt: skip


def test_a_part_explains_itself(tmp_path):
    run = open_run(tmp_path)
    complete(run)
    table = read_table(storage.read(storage.join(run.uri, "masks/part-00000.parquet")))
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["maskmill.fingerprint"] == run.fingerprint
    assert json.loads(metadata["maskmill.label_space"])["classes"][8] == "car"
    assert table.schema.remove_metadata().equals(mask_schema(11))


def test_the_plan_is_made_once_and_kept(tmp_path):
    first = open_run(tmp_path)
    again = Run.open_or_create(str(tmp_path), IDENTITY, {}, SPACE, lambda: pytest.fail("planned again"))
    assert list(again.plan.tables()) == list(first.plan.tables())
    assert again.fingerprint == first.fingerprint


def test_other_settings_are_refused_and_the_field_is_named(tmp_path):
    open_run(tmp_path)
    with pytest.raises(ValueError, match=r"crf\.smooth_weight: 3\.0, now 5\.0; choose another output"):
        open_run(tmp_path, {"crf": {"smooth_weight": 5.0}, "weights_sha256": "a"})


def test_a_changed_plan_file_is_refused(tmp_path):
    open_run(tmp_path)
    (plan,) = (tmp_path / "plan").iterdir()
    plan.write_bytes(b"other")
    with pytest.raises(ValueError, match="is not the plan this run was made with"):
        Run.open(str(tmp_path)).shard_items(0)
    plan.unlink()
    with pytest.raises(ValueError, match=f"{plan.name} is gone"):
        verify(str(tmp_path))


def test_the_first_answer_of_a_shard_counts(tmp_path):
    run = open_run(tmp_path)
    run.commit(0, *tables(run.shard_items(0), rejected=("val/s_1",)))
    before = {p.name: p.read_bytes() for p in tmp_path.rglob("part-*.parquet")}
    run.commit(0, *tables(run.shard_items(0)))  # a doubled task, which could read the image
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("part-*.parquet")} == before


def test_a_masks_part_holds_the_whole_answer_of_its_shard(tmp_path):
    run = open_run(tmp_path)
    run.commit(0, *tables(run.shard_items(0), rejected=("val/s_1",)))
    data = (tmp_path / "masks/part-00000.parquet").read_bytes()
    footer = footer_of(data, "part")
    assert (footer.rows, [row["image_id"] for row in footer.rejects]) == (1, ["val/s_1"])
    length = int.from_bytes(data[-8:-4], "little")
    assert footer.body_sha256 == hashlib.sha256(data[: -8 - length]).hexdigest()
    (tmp_path / "rejects/part-00000.parquet").unlink()
    complete(run)
    run.finish(1)  # writes what is missing of the rejects
    assert verify(run.uri).problems == []


def test_a_footer_with_hundreds_of_rejects_is_read_whole(tmp_path):
    run = open_run(tmp_path)
    masks, rejects = tables(run.shard_items(0), rejected=("val/s_0", "val/s_1"))
    rows = rejects.set_column(5, "message", pa.array(["m" * 50_000, "n" * 50_000]))
    run.commit(0, masks, rows.cast(REJECT_SCHEMA))
    complete(run)
    assert run.finish(1).rejects == 2
    assert verify(run.uri).problems == []


def test_a_deleted_part_makes_only_its_shard_pending_and_a_broken_one_is_named(tmp_path):
    run = open_run(tmp_path)
    complete(run, rejected=("val/s_2",))
    (tmp_path / "masks/part-00000.parquet").unlink()
    assert run.pending() == [0]
    complete(run)
    (tmp_path / "masks/part-00002.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(ValueError, match=r"masks/part-00002\.parquet cannot be read"):
        run.finish(1)
    storage.put(storage.join(run.uri, "masks/part-00002.parquet"), part_of(run, 1, ITEMS[2:3]))
    with pytest.raises(ValueError, match=r"part-00002\.parquet answers 2 images, its shards have 1.*delete it"):
        storage.put(storage.join(run.uri, "masks/part-00002.parquet"), part_of(run, 2, ITEMS[2:4]))
        run.finish(1)


def test_too_many_rejects_fail_with_counts_by_reason_and_keep_what_is_done(tmp_path):
    run = open_run(tmp_path)
    complete(run, rejected=("val/s_1", "val/s_4"))
    with pytest.raises(ValueError, match=r"2 of 5 images were rejected \(2 truncated\).*max_reject_rate 0\.3"):
        run.finish(0.3)
    assert run.finished() is None
    assert run.pending() == []
    assert run.finish(0.4).rejects_by_reason == {"truncated": 2}


def test_an_unfinished_run_cannot_be_finished(tmp_path):
    with pytest.raises(ValueError, match="3 shards are not done"):
        open_run(tmp_path).finish(1)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda run: replace(run, 0, ITEMS[:1]), "'val/s_1' is answered 0 times"),
        (lambda run: replace(run, 1, ITEMS[1:4]), "'val/s_1' is answered in part-00001.parquet and is not in the plan of"),
        (lambda run: replace(run, 2, [ITEMS[4]] * 2), "'val/s_4' is answered 2 times"),
        (lambda run: replace(run, 1, ITEMS[2:4], say=9), "part-00001.parquet is not the file that was committed"),
        (lambda run: run.commit(7, *tables([Item("x", Place("/x"))])), "part-00007.parquet is not listed"),
        (lambda run: storage.delete(storage.join(run.uri, "masks/part-00001.parquet")), "part-00001.parquet is missing"),
        (lambda run: storage.put(storage.join(run.uri, "masks/part-00001.parquet"), b"x"), "cannot be read"),
        (flip_a_byte, "masks/part-00001.parquet"),
        (lambda run: storage.delete(storage.join(run.uri, "_SUCCESS.json")), "the run is not finished"),
    ],
)  # fmt: skip
def test_verify_finds_each_fault(tmp_path, spoil, fault):
    run = open_run(tmp_path)
    complete(run)
    run.finish(0)
    spoil(run)
    assert any(fault in problem for problem in verify(run.uri).problems)


def test_verify_decodes_masks_and_compares_their_pixels(tmp_path):
    run = open_run(tmp_path)
    complete(run)

    def counts_another_class(rows):
        rows[0]["pixels"] = [6] + [0] * 10

    def says_another_size(rows):
        rows[1]["height"] = 9

    def holds_no_class(rows):
        rows[0]["mask"]["bytes"] = encode_mask(np.full((2, 3), 200, np.uint8))

    for shard, spoils in enumerate([(counts_another_class, says_another_size), (holds_no_class,)]):
        masks, rejects = tables(run.shard_items(shard))
        rows = masks.to_pylist()
        for spoil in spoils:
            spoil(rows)
        storage.delete(storage.join(run.uri, f"masks/part-{shard:05d}.parquet"))
        run.commit(shard, pa.Table.from_pylist(rows, masks.schema), rejects)
    run.finish(0)
    assert [p.split(": ")[1] for p in verify(run.uri).problems] == [
        "mask of 'val/s_0' does not hold the pixels that its row counts",
        "mask of 'val/s_1' is (2, 3), the row says another size",
        "mask of 'val/s_2' does not hold the pixels that its row counts",
    ]


def test_no_run_is_told_so(tmp_path):
    with pytest.raises(ValueError, match=r"no run\.json there"):
        verify(str(tmp_path))
