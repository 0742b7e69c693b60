"""The table of regions: equal to scipy's regions, made from the masks, and verified with them."""

import json
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import labels, models, storage
from pipeline.analysis import open_run, open_runs
from pipeline.config import SegmentConfig, parse, parse_model
from pipeline.corpus import Item, Place, list_items, plan_shards
from pipeline.errors import UserError
from pipeline.imaging import regions as regions_module
from pipeline.imaging.decode import as_stored, decode_label
from pipeline.imaging.mask_png import decode_mask
from pipeline.imaging.polygons import geoparquet, region_polygons, require_shapely
from pipeline.imaging.regions import RegionFinder, find_regions
from pipeline.labels import IGNORE
from pipeline.models import checkpoint
from pipeline.predict import Prediction
from pipeline.runs import Run, compact, lease, parts_of, read_success, read_table, verify
from pipeline.runs.parts import footer_of, write_part
from pipeline.segment.crash_isolation import isolate_errors
from pipeline.segment.loading import Loaded
from pipeline.segment.rows import mask_columns, mask_row
from pipeline.segment.shard import ShardSegmenter
from tests import ledger_play, test_extend
from tests.bench import regions as bench
from tests.small_run import Drawn, make_run
from tests.test_shard import SMOOTH, put

ndimage = pytest.importorskip("scipy.ndimage")
# Two regions of class 0, one of class 1 around one pixel of class 3, and one of class 2.
DRAWING = "0111/0131/2111/2200"
DRAWN = [
    Drawn("val/a", DRAWING, city="x", sequence="s", frame=1, confidence=0.5),
    Drawn("val/b", "11/11", city="y", confidence=0.25),
    Drawn("val/c", None),
    Drawn("val/d", None, city="y"),
]


def of_scipy(mask, min_area=1, confidence=None):
    """(class, area, top, left, bottom, right, centroid row and column, mean confidence) of each, by scipy."""
    found = []
    for class_id in set(np.unique(mask).tolist()) - {IGNORE}:
        numbers, count = ndimage.label(mask == class_id)
        index = np.arange(1, count + 1)
        areas = ndimage.sum_labels(np.ones(mask.shape), numbers, index)
        centroids = ndimage.center_of_mass(np.ones(mask.shape), numbers, index)
        means = ndimage.mean(np.zeros(mask.shape) if confidence is None else confidence, numbers, index)
        firsts = np.unique(numbers, return_index=True)[1][-count:]
        for k, (rows, columns) in enumerate(ndimage.find_objects(numbers)):
            if areas[k] >= min_area:
                box = rows.start, columns.start, rows.stop, columns.stop
                found.append((firsts[k], class_id, areas[k], *box, *centroids[k], means[k]))
    return np.array([one[1:] for one in sorted(found)]).reshape(-1, 9)


def of_ours(found):
    sure = np.zeros(len(found.area)) if found.confidence is None else found.confidence
    return np.column_stack([found.class_id, found.area, found.box, found.centroid, sure])


@settings(max_examples=60, deadline=None)
@given(
    mask=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, IGNORE]))
    ),
    min_area=st.integers(1, 4), cut=st.integers(0, 9), seed=st.integers(0, 9),
)  # fmt: skip
def test_regions_are_scipys_however_the_mask_comes_in(mask, min_area, cut, seed):
    confidence = np.random.default_rng(seed).random(mask.shape, np.float32)
    expected = of_scipy(mask, min_area, confidence)
    np.testing.assert_allclose(of_ours(find_regions(mask, min_area, confidence)), expected, rtol=1e-6)
    finder = RegionFinder(mask.shape[1], min_area)
    for rows, sure in zip(np.split(mask, [cut]), np.split(confidence, [cut]), strict=True):
        if len(rows):
            finder.add(rows, sure)
    np.testing.assert_allclose(of_ours(finder.finish()), expected, rtol=1e-6)


