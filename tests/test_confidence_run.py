"""Confidence maps and unknown pixels of a run: written, verified, read and evaluated."""

import io
import json
import os
import re
import shutil
import signal
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from scipy import ndimage

from pipeline import storage
from pipeline.analysis import export, open_run
from pipeline.analysis.report import write_report
from pipeline.config import SegmentConfig, parse
from pipeline.corpus import Item, Place, list_items, plan_shards
from pipeline.corpus.samples import load_pair
from pipeline.crf import dense_crf
from pipeline.errors import UserError
from pipeline.imaging.decode import as_stored
from pipeline.imaging.mask_png import decode_mask, encode_mask
from pipeline.labels import IGNORE, space
from pipeline.metrics.instances import SHARE
from pipeline.models import checkpoint
from pipeline.predict import Prediction, Predictor
from pipeline.runs import Run, verify
from pipeline.segment.driver import identity, segment
from pipeline.segment.extend import extend
from pipeline.segment.loading import Loaded
from pipeline.segment.rows import mask_row
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.scenes import write_corpus
from tests.chaos.nodes import children, title
from tests.command import maskmill
from tests.test_ensembles import saved

IMAGES, HEIGHT, WIDTH, BELOW = 3, 48, 96, 0.3
ASKED = {"confidence_map": True, "unknown_below": BELOW}
CRF = {"iterations": 3, "smooth_weight": 1, "smooth_px": 1, "colour_weight": 2, "colour_px": 12, "colour_levels": 12}


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("best"), 3)


@pytest.fixture(scope="module")
def corpus(best, tmp_path_factory):
    """Labels are the network's own masks, three pixels to the right: it is right about most of them."""
    folder = str(tmp_path_factory.mktemp("corpus"))
    write_corpus(folder, {"val": IMAGES}, HEIGHT, WIDTH, seed=1, packed=False)
    cfg = config(folder, best)
    for item, row in zip(list_items(cfg.corpus, None), answered(cfg).values(), strict=True):
        label = space("cityscapes19").to_stored(np.roll(pixels_of(row, "mask"), 3, axis=1))
        label[:, :3] = 0  # unlabelled
        Image.fromarray(label).save(item.label.uri)
    return folder


def config(corpus, best, output="/unused", **changes):
    values = {
        "corpus": {"images": corpus, "labels": corpus, "layout": "cityscapes"}, "checkpoint": best, "output": str(output),
        "images_per_shard": 2, "max_reject_rate": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return parse(SegmentConfig, values | changes, where="test")


def answered(cfg):
    """Image id -> row."""
    masks, rejects = ShardSegmenter(checkpoint.load(cfg.checkpoint), cfg).answer(list_items(cfg.corpus, None))
    assert not rejects.num_rows
    return {row["image_id"]: row for row in masks.to_pylist()}


def write_run(cfg, edit=lambda table: table):
    """As `maskmill segment` writes it, without Ray; `edit` changes the table of each shard before it is committed."""
    ready, items = checkpoint.load(cfg.checkpoint), list_items(cfg.corpus, None)
    plan = plan_shards(items, cfg.images_per_shard)
    run = Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space, lambda: plan
    )
    segmenter = ShardSegmenter(ready, cfg)
    for shard in run.pending():
        masks, rejects = segmenter.answer(run.shard_items(shard))
        run.commit(shard, edit(masks), rejects)
    run.finish(max_reject_rate=0)
    return cfg.output


@pytest.fixture(scope="module")
def run(corpus, best, tmp_path_factory):
    return write_run(config(corpus, best, tmp_path_factory.mktemp("run") / "run", **ASKED))


def pixels_of(row, column):
    return np.asarray(Image.open(io.BytesIO(row[column]["bytes"])))


@pytest.fixture(scope="module")
def plain(corpus, best):
    """The same images without confidence, and their probabilities."""
    cfg = config(corpus, best)
    predictor = Predictor(checkpoint.load(best).model, cfg.predict)
    images = {item.image_id: np.asarray(Image.open(item.image.uri)) for item in list_items(cfg.corpus, None)}
    return answered(cfg), {name: predictor.probs([image])[0] for name, image in images.items()}, images


