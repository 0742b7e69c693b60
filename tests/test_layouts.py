"""A corpus layout is one object: a layout made for the test, with groups of its own, works from the listing to a run's rows."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.config import CorpusConfig
from pipeline.corpus import GROUPS, items_of, list_items, plan_shards, scan_items
from pipeline.corpus.groups import ROW_COLUMNS
from pipeline.corpus.layouts import LAYOUTS
from pipeline.corpus.layouts.base import Layout, Patterns
from pipeline.errors import UserError
from pipeline.imaging.mask_png import encode_mask
from pipeline.metrics.confusion import count_confusion
from pipeline.runs import REJECT_SCHEMA, Run, mask_schema, verify
from pipeline.segment.rows import confusion_columns, identity_columns
from tests.small_run import SPACE, ids

PLANTED = Layout(
    "planted",
    patterns=lambda cfg: Patterns(re.compile(r"((\w+)/(\d+)_\d)\.png$"), None, "<weather>/<hour>_<number>.png"),
    key=lambda found: (found[1], {"weather": found[2], "hour": int(found[3])}),
)


def make_run(uri: str, cfg: CorpusConfig, config: dict[str, object] | None = None) -> str:
    """Every image of the corpus, two a shard: truth 0 1, and a mask that is right where its name ends in 0."""
    run = Run.open_or_create(uri, {}, config or {"crf": None}, SPACE, lambda: plan_shards(scan_items(cfg, None), 2))
    for shard in run.pending():
        rows = []
        for item in run.shard_items(shard):
            mask = ids("01" if item.image_id.endswith("0") else "00")
            rows.append(
                {
                    **identity_columns(item),
                    "height": 1,
                    "width": 2,
                    "mask": {"bytes": encode_mask(mask), "path": "a.png"},
                    "pixels": np.bincount(mask.ravel(), minlength=SPACE.num_classes).tolist(),
                    **confusion_columns(count_confusion(ids("01"), mask, SPACE.num_classes)),
                }
            )
        masks = pa.Table.from_pylist(rows, mask_schema(SPACE.num_classes))
        run.commit(shard, masks, pa.Table.from_pylist([], REJECT_SCHEMA))
    run.finish(max_reject_rate=0)
    return uri


def test_a_new_layout_with_its_own_groups_goes_from_the_listing_to_the_scores(tmp_path, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "camvid", PLANTED)
    for name in ("rain/9_0", "rain/9_1", "sun/10_0"):
        storage.put(str(tmp_path / f"corpus/{name}.png"), b"x")
    cfg = CorpusConfig(images=str(tmp_path / "corpus"), layout="camvid")
    assert list_items(cfg, None)[0].groups == {"weather": "rain", "hour": 9}
    (plan,) = plan_shards(scan_items(cfg, None), 2)
    assert items_of(plan) == list_items(cfg, None)
    view = open_run(make_run(str(tmp_path / "run"), cfg))
    assert verify(view.uri).problems == []
    assert view.groups == (*GROUPS, "weather", "hour")
    # rain: sky 2 of 3 pixels, building 1 of 2; sun: all right
    assert view.iou(by=["weather"])["miou"].to_dict() == pytest.approx({"rain": (2 / 3 + 1 / 2) / 2, "sun": 1})
    assert view.areas(by=["hour"])["images"].to_dict() == {9: 2, 10: 1}
    with pytest.raises(UserError, match="the group columns are split, city, sequence, frame, weather, hour"):
        view.iou(by=["season"])


@pytest.mark.parametrize("layout", ["manifest", "parquet"])
def test_further_columns_of_a_table_are_groups_after_those_that_every_run_has(tmp_path, layout):
    images = {"manifest": ["a0.png", "a1.png"], "parquet": [b"x", b"y"]}[layout]
    columns = {"image_id": ["a0", "a1"], "weather": ["rain", None], "hour": [9, 1 << 40], "blur": [0.5, 1.0]}
    pq.write_table(pa.table({"image": images, **columns, "__index_level_0__": [0, 1]}), tmp_path / "t.parquet")
    cfg = CorpusConfig(images=str(tmp_path / "t.parquet"), layout=layout)
    assert [item.groups for item in list_items(cfg, None)] == [{"weather": "rain", "hour": 9}, {"hour": 1 << 40}]
    view = open_run(make_run(str(tmp_path / "run"), cfg))
    assert verify(view.uri).problems == []
    assert view.groups == (*GROUPS, "weather", "hour")
    assert view.areas(by=["weather"])["images"].to_dict() == {"rain": 1, None: 1}


def test_further_columns_of_a_csv_are_groups(tmp_path):
    (tmp_path / "m.csv").write_text("image,weather,hour,split\na.png,rain,9,val\nb.png,,10,val\n")
    found = [item.groups for item in list_items(CorpusConfig(images=str(tmp_path / "m.csv"), layout="manifest"), None)]
    assert found == [{"split": "val", "weather": "rain", "hour": 9}, {"split": "val", "hour": 10}]


@pytest.mark.parametrize("name", ["uri", "shard", "mask", "height"])
def test_a_column_called_like_one_of_the_plan_or_of_every_row_is_no_group(tmp_path, name):
    pq.write_table(pa.table({"image": [b"x"], name: ["a"], "weather": ["rain"]}), tmp_path / "t.parquet")
    (item,) = list_items(CorpusConfig(images=str(tmp_path / "t.parquet"), layout="parquet"), None)
    assert item.groups == {"weather": "rain"}


def test_the_columns_of_every_row_are_named_where_groups_are():
    assert set(mask_schema(3).names) == {"image_id", "uri", "member", *GROUPS, *ROW_COLUMNS}


def test_files_that_disagree_on_a_groups_type_are_refused(tmp_path):
    for number, values in enumerate((["a"], [1])):
        pq.write_table(pa.table({"image": [b"x"], "hour": values}), tmp_path / f"{number}.parquet")
    with pytest.raises(UserError, match="group 'hour' has text in one file and whole numbers in another"):
        list_items(CorpusConfig(images=str(tmp_path), layout="parquet"), None)


def test_a_layout_that_is_not_there_is_told_with_those_that_are(tmp_path):
    storage.put(str(tmp_path / "a.png"), b"x")
    with pytest.raises(
        UserError, match=r"corpus\.layout: found 'vok'; choose one of cityscapes, .*voc, .*, or leave it out"
    ):
        list_items(CorpusConfig(images=str(tmp_path), layout="vok"), None)