def spiral(side):
    """A path one pixel wide from the corner inward, and the path between: each is one region that many rows join late."""
    mask = np.zeros((side, side), np.uint8)
    top, left, bottom, right = 0, 0, side, side
    while bottom - top > 2:
        mask[top, left:right] = mask[top:bottom, right - 1] = mask[bottom - 1, left:right] = 1
        mask[top + 2 : bottom, left] = 1
        mask[top + 2, left : left + 2] = 1
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        spiral(41), spiral(41)[:, ::-1], np.indices((30, 31)).sum(0).astype(np.uint8) % 2,
        np.tile(np.array([[0, 1], [2, 3]], np.uint8), (9, 9)), np.full((3, 4), IGNORE, np.uint8),
        np.tile(np.arange(5, dtype=np.uint8), (7, 1)), np.zeros((50, 1), np.uint8),
        np.random.default_rng(0).integers(0, 3, (64, 96)).astype(np.uint8),
    ],
    ids=["spiral", "mirrored", "chessboard", "four", "ignored", "columns", "narrow", "noise"],
)  # fmt: skip
def test_hard_shapes_are_scipys(mask):
    np.testing.assert_allclose(of_ours(find_regions(mask)), of_scipy(mask), rtol=1e-6)


def test_regions_of_camvids_labels_are_scipys(camvid):
    with zipfile.ZipFile(camvid) as archive:
        names = [name for name in sorted(archive.namelist()) if name.startswith("labels/") and name.endswith(".png")]
        files = [archive.read(name) for name in names[:: len(names) // 3]]
    for file in files:
        mask = decode_label(file, 10**7)
        assert len(np.unique(mask)) > 5
        found = find_regions(mask)
        np.testing.assert_allclose(of_ours(found), of_scipy(mask), rtol=1e-6)
        assert found.area.sum() == (mask != IGNORE).sum()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(str(tmp_path_factory.mktemp("regions") / "run"), DRAWN, regions=1)


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run that a test may break."""
    for file in storage.list_files(made):
        storage.put(storage.join(str(tmp_path / "run"), file.path), storage.read(file.uri))
    return str(tmp_path / "run")


def rows_of(uri):
    return pa.concat_tables(read_table(storage.read(part.uri)) for part in parts_of(uri, "regions")).to_pylist()


def test_each_region_is_a_row(made):
    rows = rows_of(made)
    told = [(row["image_id"], row["class"], row["class_id"], row["area"]) for row in rows]
    classes = labels.space("camvid11").classes
    assert told == [
        ("val/a", classes[0], 0, 2), ("val/a", classes[1], 1, 8), ("val/a", classes[3], 3, 1), ("val/a", classes[2], 2, 3),
        ("val/a", classes[0], 0, 2), ("val/b", classes[1], 1, 4),
    ]  # fmt: skip
    third, last = rows[3], rows[4]
    assert [third[f"box_{edge}"] for edge in ("top", "left", "bottom", "right")] == [2, 0, 4, 2]  # half-open
    assert (third["centroid_row"], third["centroid_col"]) == pytest.approx((8 / 3, 1 / 3))
    assert [third[f"touches_{edge}"] for edge in ("top", "left", "bottom", "right")] == [False, True, True, False]
    assert [last[f"touches_{edge}"] for edge in ("top", "left", "bottom", "right")] == [False, False, True, True]
    assert (third["city"], third["sequence"], third["frame"], third["height"], third["width"]) == ("x", "s", 1, 4, 4)
    assert {row["image_id"]: row["confidence"] for row in rows} == {"val/a": 0.5, "val/b": 0.25}


def test_areas_sum_to_the_pixels_of_the_mask_but_for_what_is_below_the_least(made, tmp_path):
    large = make_run(str(tmp_path / "run"), DRAWN, regions=3)
    for uri, missing in ((made, [0] * 11), (large, [4, 0, 0, 1] + [0] * 7)):
        areas = np.zeros(11, np.int64)
        for row in rows_of(uri):
            areas[row["class_id"]] += row["area"]
        pixels = open_run(uri).areas().iloc[0].to_numpy()[1:]
        assert (pixels - areas).tolist() == missing
        assert verify(uri).problems == []


def test_the_end_of_the_run_speaks_of_every_part_of_regions(made):
    ended = read_success(made)
    assert ended.regions == 6
    assert {name: entry.rows for name, entry in ended.parts.items() if name.startswith("regions/")} == {
        "regions/part-00000.parquet": 6, "regions/part-00001.parquet": 0,
    }  # fmt: skip
    told = verify(made)
    assert (told.problems, told.masks, told.rejects) == ([], 2, 2)


def test_a_run_without_regions_has_no_trace_of_them(tmp_path):
    uri = make_run(str(tmp_path / "run"), DRAWN)
    assert not any(file.path.startswith("regions") for file in storage.list_files(uri))
    for name in ("run.json", "_SUCCESS.json"):
        assert b'"regions"' not in storage.read(storage.join(uri, name))
    assert "regions" not in read_table(storage.read(parts_of(uri, "masks")[0].uri)).schema.names
    with pytest.raises(UserError, match=r"has no table of regions; set `regions: \{\}` in a new run's config"):
        open_run(uri).regions()


def part(uri, kind="regions", shard=0):
    return Path(uri) / kind / f"part-{shard:05d}.parquet"


def rewrite(path, change):
    """A part with other rows and a footer that is whole; its metadata stays."""
    data = path.read_bytes()
    metadata, table = footer_of(data, path.name).metadata, change(read_table(data))
    path.write_bytes(write_part(table, metadata, [] if path.parent.name == "masks" else None))


def with_area(table):
    return table.set_column(table.schema.get_field_index("area"), table.schema.field("area"), pc.add(table["area"], 1))


TAMPERED = {
    "gone": (lambda uri: part(uri).unlink(), "regions/part-00000.parquet is missing"),
    "an area": (lambda uri: rewrite(part(uri), with_area), "does not hold the regions of masks/part-00000.parquet"),
    "a row less": (lambda uri: rewrite(part(uri), lambda t: t.slice(1)), "does not hold the regions of masks/part-00000"),
    "a byte": (lambda uri: flip(part(uri)), "is not the file that was committed"),
    "swapped": (lambda uri: part(uri).write_bytes(part(uri, shard=1).read_bytes()), "says of itself that its"),
    "the masks": (
        lambda uri: rewrite(part(uri, "masks"), without_first_region), "does not have the regions that its row tells"
    ),
    "the sum": (lambda uri: edit(uri, '"regions": 6', '"regions": 7'), "regions is 7, its regions parts have 6"),
}  # fmt: skip


def flip(path):
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(bytes(data))


def edit(uri, before, after):
    path = Path(uri) / "_SUCCESS.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def without_first_region(table):
    rows = [row[1:] for row in table["regions"].to_pylist()]
    field = table.schema.field("regions")
    return table.set_column(table.schema.get_field_index("regions"), field, pa.array(rows, field.type))


@pytest.mark.parametrize("change", TAMPERED)
def test_verify_finds_what_was_changed(run, change):
    tamper, words = TAMPERED[change]
    tamper(run)
    assert any(words in problem for problem in verify(run).problems), verify(run).problems


@pytest.mark.parametrize("change", ["gone", "stale", "foreign", "orphan"])
def test_the_end_of_a_run_writes_regions_from_the_masks(run, made, change):
    whole = {path.name: path.read_bytes() for path in (Path(run) / "regions").iterdir()}
    match change:
        case "gone":
            part(run).unlink()
        case "stale":  # of another answer of the same shard: its footer is whole, and names other masks
            metadata = footer_of(whole[part(run).name], "a part").metadata | {"maskmill.masks": "0" * 64}
            part(run).write_bytes(write_part(read_table(whole[part(run).name]).slice(1), metadata))
        case "foreign":
            part(run).write_bytes(b"PAR1 something else PAR1")
        case "orphan":  # of a shard that has no part of its own
            part(run, shard=7).write_bytes(whole[part(run).name])
    (Path(run) / "_SUCCESS.json").unlink()
    assert Run.open(run).pending() == []
    assert Run.open(run).finish(1).regions == 6
    assert {path.name: path.read_bytes() for path in (Path(run) / "regions").iterdir()} == whole
    assert verify(run).problems == []


def test_a_lost_regions_part_ends_the_run_and_the_same_command_mends_it(run):
    part(run).unlink()
    assert Run.open(run).finished() is None  # as for masks: `segment` looks again
    Run.open(run).finish(1)
    assert Run.open(run).finished().regions == 6


def test_a_compacted_copy_has_the_same_regions(run):
    out = f"{run}-compact"
    compact(run, out)
    (only,) = parts_of(out, "regions")
    assert (only.first, only.last) == (0, 1)
    assert rows_of(out) == rows_of(run) and verify(out).problems == []


def test_each_generation_of_a_run_has_the_regions_of_its_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRES_S", -1000.0)
    monkeypatch.setattr(test_extend, "IDENTITY", test_extend.IDENTITY | {"regions": {"min_area": 1}})
    monkeypatch.setattr(test_extend, "rejecting", partial(ledger_play.rejecting, regions=True))
    archive = test_extend.Archive(str(tmp_path), 10)
    test_extend.segment(archive)
    archive.change()
    state = test_extend.extend(archive)
    assert state.regions == state.rows and verify(archive.run).problems == []  # each of those masks is one region
    for generation in (1, 2):
        run = open_run(archive.run, generation)
        ids = [frame.compute()["image_id"].tolist() for frame in (run.frame(["image_id"]), run.regions(["image_id"]))]
        assert len(set(ids[0])) == len(ids[0]) > 7 and sorted(ids[0]) == sorted(ids[1])
    rewrite(Path(archive.run) / "regions/part-00001.g00002.parquet", lambda table: table.slice(1))
    assert any(
        "does not hold the regions of masks/part-00001.g00002" in problem for problem in verify(archive.run).problems
    )


def test_the_question_in_python(made):
    run = open_run(made)
    assert run.regions().compute().shape == (6, 21)
    chosen = run.regions(["image_id", "area", "class"], classes=[run.space.classes[1]], min_area=5).compute()
    assert chosen.to_numpy().tolist() == [["val/a", 8, run.space.classes[1]]]
    with pytest.raises(UserError, match="have no class 'persn'; choose one of"):
        run.regions(classes=["persn"])
    with pytest.raises(UserError, match="have no column 'size'; choose one of"):
        run.regions(["size"])
    with pytest.raises(UserError, match="no table of regions"):
        run.merged({"any": list(run.space.classes[:2])}).regions()


def test_several_runs_are_asked_together(made, tmp_path):
    other = make_run(str(tmp_path / "next"), [Drawn("val/e", "44/45", city="y")], regions=1)
    table = open_runs([made, other]).regions(["image_id", "class_id", "area"]).compute()
    assert len(table) == 8 and table["run"].nunique() == 2
    assert table[table["image_id"] == "val/e"][["class_id", "area"]].to_numpy().tolist() == [[4, 3], [5, 1]]


def test_duckdb_answers_the_question_of_the_guide(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    bench.write_regions(tmp_path, 20 * bench.A_PART)
    (question, text) = next(iter(bench.QUESTIONS.items()))
    answer = dict(duckdb.sql(text.format(f"{tmp_path}/*.parquet")).fetchall())
    table = pa.concat_tables(read_table(file.read_bytes()) for file in sorted(tmp_path.glob("*.parquet"))).to_pandas()
    lower = table[(table["class"] == "person") & (table["centroid_row"] > table["height"] / 2)]
    counts = lower["image_id"].value_counts()
    assert "three persons in the lower half" in question and len(table) == 12_800
    assert len(answer) > 1 and answer == counts[counts > 3].to_dict()


def test_a_group_with_the_name_of_a_column_of_regions_is_refused(tmp_path):
    def plan():
        (table,) = plan_shards([Item("a", Place("/a.png", bytes=1))], 1)
        return [table.append_column("area", pa.array(["north"]))]

    def begin(identity):
        return Run.open_or_create(str(tmp_path / "run"), identity, {}, labels.space("camvid11"), plan)

    with pytest.raises(UserError, match="'area' cannot be a group, the table of regions has a column of that name"):
        begin({"regions": {"min_area": 1}})
    assert begin({}).plan.group_fields[-1].name == "area"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A checkpoint whose random network gives many regions: it looks at few pixels."""
    torch.manual_seed(0)
    cfg = parse_model({"name": "unet", "channels": 8, "depth": 2}, where="test")
    model = models.build(cfg, 19)
    uri = str(tmp_path_factory.mktemp("checkpoint"))
    checkpoint.save(uri, model, cfg, labels.space("cityscapes19"), {"epoch": 0, "miou": 0.0})
    return uri


def segmented(scenes, model, **changes):
    """Mask rows and reject rows of the corpus' first two images, the segmenter, and the items."""
    corpus = None if scenes is None else {"images": scenes[0], "labels": scenes[1], "layout": "cityscapes"}
    values = {"corpus": corpus, "checkpoint": model, "output": "/unused", "max_reject_rate": 1, "actors": 1,
              "cpus_per_actor": 1, "regions": {"min_area": 2}}  # fmt: skip
    cfg = parse(SegmentConfig, values | changes, where="test")
    segmenter, items = ShardSegmenter(checkpoint.load(model), cfg), list_items(cfg.corpus, None)[:2]
    return *segmenter.answer(items), segmenter, items


def of_table(rows):
    names = [
        "class_id",
        "area",
        "box_top",
        "box_left",
        "box_bottom",
        "box_right",
        "centroid_row",
        "centroid_col",
        "confidence",
    ]
    return np.array([[row[name] for name in names] for row in rows], float).reshape(-1, 9)


def test_a_segmented_images_regions_are_those_of_its_mask_and_probabilities(scenes, network):
    masks, rejects, segmenter, items = segmented(scenes, network, metrics={"calibration_bins": 5})
    assert (masks.num_rows, rejects.num_rows) == (2, 0)
    for item, row in zip(items, masks.to_pylist(), strict=True):
        probs = segmenter.predictor.probs([segmenter.load(item).image])[0]
        largest, mask = probs.amax(0).numpy(), decode_mask(row["mask"]["bytes"])
        assert len(row["regions"]) > 1
        np.testing.assert_allclose(of_table(row["regions"]), of_scipy(mask, 2, largest), rtol=1e-5)


def test_a_streamed_image_has_the_regions_of_a_whole_one(network, tmp_path):
    put(tmp_path, "images/val/s_1.png", SMOOTH)
    asked = {"corpus": {"images": str(tmp_path), "layout": "camvid"}, "predict": {"tile": [96, 128], "overlap": 16}}
    whole, *_ = segmented(None, network, **asked)
    streamed, rejects, *_ = segmented(None, network, **asked, stream_above_pixels=50_000)
    assert rejects.num_rows == 0 and len(streamed["regions"][0]) > 100
    assert streamed["regions"].to_pylist() == whole["regions"].to_pylist()


def test_confidence_is_null_where_the_run_keeps_no_probabilities(scenes, network):
    masks, *_ = segmented(scenes, network)
    found = masks["regions"].combine_chunks().flatten()
    assert len(found) > 1 and pc.all(pc.is_null(pc.struct_field(found, "confidence"))).as_py()


def test_regions_lie_as_the_corpus_stores_the_image():
    mask = np.array([[0, 0, 0], [1, 1, 0]], np.uint8)
    sure = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32)
    item = Item("a", Place("/a.png", bytes=1))
    loaded = Loaded(item, np.zeros((2, 3, 3), np.uint8), None, 6, None, None, confidence=sure)
    values = {
        "corpus": {"images": "/unused", "layout": "camvid"},
        "checkpoint": "/unused",
        "output": "/unused",
        "regions": {},
    }
    cfg = parse(SegmentConfig, values, where="test")
    row = mask_row(loaded, Prediction(mask, 0.5, 0.5), None, labels.space("camvid11"), cfg)
    stored = decode_mask(row["mask"]["bytes"])
    assert stored.shape == (3, 2)
    expected = of_scipy(stored, 1, as_stored(sure, 6))
    np.testing.assert_allclose(of_table(row["regions"].to_pylist()), expected, rtol=1e-6)


@pytest.fixture
def shapely():
    pytest.importorskip("rasterio")
    return pytest.importorskip("shapely")


@pytest.mark.parametrize("min_area", [1, 5])
def test_polygons_cover_their_regions(shapely, min_area):
    mask = np.random.default_rng(3).integers(0, 3, (40, 50)).astype(np.uint8)
    mask[5:30, 8:40], mask[10:14, 12:20], mask[0:3] = 1, 0, IGNORE
    found = find_regions(mask, min_area)
    exact = shapely.from_wkb(region_polygons(mask, found, 0, None))
    assert shapely.area(exact).tolist() == found.area.tolist()
    assert max(shapely.get_num_interior_rings(exact)) > 0
    left, top, right, bottom = shapely.bounds(exact).T
    np.testing.assert_array_equal(np.stack([top, left, bottom, right], axis=1), found.box)
    rows, columns = (found.centroid + 0.5).T  # of pixels' corners
    np.testing.assert_allclose(np.stack([shapely.get_x(shapely.centroid(exact)), shapely.get_y(shapely.centroid(exact))]),
                               [columns, rows], rtol=1e-9)  # fmt: skip
    simple = shapely.from_wkb(region_polygons(mask, found, 1.5, None))
    assert shapely.is_valid(simple).all() and not shapely.is_empty(simple).any()
    assert shapely.get_num_coordinates(simple).sum() < 0.8 * shapely.get_num_coordinates(exact).sum()
    assert set(map(tuple, shapely.get_coordinates(simple))) <= set(map(tuple, shapely.get_coordinates(exact)))
    disc = (np.hypot(*(np.indices((70, 70)) - 35)) < 30).astype(np.uint8)
    exact, simple = (
        shapely.from_wkb(region_polygons(disc, find_regions(disc), tolerance, None)[1]) for tolerance in (0, 1.5)
    )
    assert shapely.hausdorff_distance(exact, simple) <= 1.5
    assert shapely.get_num_coordinates(simple) < 0.2 * shapely.get_num_coordinates(exact)


def test_polygons_of_a_georeferenced_image_are_on_its_map(shapely):
    import rasterio

    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:6] = 1
    transform = rasterio.Affine(10, 1, 500_000, 0.5, -10, 6_000_000)
    place = json.dumps({"crs": rasterio.CRS.from_epsg(32633).to_wkt(), "transform": list(transform.to_gdal())})
    polygon = shapely.from_wkb(region_polygons(mask, find_regions(mask), 0, place)[1])
    expected = shapely.Polygon([transform * corner for corner in [(2, 1), (6, 1), (6, 3), (2, 3)]])
    assert shapely.equals_exact(polygon, expected, 1e-6, normalize=True)
    described = json.loads(geoparquet("polygon", {place}))["columns"]["polygon"]
    assert described["crs"]["id"] == {"authority": "EPSG", "code": 32633} and described["encoding"] == "WKB"
    assert json.loads(geoparquet("polygon", {place, None}))["columns"]["polygon"]["crs"] is None