def label_arrays(corpus):
    cfg = config(corpus, "/unused").corpus
    return {item.image_id: load_pair(item, space("cityscapes19"), 10**9, None)[1] for item in list_items(cfg, None)}


def test_the_rows_hold_the_map_and_what_is_below_the_bound_is_unknown(run, plain, corpus):
    rows = {row["image_id"]: row for row in open_run(run).frame().compute().to_dict("records")}
    before, probs, _ = plain
    for name, row in rows.items():
        largest, old = probs[name].amax(dim=0).numpy(), pixels_of(before[name], "mask")
        level, mask = pixels_of(row, "confidence_map"), pixels_of(row, "mask")
        assert row["confidence_map"]["path"] == f"{name}.confidence.png"
        assert np.abs(level / 255 - largest).max() <= 0.5 / 255 + 1e-4
        assert np.array_equal(mask, np.where(level < 255 * BELOW, IGNORE, old))
        assert row["unknown_pixels"] == (level < 255 * BELOW).sum() > 100 and (mask != IGNORE).sum() > 100
        assert row["pixels"].sum() + row["unknown_pixels"] == HEIGHT * WIDTH
        assert before[name].keys() == row.keys() - {"confidence_map", "unknown_pixels", "unknown_labelled"}


def test_scores_are_over_the_known_pixels_and_the_unknown_ones_are_counted(run, plain, corpus):
    view, (before, _, _) = open_run(run), plain
    labels = label_arrays(corpus)
    masks, confusion, unknown = view.masks(list(labels)), np.zeros((19, 19), int), np.zeros(19, int)
    for name, label in labels.items():
        known = (label != IGNORE) & (masks[name] != IGNORE)
        np.add.at(confusion, (label[known], masks[name][known]), 1)
        left = label[(label != IGNORE) & (masks[name] == IGNORE)]
        unknown += np.bincount(left, minlength=19)
    assert np.array_equal(view.confusion(), confusion)
    assert view.counts("unknown_labelled").iloc[0].tolist() == [IMAGES, *unknown]
    row = view.unknown().iloc[0]
    assert row["share"] == pytest.approx(row["pixels"] / (IMAGES * HEIGHT * WIDTH))
    assert row["labelled_share"] == pytest.approx(unknown.sum() / (unknown.sum() + confusion.sum()))
    # Jaccard over all labelled pixels, an unknown one being of a class that no pixel has.
    right, labelled = np.diag(confusion), confusion.sum(1) + unknown
    union = labelled + confusion.sum(0) - right
    assert row["miou_as_wrong"] == pytest.approx(np.mean(right[union > 0] / union[union > 0]))
    assert row["miou_as_wrong"] < view.iou()["miou"].iloc[0]
    assert sum(view.unknown(by=["city"])["pixels"]) == row["pixels"]
    everything = sum(np.array(one["confusion"]).sum() for one in before.values())
    assert confusion.sum() + unknown.sum() == everything


def test_things_are_counted_over_the_known_pixels_too():
    cfg = config("/unused", "/unused", metrics={"instances": True}, **ASKED)
    car = space("cityscapes19").classes.index("car")
    mask, sure = np.full((8, 8), car, np.uint8), np.full((8, 8), 255, np.uint8)
    sure[:5] = 0  # all of one car, and a quarter of the other
    things = np.where(np.arange(8)[:, None] < 4, 26001, 26002) * np.ones((1, 8), np.int32)
    image = np.zeros((8, 8, 3), np.uint8)
    loaded = Loaded(Item("a", Place("a.png")), image, mask, orientation=1, instances=things)
    row = mask_row(loaded, Prediction(mask, 1.0, 0.0, sure), None, space("cityscapes19"), cfg)
    assert sum(row["confusion"]) == 24 and row["unknown_pixels"] == 40
    assert np.reshape(row["instances"], (19, 6))[car].tolist() == [1, 24, 24, SHARE, 24, SHARE]


