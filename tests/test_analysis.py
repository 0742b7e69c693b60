import io
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from pipeline.analysis import intervals, open_run
from pipeline.analysis.report.snippets import snippets
from pipeline.analysis.sums import sum_counts
from pipeline.cli.run_tables import iou_table
from pipeline.corpus import plan_shards
from pipeline.imaging.colours import IGNORED, RIGHT, WRONG, blend, error_map
from pipeline.metrics.boundary import boundary_iou, count_boundary
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import class_iou, mean_iou, pixel_accuracy
from pipeline.runs import Run
from tests.small_run import SPACE, Drawn, ids, make_run

DRAWN = (
    Drawn("a", "0001", label="0011", raw="0111", city="x", frame=1),
    Drawn("b", "0022", label="0.22", raw="0022", city="x", frame=10),
    Drawn("c", "1133", label="1111", raw="3333", frame=2),
    Drawn("d", "5500", city="y", confidence=0.2),
    Drawn("e", None, reason="truncated"),
    Drawn("f", None, reason="empty"),
    Drawn("g", None, reason="truncated"),
)
# Over a, b and c, by hand: intersection / union of sky 3/4, building 3/6, pole 2/2, road 0/2; 8 of 11 pixels are right.
MIOU = (3 / 4 + 3 / 6 + 2 / 2 + 0 / 2) / 4
MIOU_RAW = (2 / 3 + 2 / 7 + 2 / 2 + 0 / 4) / 4


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return open_run(make_run(str(tmp_path_factory.mktemp("runs") / "small"), DRAWN))


def values(row):
    """The numbers of a row that are there, by name."""
    return row.dropna().to_dict()


def test_the_headline_divides_summed_counts_once(view):
    assert values(view.iou().loc["all"]) == pytest.approx(
        {
            "sky": 3 / 4,
            "building": 3 / 6,
            "pole": 1,
            "road": 0,  # predicted, never labelled
            "miou": MIOU,
            "mean_accuracy": (3 / 3 + 3 / 6 + 2 / 2) / 3,
            "pixel_accuracy": 8 / 11,
            "images": 3,
        }
    )
    raw = view.iou(raw=True).loc["all"]
    assert (raw["miou"], raw["pixel_accuracy"]) == pytest.approx((MIOU_RAW, 6 / 11))