def test_a_run_with_polygons_is_geoparquet(shapely, tmp_path):
    uri = make_run(str(tmp_path / "run"), DRAWN, regions=1, polygons=0)
    compact(uri, f"{uri}-compact")
    for run in (uri, f"{uri}-compact"):
        (first, *_) = parts_of(run, "regions")
        table = read_table(storage.read(first.uri))
        geo = json.loads(table.schema.metadata[b"geo"])
        assert (geo["version"], geo["primary_column"], geo["columns"]["polygon"]["crs"]) == ("1.1.0", "polygon", None)
        assert shapely.area(shapely.from_wkb(table["polygon"].to_pylist())).tolist() == table["area"].to_pylist()
        assert verify(run).problems == []
    assert open_run(uri).regions(["polygon"]).compute().shape == (6, 1)


def test_polygons_of_streamed_images_are_refused():
    with pytest.raises(UserError, match=r"stream_above_pixels cannot be combined with regions\.polygons"):
        parse(SegmentConfig, {"corpus": {"images": "a"}, "checkpoint": "b", "output": "c", "predict": {"tile": [8, 8]},
                              "regions": {"polygons": 1}, "stream_above_pixels": 100}, where="test")  # fmt: skip


def test_polygons_without_shapely_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(
        UserError, match=r"need rasterio and shapely .*; run: pip install 'maskmill\[geo\]', on every node"
    ):
        require_shapely()