def test_the_proof_covers_the_map_and_the_unknown_pixels(run):
    found = verify(run)
    assert (found.masks, found.problems) == (IMAGES, [])


def test_a_map_alone_leaves_masks_and_counts_as_they_were(corpus, best, plain):
    rows = answered(config(corpus, best, confidence_map=True))
    for name, row in rows.items():
        for column in ("mask", "pixels", "confusion", "confidence", "entropy", "miou"):
            assert row[column] == plain[0][name][column], column
        assert not {"unknown_pixels", "unknown_labelled"} & row.keys()


def test_with_a_crf_it_is_of_the_marginals(corpus, best, plain):
    cfg = config(corpus, best, crf=CRF, **ASKED)
    _, probs, images = plain
    for name, row in answered(cfg).items():
        marginals = dense_crf(probs[name].numpy(), images[name], cfg.crf, 1)
        level = pixels_of(row, "confidence_map")
        assert np.abs(level / 255 - marginals.max(axis=0)).max() <= 0.5 / 255 + 1e-3
        assert np.array_equal(pixels_of(row, "mask") == IGNORE, level < 255 * BELOW)
        assert np.array(row["confusion_raw"]).sum() == np.array(row["confusion"]).sum()  # over the same pixels


def test_streamed_images_have_the_rows_of_whole_ones(corpus, best):
    tiles = {"predict": {"tile": [32, 48], "overlap": 8}}
    whole = answered(config(corpus, best, **tiles, **ASKED))
    streamed = answered(config(corpus, best, stream_above_pixels=100, **tiles, **ASKED))
    for name, row in whole.items():
        for column in ("mask", "confidence_map"):
            assert np.array_equal(pixels_of(row, column), pixels_of(streamed[name], column)), column
        for column in ("pixels", "unknown_pixels", "unknown_labelled", "confusion"):
            assert row[column] == streamed[name][column], column
        assert 0 < row["unknown_pixels"] < HEIGHT * WIDTH


@pytest.mark.parametrize("limit", [None, 100])
def test_regions_have_the_mean_of_the_map_and_none_is_of_unknown_pixels(corpus, best, limit, tmp_path):
    tiles = {"predict": {"tile": [32, 48]}, "stream_above_pixels": limit}
    run = write_run(config(corpus, best, tmp_path / "run", regions={}, **tiles, **ASKED))
    assert verify(run).problems == []
    for row in open_run(run).frame().compute().to_dict("records"):
        level, mask = pixels_of(row, "confidence_map") / 255, pixels_of(row, "mask")
        regions = list(row["regions"])
        assert sum(one["area"] for one in regions) == (mask != IGNORE).sum()
        for one in regions:
            box = np.s_[one["box_top"] : one["box_bottom"], one["box_left"] : one["box_right"]]
            places, _ = ndimage.label(mask[box] == one["class_id"], np.ones((3, 3)))
            inside = [level[box][places == number] for number in range(1, places.max() + 1)]
            means = [float(values.mean()) for values in inside if len(values) == one["area"]]
            assert any(one["confidence"] == pytest.approx(mean, abs=1e-5) for mean in means)


def test_a_turned_photograph_has_a_map_that_is_stored_as_its_mask(best, tmp_path):
    folder = tmp_path / "images" / "val"
    folder.mkdir(parents=True)
    pixels = (torch.rand(6, 10, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    picture, exif = Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)), Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "a_1.png", exif=exif)
    picture.transpose(Image.Transpose.ROTATE_270).save(folder / "b_1.png")  # the same, upright
    cfg = parse(
        SegmentConfig,
        {"corpus": {"images": str(tmp_path), "layout": "camvid"}, "checkpoint": best, "output": "/unused", **ASKED},
        where="test",
    )
    turned, upright = (pixels_of(row, "confidence_map") for row in answered(cfg).values())
    assert turned.shape == (48, 80) and np.array_equal(turned, as_stored(upright, 6))