def test_confusion_has_truth_in_rows_and_prediction_in_columns(view):
    confusion = view.confusion()
    assert confusion.dtype == np.int64
    assert confusion[:4, :4].tolist() == [[3, 0, 0, 0], [1, 3, 0, 2], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert confusion.sum() == 11
    assert view.confusion(raw=True)[:4, :4].tolist() == [[2, 1, 0, 0], [0, 2, 0, 4], [0, 0, 2, 0], [0, 0, 0, 0]]


def test_a_group_is_answered_from_its_own_labelled_images_and_no_value_is_a_group(view):
    table = view.iou(by=["city"])
    assert table.index.tolist() == ["x", None]  # y has no label
    assert values(table.iloc[0]) == pytest.approx(
        {
            "sky": 3 / 4, "building": 1 / 2, "pole": 1, "miou": 3 / 4, "mean_accuracy": 5 / 6, "pixel_accuracy": 6 / 7,
            "images": 2,
        }
    )  # fmt: skip
    assert (table.iloc[1]["miou"], table.iloc[1]["images"]) == (1 / 4, 1)


def test_group_values_keep_their_type_and_order(view):
    assert view.areas(by=["frame"]).index.tolist() == [1, 2, 10, None]  # not "1", "10", "2"


def test_areas_count_predicted_pixels_with_and_without_labels(view):
    nonzero = {name: count for name, count in values(view.areas().loc["all"]).items() if count}
    assert nonzero == {"images": 4, "sky": 7, "building": 3, "pole": 2, "road": 2, "tree": 2}
    assert values(view.areas(by=["city"]).loc["y"])["tree"] == 2


@pytest.mark.parametrize("by", [["city"], ["sequence"], ["frame"], ["city", "sequence"]])
def test_grouping_equals_filtering(tmp_path, by):
    random = np.random.default_rng(7)

    def drawing():
        return "".join("0123."[k] for k in random.integers(0, 5, 12))

    drawn = [
        Drawn(
            f"{index:02d}",
            drawing().replace(".", "4"),
            label=drawing(),
            city=[None, "aachen", "bochum"][random.integers(3)],
            sequence=[None, "0", "1"][random.integers(3)],
            frame=[None, 2, 10][random.integers(3)],
        )
        for index in range(23)
    ]
    table = open_run(make_run(str(tmp_path / "run"), drawn, images_per_shard=4)).iou(by=by).reset_index()
    groups = {tuple(getattr(one, name) for name in by) for one in drawn}
    found = {}
    for row in table.to_dict("records"):
        found[tuple(None if pd.isna(row[name]) else row[name] for name in by)] = row
    assert found.keys() == groups
    for key, row in found.items():
        members = [one for one in drawn if tuple(getattr(one, name) for name in by) == key]
        confusion = sum(count_confusion(ids(one.label), ids(one.mask), SPACE.num_classes) for one in members)
        assert row["images"] == len(members)
        assert [row[name] for name in SPACE.classes] == pytest.approx(class_iou(confusion).tolist(), nan_ok=True)
        assert (row["miou"], row["pixel_accuracy"]) == (mean_iou(confusion), pixel_accuracy(confusion))


def test_sums_are_exact_where_float64_would_not_be(tmp_path):
    parts = []
    for shard, counts in enumerate(([2**53, 1], [1, 2**24 + 1], [0, 0])):
        parts.append(str(tmp_path / f"part-{shard}.parquet"))
        pq.write_table(pa.table({"confusion": [counts, None]}), parts[-1])
    sums, _ = sum_counts(parts, {"confusion": 2})
    assert {key: value.tolist() for key, value in sums["confusion"].items()} == {(): [3, 2**53 + 1, 2**24 + 2]}


def test_worst_ranks_images_by_themselves_or_by_one_class(view):
    assert view.worst(2)["image_id"].tolist() == ["c", "a"]
    assert view.worst(1)["miou"].tolist() == [0.25]
    assert view.worst(1, "confidence")["image_id"].tolist() == ["d"]
    sky = view.worst(5, "class:sky")  # c has no sky, d has no label
    assert sky["image_id"].tolist() == ["a", "b"]
    assert sky["class:sky"].tolist() == pytest.approx([2 / 3, 1])


def test_masks_come_back_as_they_were_written(view):
    masks = view.masks(["d", "a"])
    assert {name: mask.tolist() for name, mask in masks.items()} == {"a": [[0, 0, 0, 1]], "d": [[5, 5, 0, 0]]}
    with pytest.raises(ValueError, match="no mask of image 'e'"):
        view.masks(["a", "e"])


def test_rejects_are_rows_and_the_summary_counts_them(view):
    rejects = view.rejects()
    assert rejects["image_id"].tolist() == ["e", "f", "g"]
    assert rejects["message"].tolist()[0].startswith("e has no end mark")
    summary = view.summary()
    assert summary["rejects"] == {"truncated": 2, "empty": 1}
    assert (summary["images"], summary["labelled"]) == (4, 3)
    assert (summary["miou"], summary["miou_raw"]) == pytest.approx((MIOU, MIOU_RAW))
    assert summary["seconds"] == {"decode": 0.25, "forward": 0.5, "encode": 0.25}  # none has seconds_crf
    assert summary["finished"] is not None


def test_frame_is_lazy_and_has_only_the_columns_asked_for(view):
    frame = view.frame(["image_id", "height"])
    assert list(frame.columns) == ["image_id", "height"]
    assert frame.npartitions == 4
    assert frame.compute()["image_id"].tolist() == ["a", "b", "c", "d"]


def test_a_column_that_is_not_there_is_told_with_those_that_are(view):
    with pytest.raises(ValueError, match=r"has no column 'nocol'; its columns are image_id, uri, .*confidence"):
        view.frame(["image_id", "nocol"])


def test_a_run_introduces_itself_in_three_lines(view, tmp_path):
    first, second, third = repr(view).split("\n")
    assert first.startswith(f"Run {view.uri}: finished 20") and first.endswith(" UTC")
    assert second == "  camvid11, 11 classes · 4 masks, 3 rejects"
    assert ".iou(by=[...])" in third
    begun = open_run(make_run(str(tmp_path / "run"), DRAWN[:2], images_per_shard=1, finish=False))
    assert "not finished\n" in repr(begun) and "2 of 2 shards answered, 2 images in all" in repr(begun)


def test_a_run_shows_a_card_in_a_notebook(tmp_path):
    hostile = open_run(make_run(str(tmp_path / "<b>run"), DRAWN))
    card = hostile._repr_html_()
    assert f"mIoU {100 * MIOU:.2f} %" in card and "building</span>" in card
    assert "<b>" not in card and "&lt;b&gt;run" in card
    unlabelled = open_run(make_run(str(tmp_path / "unlabelled"), [Drawn("a", "01")]))
    assert "mIoU" not in unlabelled._repr_html_()


def test_masks_and_pictures_come_in_the_order_of_the_question(view):
    asked = ["c", "a", "d", "b"]
    assert list(view.masks(asked)) == list(view.pictures(asked)) == asked


def test_questions_about_counts_never_read_a_mask(tmp_path):
    view = open_run(make_run(str(tmp_path / "run"), DRAWN))
    before = view.areas(), view.iou(by=["city"]), view.worst(3, "class:sky")
    damaged = 0
    for uri in view.parts("masks"):
        metadata, data = pq.read_metadata(uri), bytearray(Path(uri).read_bytes())
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                column = metadata.row_group(group).column(index)
                if column.path_in_schema == "mask.bytes":
                    start = column.dictionary_page_offset or column.data_page_offset
                    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
                    damaged += 1
        Path(uri).write_bytes(data)
    assert damaged
    again = open_run(view.uri)
    for old, new in zip(before, (again.areas(), again.iou(by=["city"]), again.worst(3, "class:sky")), strict=True):
        pd.testing.assert_frame_equal(old, new)
    with pytest.raises(OSError):
        again.masks(["a"])


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_an_object_store_gives_the_answers_of_a_folder(request, view, store):
    prefix = "memory://" if store == "memory" else request.getfixturevalue("s3") + "/"
    there = open_run(make_run(f"{prefix}{uuid.uuid4().hex}", DRAWN))
    pd.testing.assert_frame_equal(there.iou(by=["city"]), view.iou(by=["city"]))
    pd.testing.assert_frame_equal(there.areas(by=["frame"]), view.areas(by=["frame"]))
    pd.testing.assert_frame_equal(there.worst(4), view.worst(4))
    pd.testing.assert_frame_equal(there.intervals(), view.intervals())
    assert (there.masks(["d"])["d"] == view.masks(["d"])["d"]).all()
    assert there.rejects()["error"].tolist() == view.rejects()["error"].tolist()
    timed = {"finished", "images_per_s"}
    old, new = view.summary(), there.summary()
    assert {k: v for k, v in new.items() if k not in timed} == {k: v for k, v in old.items() if k not in timed}


def test_a_run_that_rejected_everything_answers_with_nothing_counted(tmp_path):
    view = open_run(make_run(str(tmp_path / "run"), [Drawn("a", None), Drawn("b", None)]))
    assert view.areas().loc["all"].sum() == 0
    assert view.iou(by=["city"]).empty
    assert view.summary()["miou"] is None
    assert len(view.worst(3, "class:car")) == 0
    with pytest.raises(ValueError, match="none of its images has a label"):
        iou_table(view)


def test_a_run_in_progress_answers_for_what_is_committed(tmp_path):
    view = open_run(make_run(str(tmp_path / "run"), DRAWN[:2], finish=False))
    summary = view.summary()
    assert (summary["images"], summary["finished"], summary["images_per_s"]) == (2, None, None)


def test_what_is_no_run_and_what_is_no_column_is_one_sentence(tmp_path, view):
    with pytest.raises(ValueError, match=r"no run\.json there"):
        open_run(str(tmp_path))
    empty = str(tmp_path / "empty")
    Run.open_or_create(empty, {}, {}, SPACE, lambda: plan_shards([], 1))
    with pytest.raises(ValueError, match="no image is answered yet"):
        open_run(empty)
    with pytest.raises(ValueError, match="cannot group by 'town'; the group columns are split, city, sequence, frame"):
        view.iou(by=["town"])
    with pytest.raises(ValueError, match=r"cannot rank by 'class:moon'; choose one of miou, .*class:sky"):
        view.worst(1, "class:moon")


def cells_of(table):
    """The printed table as {first cell: the other cells}."""
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    rows = [line.replace("┃", "│").strip("│ ").split("│") for line in text.getvalue().splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) > 1}