@pytest.mark.parametrize("failing", [[0], [0, 1]])
def test_an_image_on_which_the_code_fails_leaves_the_regions_of_others(scenes, network, failing):
    whole, _, segmenter, items = segmented(scenes, network)
    bad = {items[place].image_id for place in failing}

    def answer(those):
        if bad & {item.image_id for item in those}:
            raise RuntimeError("a fault")
        return segmenter.answer(those)

    masks, rejects = isolate_errors(answer, items, mask_columns(segmenter.cfg, segmenter.space, declared=False))
    assert masks.schema == whole.schema and masks["regions"].to_pylist() == whole["regions"].to_pylist()[len(failing) :]
    assert set(rejects["image_id"].to_pylist()) == bad


def test_a_mask_of_too_many_regions_is_a_reject_and_the_others_are_answered(scenes, network, monkeypatch):
    masks, *_ = segmented(scenes, network)
    counts = [len(row) for row in masks["regions"]]
    assert counts[0] != counts[1]
    monkeypatch.setattr(regions_module, "MAX_REGIONS", min(counts))
    masks, rejects, _, items = segmented(scenes, network)
    assert masks["image_id"].to_pylist() == [items[int(np.argmin(counts))].image_id]
    (reject,) = rejects.to_pylist()
    assert (reject["stage"], reject["error"]) == ("encode", "too_many_regions")
    assert "raise regions.min_area" in reject["message"]