def flip(row, column, value):
    pixels = decode_mask(row[column]["bytes"]).copy()
    pixels[0, 0] = value
    row[column]["bytes"] = encode_mask(pixels)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda row: flip(row, "confidence_map", 0 if known_at_corner(row) else 255),
            "and the mask disagree: a pixel is 255",
        ),
        (
            lambda row: row["confidence_map"].update(bytes=row["confidence_map"]["bytes"][:40]),
            "confidence_map of .* cannot be",
        ),
        (
            lambda row: row["confidence_map"].update(bytes=encode_mask(np.zeros((3, 4), np.uint8))),
            r"is \(3, 4\), the mask",
        ),
        (
            lambda row: row.update(unknown_pixels=row["unknown_pixels"] + 1),
            "does not hold the pixels that its row counts",
        ),
        (lambda row: row.update(unknown_labelled=[10**6] * 19), "does not hold the pixels that its row counts"),
        (lambda row: row.update(confidence_map=None), "confidence_map of .* cannot be"),
    ],
)
def test_what_does_not_fit_is_found(change, sentence, corpus, best, tmp_path):
    def edit(table):
        rows = table.to_pylist()
        change(rows[0])
        return pa.Table.from_pylist(rows, table.schema)

    output = write_run(config(corpus, best, tmp_path / "run", images_per_shard=IMAGES, **ASKED), edit)
    (problem, *others) = verify(output).problems
    assert re.search(sentence, problem), problem
    assert len(others) <= 1


def known_at_corner(row):
    return bool(decode_mask(row["mask"]["bytes"])[0, 0] != IGNORE)