def test_the_table_shows_raw_beside_crf_in_percent(view):
    cells = cells_of(iou_table(view))
    assert cells["class"] == ["raw", "with CRF", "difference"]
    assert cells["building"] == ["28.57", "50.00", "+21.43"]
    assert cells["mIoU"] == ["48.81", "56.25", "+7.44"]
    assert cells["pixel accuracy"] == ["54.55", "72.73", "+18.18"]
    assert "car" not in cells  # in neither truth nor prediction


def test_a_class_that_only_the_raw_mask_predicts_stays_in_the_table(tmp_path):
    drawn = [Drawn("a", "0000", label="0000", raw="0008")]
    assert cells_of(iou_table(open_run(make_run(str(tmp_path / "run"), drawn))))["car"] == ["0.00", "–", "–"]


def test_the_table_of_a_run_without_crf_has_one_column(tmp_path):
    drawn = [Drawn("a", "0001", label="0011")]
    cells = cells_of(iou_table(open_run(make_run(str(tmp_path / "run"), drawn))))
    assert (cells["class"], cells["sky"]) == (["IoU"], ["66.67"])


READERS = {
    "duckdb": """
import duckdb
rows = duckdb.sql(f"SELECT mask.bytes, pixels FROM read_parquet('{glob}')").fetchall()
sums = dict(duckdb.sql(
    "SELECT class, sum(count)::BIGINT FROM (SELECT generate_subscripts(pixels, 1) - 1 AS class, unnest(pixels) AS count "
    f"FROM read_parquet('{glob}')) GROUP BY class"
).fetchall())
""",
    "polars": """
import polars as pl
frame = pl.scan_parquet(glob).select(pl.col("mask").struct.field("bytes"), "pixels").collect()
rows = frame.rows()
sums = dict(enumerate(sum(column) for column in zip(*frame["pixels"].to_list())))
""",
}
COUNT = """
import io, json, sys
glob = sys.argv[1]
{reader}
import numpy as np
from PIL import Image
counts = np.zeros(len(rows[0][1]), int)
for data, _ in rows:
    counts += np.bincount(np.asarray(Image.open(io.BytesIO(data))).ravel(), minlength=len(counts))
assert "pipeline" not in sys.modules
print(json.dumps([counts.tolist(), [int(sums[k]) for k in range(len(counts))]]))
"""