def test_maps_are_read_shown_and_exported(run, tmp_path):
    view = open_run(run)
    name = view.frame(["image_id"]).compute()["image_id"].iloc[1]
    (level,) = view.confidence_maps([name]).values()
    assert level.shape == (HEIGHT, WIDTH) and level.dtype == np.uint8
    assert np.array_equal(view.overlay(name, of="confidence"), np.repeat(level[..., None], 3, axis=2))
    done = export(view, "confidence-png", str(tmp_path / "maps"))
    assert done.masks == IMAGES
    assert np.array_equal(np.asarray(Image.open(tmp_path / "maps" / f"{name}.png")), level)
    maskmill("show", run, name, "--of", "confidence", "--output", str(tmp_path / "map.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "map.png"))[:HEIGHT, :WIDTH, 0], level)


def test_evaluate_says_what_is_unknown(run):
    row = open_run(run).unknown().iloc[0]
    shown = maskmill("evaluate", run).stdout
    assert f"{100 * row['share']:.2f} % of the pixels are unknown, their confidence is below 0.3" in shown
    assert "mIoU, unknown as wrong" in shown and "labelled pixels left unknown" in shown
    document = json.loads(maskmill("evaluate", run, "--json").stdout)
    assert document["unknown"]["pixels"] == row["pixels"]


def test_the_miou_with_unknown_as_wrong_is_that_of_the_cityscapes_server(run, corpus, tmp_path):
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    view = open_run(run)
    export(view, "cityscapes", str(tmp_path))
    theirs = official.generateMatrix(official.args)
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        for item in list_items(config(corpus, "/unused").corpus, None):
            mask = Image.open(archive.open(f"{item.image_id.rsplit('/')[-1]}_pred_labelIds.png"))
            truth = np.asarray(Image.open(item.label.uri))
            np.add.at(theirs, (truth.astype(int), np.asarray(mask).astype(int)), 1)
    ids = space("cityscapes19").stored_ids
    scores = np.array([official.getIouScoreForLabel(label_id, theirs, official.args) for label_id in ids])
    assert np.nanmean(scores) == pytest.approx(view.unknown()["miou_as_wrong"].iloc[0])


def test_a_run_without_them_says_how_to_have_them(corpus, best, tmp_path):
    view = open_run(write_run(config(corpus, best, tmp_path / "run")))
    assert not {"confidence_map", "unknown_pixels"} & set(view.columns)
    name = view.frame(["image_id"]).compute()["image_id"].iloc[0]
    for ask in (
        lambda: view.confidence_maps([name]),
        lambda: view.overlay(name, of="confidence"),
        lambda: export(view, "confidence-png", str(tmp_path / "maps")),
    ):
        with pytest.raises(UserError, match="set confidence_map: true in a new run's config"):
            ask()
    with pytest.raises(UserError, match="every pixel has a class; set unknown_below in a new run's config"):
        view.unknown()


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_actor_comes_back_with_the_same_maps_and_a_new_image_has_one_in_its_generation(
    ray_session, corpus, best, tmp_path
):
    shutil.copytree(corpus, tmp_path / "archive")
    cfg = config(str(tmp_path / "archive"), best, tmp_path / "run", images_per_shard=1, **ASKED)
    expected, killed = answered(cfg), []

    def kill(progress):
        if progress.answered_now and not killed:
            killed.extend(pid for pid in children(os.getpid()) if "MapWorker" in title(pid))
            os.kill(killed[0], signal.SIGKILL)

    segment(cfg, kill)
    assert killed
    assert verify(cfg.output).problems == []
    for row in open_run(cfg.output).frame().compute().to_dict("records"):
        assert row["confidence_map"] == expected[row["image_id"]]["confidence_map"]
    with pytest.raises(UserError, match=r"unknown_below: 0\.3, now 0\.4"):
        segment(cfg.model_copy(update={"unknown_below": 0.4}))
    item = list_items(cfg.corpus, None)[0]
    shutil.copy(item.image.uri, item.image.uri.replace("_000000_leftImg8bit", "_000099_leftImg8bit"))
    extend(cfg)
    assert verify(cfg.output).problems == []
    view = open_run(cfg.output)
    old, new = view.confidence_maps([item.image_id, item.image_id.removesuffix("_000000") + "_000099"]).values()
    assert np.array_equal(old, new)


def test_classes_that_are_merged_and_other_labels_leave_unknown_pixels_out(run, corpus):
    view = open_run(run)
    merged = view.merged({"vehicle": ["car", "truck", "bus"]})
    assert merged.confusion().sum() == view.confusion().sum() and not merged.has_unknown()
    again = view.evaluated_on(corpus)
    assert np.array_equal(again.confusion(), view.confusion())


def test_a_temperature_changes_confidences_and_no_mask_and_is_named(corpus, best, plain, tmp_path):
    given = {"metrics": {"calibration_bins": 15}, "confidence_map": True}
    hot = config(corpus, best, tmp_path / "hot", **given, predict={"temperature": 2})
    cold = config(corpus, best, tmp_path / "cold", **given)
    rows, before = (
        {row["image_id"]: row for row in open_run(write_run(cfg)).frame().compute().to_dict("records")}
        for cfg in (hot, cold)
    )
    _, probs, _ = plain
    for name, row in rows.items():
        powers = probs[name].sqrt()  # of a temperature of 2
        expected = (powers / powers.sum(0)).amax(0).numpy()
        assert row["mask"]["bytes"] == before[name]["mask"]["bytes"] and row["confidence"] < before[name]["confidence"]
        assert np.abs(pixels_of(row, "confidence_map") / 255 - expected).max() <= 0.5 / 255 + 1e-4
    sums = [open_run(cfg.output).calibration() for cfg in (hot, cold)]
    assert sums[0].attrs["ece"] != sums[1].attrs["ece"] and sums[0]["pixels"].sum() == sums[1]["pixels"].sum()

    words = "The network&#39;s logits are divided by the temperature 2."
    texts = [storage.read(write_report(cfg.output)).decode() for cfg in (hot, cold)]
    assert [words in text for text in texts] == [True, False]
    said = maskmill("compare", cold.output, hot.output).stdout
    assert "hot: the network's logits are divided by the temperature 2\n" in said and "cold: " not in said
    assert json.loads((tmp_path / "hot/run.json").read_text())["config"]["predict"]["temperature"] == 2
    with pytest.raises(UserError, match=r"predict\.temperature: 2(\.0)?, now 3"):
        write_run(hot.model_copy(update={"predict": hot.predict.model_copy(update={"temperature": 3.0})}))