@pytest.mark.parametrize("program", READERS)
def test_another_program_reads_the_masks_and_counts_the_same_pixels(view, program, tmp_path):
    script = COUNT.format(reader=READERS[program])
    done = subprocess.run(
        [sys.executable, "-c", script, f"{view.uri}/masks/part-*.parquet"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = Counter("".join(one.mask for one in DRAWN if one.mask))
    counts = [expected[f"{index:x}"] for index in range(SPACE.num_classes)]
    assert done.stdout.strip() == str([counts, counts])


@pytest.mark.parametrize("program", ["DuckDB", "Polars"])
def test_the_snippets_of_the_report_give_the_miou_of_each_group(view, program):
    text = snippets(view.uri, "city", SPACE.classes)[program]
    if program == "DuckDB":
        found = dict(pytest.importorskip("duckdb").sql(text).fetchall())
    else:
        pytest.importorskip("polars")
        names: dict = {}
        exec(text, names)
        found = names["miou"]
    assert found == pytest.approx(view.iou(by=["city"])["miou"].to_dict())


def test_the_snippet_for_python_runs(view):
    exec(snippets(view.uri, "city", SPACE.classes)["Python"], {})


def test_a_quote_in_a_path_stays_inside_its_string(tmp_path):
    view = open_run(make_run(str(tmp_path / 'it\'s "mine"'), DRAWN))
    texts = snippets(view.uri, "city", SPACE.classes)
    assert dict(pytest.importorskip("duckdb").sql(texts["DuckDB"]).fetchall())["x"] == pytest.approx(3 / 4)
    exec(texts["Python"], {})


def test_a_run_is_read_without_ray_and_torch(view):
    script = (
        "import sys; sys.argv = ['maskmill', 'evaluate', sys.argv[1]]\n"
        "from pipeline.cli import run\n"
        "from pipeline.cli.commands import app\n"
        "assert run(lambda: app(sys.argv[1:], standalone_mode=False), debug=True) == 0\n"
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, view.uri], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_scores_and_categories_follow_from_the_same_counts(view):
    scores = view.scores().loc["all"]
    assert scores["miou"] == view.iou().loc["all", "miou"]
    assert scores["frequency_weighted_iou"] == pytest.approx((3 * 3 / 4 + 6 * 3 / 6 + 2 * 1) / 11)
    assert scores["mean_dice"] == pytest.approx((6 / 7 + 6 / 9 + 1 + 0) / 4)
    # construction is building alone, of 6 labelled, 3 right; flat is predicted and never labelled
    assert values(pd.Series(view.categories())) == pytest.approx(
        {"sky": 3 / 4, "construction": 3 / 6, "object": 1, "flat": 0}
    )


def test_intervals_hold_the_headline_and_are_the_same_each_time(view):
    table = view.intervals()
    assert table.loc["miou", "value"] == MIOU
    assert table.loc["sky", "value"] == 3 / 4
    assert (table["low"] <= table["value"]).sum() == (table["value"] <= table["high"]).sum() == 4 + 3
    pd.testing.assert_frame_equal(table, view.intervals())
    # three images: a draw of image b alone has pole 2/2 and sky 1/1, a draw of c alone building 2/4 and road 0
    assert (table.loc["miou", "low"], table.loc["miou", "high"]) == (1 / 4, 1)


def test_a_run_compared_with_itself_differs_by_nothing_and_with_another_by_pairs(view, tmp_path):
    same = view.compare(open_run(view.uri))
    assert (same.images, same.only_before, same.only_after) == (3, 0, 0)
    assert (same.table[["difference", "low", "high"]].dropna() == 0).all().all()
    # a is mended, b is not in the other run, z is in the other run alone
    drawn = [Drawn("a", "0011", label="0011"), DRAWN[2], Drawn("z", "0000", label="0000")]
    found = view.compare(open_run(make_run(str(tmp_path / "run"), drawn)))
    assert (found.images, found.only_before, found.only_after) == (2, 1, 1)
    assert found.table.loc["sky", ["before", "after", "difference"]].tolist() == pytest.approx([2 / 3, 1, 1 / 3])
    assert found.table.loc["building", "difference"] == pytest.approx(4 / 6 - 3 / 6)
    with pytest.raises(ValueError, match="no labelled image in common"):
        view.compare(open_run(make_run(str(tmp_path / "other"), drawn[2:])))


def test_many_images_are_drawn_in_bundles_that_sum_to_the_same(view, monkeypatch):
    monkeypatch.setattr(intervals, "MAX_IMAGES", 2)
    table = view.intervals()
    assert table["value"].equals(view.iou().loc["all"].drop("images").astype(float).rename("value"))
    assert view.compare(view).images == 3


@pytest.mark.parametrize("bundled", [False, True], ids=["images", "bundles"])
def test_the_interval_of_a_group_is_that_of_a_run_of_the_group_alone(tmp_path, monkeypatch, bundled):
    drawn = [
        Drawn(f"i{k}", "0011", label=["0011", "0111", "0001"][k % 3], city=None if k % 2 else "x", frame=k)
        for k in range(8)
    ]
    whole = open_run(make_run(str(tmp_path / "whole"), drawn))
    if bundled:
        monkeypatch.setattr(intervals, "MAX_IMAGES", 2)
        monkeypatch.setattr(intervals, "GROUP_BUNDLES", 1 << 40)  # one image each, in the order of their hashes
    table = whole.intervals_by(["city"])
    for city in ("x", None):
        part = open_run(make_run(str(tmp_path / str(city)), [one for one in drawn if one.city == city]))
        row = table.iloc[0 if city else 1]
        alone = part.intervals().loc["miou"]
        assert row["value"] == alone["value"] and row["images"] == 4
        if not bundled:
            assert (row["low"], row["high"]) == (alone["low"], alone["high"])
        assert row["low"] <= row["value"] <= row["high"]
    one = whole.intervals_by(["frame"]).loc[3]
    assert one["images"] == 1 and np.isnan(one["low"])


def test_an_overlay_is_the_image_under_its_colours(view):
    image = np.array([[[0, 0, 0], [0, 0, 0], [0, 0, 0], [20, 20, 20]]])
    assert view.overlay("a").tolist() == blend(image, ids("0001"), SPACE.colours, 0.65).tolist()
    assert view.overlay("a", of="truth").tolist() == blend(image, ids("0011"), SPACE.colours, 0.65).tolist()
    assert view.overlay("a", of="errors").tolist() == error_map(ids("0011"), ids("0001")).tolist()
    with pytest.raises(ValueError, match="image 'd' has no label to show its truth by; choose prediction"):
        view.overlay("d", of="truth")
    with pytest.raises(ValueError, match="cannot show 'depth'; choose prediction, truth, errors or confidence"):
        view.overlay("a", of="depth")


def test_a_legend_names_the_colours_of_an_overlay_below_it(view):
    for of, shown in (
        ("prediction", [SPACE.colours[0], SPACE.colours[1]]),
        ("truth", [SPACE.colours[0], SPACE.colours[1]]),
        ("errors", [RIGHT, WRONG, IGNORED]),
    ):
        plain, picture = view.overlay("a", of=of), view.overlay("a", of=of, legend=True)
        assert (picture[:1, :4] == plain).all()
        strip = picture[1:].reshape(-1, 3)
        assert all((strip == colour).all(axis=1).sum() > 50 for colour in shown)  # a swatch each
        assert not any((strip == colour).all(axis=1).any() for colour in SPACE.colours[2:])  # and of no other class
    shown = Image.open(io.BytesIO(view.pictures(["a"])["a"]._repr_png_()))
    assert np.array_equal(np.asarray(shown), view.overlay("a", legend=True))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_mask_and_label_of_a_turned_photograph_lie_on_each_other(tmp_path, orientation):
    drawn = Drawn("a", "0001/0002", label="0011/0033", orientation=orientation)
    view = open_run(make_run(str(tmp_path / "run"), [drawn]))
    found = view.pictures(["a"])["a"]
    assert found.mask.shape == found.label.shape == found.image.shape[:2] == ((2, 4) if orientation < 5 else (4, 2))
    assert (found.image[..., 0] == 20 * found.mask).all()  # the image is drawn as the mask, 20 levels a class
    wrong = np.argwhere(found.mask != found.label).tolist()
    corner = {1: (0, 3), 2: (0, 0), 3: (1, 0), 4: (1, 3), 5: (3, 0), 6: (3, 1), 7: (0, 1), 8: (0, 0)}[orientation]
    assert found.mask[corner] == found.label[corner] == 1  # where EXIF 2.32 puts the stored top right pixel
    assert len(wrong) == 3
    assert view.masks(["a"])["a"].tolist() == ids(drawn.mask).tolist()  # the mask itself stays as the corpus stores it


def test_counts_that_a_run_did_not_keep_are_named_with_the_key_that_keeps_them(view):
    with pytest.raises(ValueError, match=r"did not count 'boundary'; set metrics\.boundary_px in a new run's config"):
        view.boundary()
    with pytest.raises(ValueError, match=r"set metrics\.calibration_bins"):
        view.calibration()
    with pytest.raises(ValueError, match="'masks' is not a count column; choose one of pixels, confusion"):
        view.counts("masks")


def test_boundary_calibration_and_instances_are_summed_before_they_are_divided(tmp_path):
    drawn = [
        Drawn("a", "0001/0001/0001", label="0011/0011/0011", raw="0111/0111/0111"),
        Drawn("b", "2222/2222/2222", label="2222/2222/0000", raw="2222/2222/2222"),
    ]
    run = open_run(make_run(str(tmp_path / "run"), drawn, boundary_px=(1, 2)))
    assert pq.read_schema(run.parts("masks")[0]).field("boundary").metadata == {b"width_px": b"1,2"}
    pairs = [(ids(one.label), ids(one.mask)) for one in drawn]
    summed = sum(count_boundary(label, mask, SPACE.num_classes, (1, 2)) for label, mask in pairs)
    table = run.boundary()
    for place, width in enumerate((1, 2)):
        expected = boundary_iou(summed[place])
        found = table.loc[(width, "boundary_iou")]
        assert found[list(SPACE.classes)].tolist() == pytest.approx(expected.tolist(), nan_ok=True)
        assert found["mean"] == pytest.approx(np.nanmean(expected))
    assert run.boundary(raw=True).loc[(1, "trimap_iou"), "sky"] < table.loc[(1, "trimap_iou"), "sky"]
    # Each drawing's confidence is 0.9 everywhere: of 24 pixels, 12 - 3 and 8 are right.
    histogram = open_run(make_run(str(tmp_path / "sure"), drawn, calibration_bins=5)).calibration()
    assert histogram["pixels"].tolist() == [0, 0, 0, 0, 24]
    assert histogram["accuracy"].tolist()[4] == 17 / 24
    assert histogram.attrs["ece"] == pytest.approx(0.9 - 17 / 24, abs=2e-5)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_grouping_sums_to_the_ungrouped_counts(data):
    """Groups with and without values, images with and without labels, any shards: nothing is lost or counted twice."""
    rows = st.text("01235.", min_size=6, max_size=6)
    drawn = data.draw(
        st.lists(
            st.builds(
                Drawn, image_id=st.uuids().map(str), mask=st.text("01235", min_size=6, max_size=6),
                label=st.none() | rows, city=st.none() | st.sampled_from("xyz"), sequence=st.none() | st.sampled_from("01"),
                frame=st.none() | st.integers(0, 3),
            ),
            min_size=1, max_size=12, unique_by=lambda one: one.image_id,
        )
    )  # fmt: skip
    uri = f"memory://{uuid.uuid4().hex}"
    run = open_run(make_run(uri, drawn, images_per_shard=data.draw(st.integers(1, 5))))
    by = data.draw(st.permutations(["split", "city", "sequence", "frame"]))[: data.draw(st.integers(1, 4))]
    for column in ("confusion", "pixels"):
        grouped, whole = run.counts(column, by), run.counts(column)
        assert grouped.to_numpy().sum(axis=0).tolist() == whole.loc["all"].tolist()
    labelled = [(ids(one.label), ids(one.mask)) for one in drawn if one.label]
    expected = sum((count_confusion(*pair, SPACE.num_classes) for pair in labelled), np.zeros((11, 11), np.int64))
    assert run.confusion().tolist() == expected.tolist()
