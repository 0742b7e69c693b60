"""Declared bands from training to the exported GeoTIFF: networks of N bands, rows, runs, files for other programs."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from rio_cogeo import cog_validate
from torch import nn

from pipeline import models, storage
from pipeline.analysis import export, open_run
from pipeline.config import ImageConfig, SegmentConfig, parse, parse_model
from pipeline.corpus import list_items, plan_shards
from pipeline.errors import UserError
from pipeline.imaging.bands import as_picture, decode_bands
from pipeline.imaging.colours import IGNORED
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE
from pipeline.models import checkpoint, listing
from pipeline.models.bands import first_convolution_words, widen
from pipeline.models.export import export as export_model
from pipeline.runs import SECONDS, Run, verify
from pipeline.segment.driver import identity
from pipeline.segment.packed import pack, unpack
from pipeline.segment.shard import ShardSegmenter
from pipeline.storage import range_file
from pipeline.train.metrics_log import read_records
from tests.bands_corpus import (
    CRS,
    DECLARED,
    SPACE,
    TRANSFORM,
    UNET,
    scene,
    write_checkpoint,
    write_label,
    write_manifest,
    write_tif,
)
from tests.command import maskmill
from tests.small_train import config as train_config
from tests.small_train import counts_of_segment, train_alone

ROOT = Path(__file__).parent.parent
PROFILE = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "nodata": 0}


@pytest.fixture(scope="module")
def four_bands(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two labelled scenes of 111 x 157 as GeoTIFFs, their left margin without data, and the same in a zip."""
    folder = tmp_path_factory.mktemp("scenes")
    for index in range(2):
        bands, ids = scene(111, 157, seed=index)
        bands[index, :, :20] = 0
        write_tif(folder / f"all/images/s_{index}.tif", bands, **PROFILE)
        write_label(folder / f"all/labels/s_{index}.png", ids)
    shutil.make_archive(str(folder / "scenes"), "zip", folder / "all")
    return folder


def segment_config(images, uri, **changes) -> SegmentConfig:
    values = {
        "corpus": {"images": str(images), "layout": "pairs", "image_glob": "images/*.tif", "label_glob": "labels/*.png"},
        "checkpoint": uri, "output": "/unused", "predict": {"tile": [64, 64], "overlap": 16}, "max_reject_rate": 0,
        "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return parse(SegmentConfig, values | changes, where="test")


def answer(cfg: SegmentConfig, load=None):
    segmenter = ShardSegmenter(checkpoint.load(cfg.checkpoint), cfg)
    masks, rejects = segmenter.answer(list_items(cfg.corpus, None), load)
    rows = [{key: value for key, value in row.items() if key not in SECONDS} for row in masks.to_pylist()]
    return rows, rejects.to_pylist()


def write_run(cfg: SegmentConfig) -> Run:
    """As `maskmill segment` writes it, without Ray."""
    ready, items = checkpoint.load(cfg.checkpoint), list_items(cfg.corpus, None)
    run = Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space, lambda: plan_shards(items, 16)
    )
    run.commit(0, *ShardSegmenter(ready, cfg).answer(items))
    run.finish(max_reject_rate=0)
    return run


def same_rows(one, other):
    for left, right in zip(one, other, strict=True):
        left, right = dict(left), dict(right)
        assert np.array_equal(*(decode_mask(row.pop("mask")["bytes"]) for row in (left, right)))
        floats = [[row.pop(name) for name in ("confidence", "entropy")] for row in (left, right)]
        assert floats[0] == pytest.approx(floats[1], abs=1e-5)
        assert left == right


# Networks


@pytest.mark.parametrize(
    "values", [row for row, _ in listing.variants()], ids=lambda row: " ".join(map(str, row.values()))
)
def test_every_network_sees_five_bands(values):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        network = models.build(parse_model(values, where="test"), 7, bands=5).eval()
        x = torch.zeros(1, 5, *network.legal_size(64, 96))
        assert network(network.normalise(x))[-1].shape == (1, 7, *x.shape[-2:])
    assert models.input_bands(network) == 5 == len(network.mean) == len(network.std)
    assert [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3] == []


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_an_inflated_network_answers_alike_bands_as_it_answers_grey(bands):
    torch.manual_seed(0)
    network = models.build(parse_model(UNET, where="test"), 5).eval()
    network.mean, network.std = (0.4, 0.5, 0.6), (0.2, 0.2, 0.2)
    grey = torch.randint(0, 256, (1, 1, 32, 48), dtype=torch.uint8)
    weight = network.backbone.stages[0][0].weight
    with torch.no_grad():
        weight.copy_(weight.mean(dim=1, keepdim=True).expand_as(weight))  # each filter sees the sum of red, green, blue
        network.mean, network.std = (0.5,) * 3, (0.2,) * 3
        expected = network(network.normalise(grey.expand(-1, 3, -1, -1)))[-1]
        widen(network, bands, inflate=True)
        found = network(network.normalise(grey.expand(-1, bands, -1, -1)))[-1]
    assert torch.allclose(found, expected, atol=1e-4)


def test_inflated_filters_are_the_mean_of_rgb_s_scaled_and_drawn_ones_have_their_spread():
    torch.manual_seed(0)
    network = models.build(
        parse_model({"name": "fcn", "backbone": "vgg16", "stride": 32, "fc_channels": 8}, where=""), 2
    )
    conv = network.backbone.conv1_1
    rgb = conv.weight.detach().clone()
    widen(network, 6, inflate=True)
    assert torch.allclose(conv.weight, (rgb.sum(dim=1, keepdim=True) / 6).expand(-1, 6, -1, -1))
    assert network.mean == pytest.approx((0.449,) * 6, abs=1e-6)
    other = models.build(
        parse_model({"name": "fcn", "backbone": "vgg16", "stride": 32, "fc_channels": 8}, where=""), 2, bands=6
    )
    drawn = other.backbone.conv1_1.weight
    assert not torch.allclose(drawn[:, 0], drawn[:, 1])  # bands are told apart from the start
    assert drawn.std().item() == pytest.approx(rgb.std().item() * 0.5**0.5, rel=0.2)


def test_no_data_is_the_mean_to_the_network_and_levels_are_not_changed_in_place():
    network = models.build(parse_model(UNET, where="test"), 5, bands=4)
    pixels = torch.full((1, 4, 16, 16), 100.0)
    pixels[..., 0, 0] = torch.nan
    x = network.normalise(pixels)
    assert x[0, :, 0, 0].tolist() == [0.0] * 4
    assert x[0, 2, 5, 5].item() == pytest.approx((100 / 255 - 0.449) / 0.226, abs=1e-5)
    assert pixels[0, 0, 5, 5] == 100


def test_a_checkpoint_keeps_what_is_declared_and_says_nothing_where_nothing_is(four_bands, tiny_checkpoint):
    ready = checkpoint.load(four_bands)
    assert ready.image == DECLARED == checkpoint.image_of(four_bands)
    assert ready.identity["image"] == {"bands": [3, 2, 1, 4], "range": [0.0, 4095.0]}
    assert models.input_bands(ready.model) == 4
    assert "image" not in checkpoint.load(tiny_checkpoint).identity
    assert "image" not in (checkpoint.storage.read_json(f"{tiny_checkpoint}/checkpoint.json"))


def test_a_start_of_another_number_of_bands_is_refused():
    start, network = (models.build(parse_model(UNET, where=""), 5, bands=bands) for bands in (4, 6))
    with pytest.raises(UserError, match=r"that checkpoint's network sees 4 bands, the config's 6"):
        models.fit_bands(network, start)
    rgb = models.build(parse_model(UNET, where=""), 5)
    models.fit_bands(network, rgb)
    assert models.input_bands(rgb) == 6


def test_an_exported_network_takes_the_bands(four_bands, tmp_path):
    done = export_model(four_bands, "torch_export", str(tmp_path / "m.pt2"), 32, 48)
    assert done.difference < 1e-5
    logits = torch.export.load(str(tmp_path / "m.pt2")).module()(torch.full((1, 4, 32, 48), 50.0))
    assert logits.shape == (1, SPACE.num_classes, 32, 48)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weights": "imagenet"}, "the mean of ImageNet's red, green and blue filters, times 3/4, for each band"),
        (
            {"weights": "imagenet", "image": {"bands": [3, 2, 1], "range": [0, 1]}},
            "ImageNet's filters for red, green and blue",
        ),
        ({"start_from": "/model"}, "is that of /model, inflated if it was trained on three bands"),
    ],
)
def test_what_the_first_convolution_begins_with_is_said(values, words):
    declared = {"image": {"bands": [3, 2, 1, 4], "range": [0, 4095]}}
    assert words in first_convolution_words(train_config(("/unused", None), "/run", **{**declared, **values}))
    assert first_convolution_words(train_config(("/unused", None), "/run")) is None


def test_the_command_says_it_before_it_trains(tmp_path):
    manifest = write_manifest(tmp_path, {"train": 1})
    cfg = train_config(("/unused", None), tmp_path / "run", corpus={"images": str(manifest), "layout": "manifest"},
                       label_space="camvid11", image={"bands": [3, 2, 1, 4], "range": [0, 4095]})  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(cfg.model_dump(mode="json")))
    said = maskmill("train", str(tmp_path / "train.yaml"))
    assert any(line.startswith("the network sees 4 bands (3, 2, 1, 4)") for line in said.stdout.splitlines()), said


# Rows


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_windows_give_the_row_of_the_whole_image(corpus, four_bands, kind):
    images = corpus / {"folder": "all", "zip": "scenes.zip"}[kind]
    whole, rejects = answer(segment_config(images, four_bands))
    streamed, more = answer(segment_config(images, four_bands, stream_above_pixels=10_000))
    assert not rejects and not more and len(whole) == 2
    same_rows(whole, streamed)
    for row in whole:
        mask = decode_mask(row["mask"]["bytes"])
        assert (mask[:, :20] == IGNORE).all() and (mask[:, 20:] < SPACE.num_classes).all()
        assert sum(row["pixels"]) == sum(row["confusion"]) == 111 * 137
        assert rasterio.CRS.from_wkt(json.loads(row["georeference"])["crs"]) == CRS


@pytest.mark.parametrize("limit", [None, 10_000])
def test_pixels_without_data_have_no_confidence_and_are_not_unknown(corpus, four_bands, limit, tmp_path):
    cfg = segment_config(
        corpus / "all", four_bands, output=str(tmp_path / "run"), stream_above_pixels=limit, confidence_map=True,
        unknown_below=0.3,
    )  # fmt: skip
    write_run(cfg)
    assert verify(cfg.output).problems == []
    for row in answer(cfg)[0]:
        mask, level = (decode_mask(row[name]["bytes"]) for name in ("mask", "confidence_map"))
        assert not level[:, :20].any() and level[:, 20:].all()
        assert row["unknown_pixels"] == (mask[:, 20:] == IGNORE).sum() > 0
        assert row["unknown_pixels"] + sum(row["pixels"]) == 111 * 137
        assert sum(row["unknown_labelled"]) + sum(row["confusion"]) == 111 * 137


@pytest.mark.parametrize("limit", [None, 10_000])
def test_images_that_were_decoded_elsewhere_give_the_same_rows(corpus, four_bands, limit):
    cfg = segment_config(corpus / "all", four_bands, stream_above_pixels=limit)
    segmenter = ShardSegmenter(checkpoint.load(four_bands), cfg)
    row = pack(0, list_items(cfg.corpus, None), segmenter.load)
    here, elsewhere = answer(cfg)[0], answer(cfg, unpack(row))[0]
    same_rows(here, elsewhere)


@pytest.mark.slow
def test_the_crf_sees_the_first_three_bands(corpus, four_bands):
    crf = {"iterations": 2, "smooth_weight": 3, "smooth_px": 2, "colour_weight": 4, "colour_px": 20, "colour_levels": 8}
    rows, rejects = answer(segment_config(corpus / "all", four_bands, crf=crf, predict={}))
    assert not rejects and all(sum(row["confusion_raw"]) == 111 * 137 for row in rows)


def test_one_bad_file_is_a_reject_and_its_neighbours_are_answered(corpus, four_bands, tmp_path):
    shutil.copytree(corpus / "all", tmp_path / "all")
    images = tmp_path / "all/images"
    write_tif(images / "three.tif", scene(111, 157)[0][:3])
    write_tif(images / "eight.tif", (scene(111, 157)[0] >> 4).astype(np.uint8))
    (images / "cut.tif").write_bytes((images / "s_0.tif").read_bytes()[:7000])
    (images / "large.tif").write_bytes((images / "s_0.tif").read_bytes())
    write_label(tmp_path / "all/labels/large.png", np.zeros((111, 156), np.uint8))
    for limit in (None, 10_000):
        rows, rejects = answer(segment_config(tmp_path / "all", four_bands, stream_above_pixels=limit))
        assert [row["image_id"] for row in rows] == ["s_0", "s_1"]
        assert {row["image_id"]: (row["stage"], row["error"]) for row in rejects} == {
            "cut": ("decode", "corrupt"),
            "eight": ("decode", "bit_depth"),
            "large": ("label", "label_size"),
            "three": ("decode", "missing_band"),
        }


# Runs, and GeoTIFFs of them


def test_a_run_keeps_coordinates_verifies_and_exports_cogs_without_its_images(corpus, four_bands, tmp_path):
    shutil.copytree(corpus / "all", tmp_path / "all")
    cfg = segment_config(tmp_path / "all", four_bands, output=str(tmp_path / "run"), stream_above_pixels=10_000)
    run = write_run(cfg)
    assert run.image == DECLARED and verify(cfg.output).problems == []
    view = open_run(cfg.output)
    picture = view.pictures(["s_0"])["s_0"]
    levels, _ = decode_bands((tmp_path / "all/images/s_0.tif").read_bytes(), DECLARED, 10**6)
    assert np.array_equal(picture.image, as_picture(levels)) and picture.overlay("prediction").shape == (111, 157, 3)
    assert (picture.overlay("errors")[:, :20] == IGNORED).all()
    shutil.rmtree(tmp_path / "all")
    done = export(view, "geotiff", str(tmp_path / "out"))
    assert done.masks == 2
    for image_id, mask in view.masks(["s_0", "s_1"]).items():
        path = tmp_path / f"out/{image_id}.tif"
        valid, errors, warned = cog_validate(str(path), strict=True)
        assert valid and not errors and not warned
        with rasterio.open(path) as file:
            assert np.array_equal(file.read(1), mask)
            assert (file.crs, file.transform, file.nodata, file.dtypes) == (CRS, TRANSFORM, 255, ("uint8",))
            assert file.colormap(1)[2][:3] == view.space.colours[2]
            assert file.tags(1)["CLASS_2"] == view.space.classes[2]


def test_overviews_take_the_most_frequent_class(tmp_path):
    from pipeline.imaging.bands import georeference_of
    from pipeline.imaging.geotiff import write_cog
    from pipeline.imaging.mask_png import encode_mask

    mask = np.full((1200, 1300), 3, np.uint8)
    mask[::2, ::2] = 7  # a quarter of the pixels: bilinear would give 4, nearest 7
    place = georeference_of(write_tif(tmp_path / "a.tif", scene(8, 8)[0]).read_bytes())
    write_cog(encode_mask(mask), place, SPACE, tmp_path / "mask.tif")
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert file.overviews(1)
        assert np.unique(file.read(1, out_shape=(600, 650))).tolist() == [3]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".tif"] == []


def test_masks_of_8_bit_geotiffs_take_their_coordinates_from_the_images(tiny_checkpoint, tmp_path):
    rgb = (scene(64, 96)[0][:3] >> 4).astype(np.uint8)
    write_tif(tmp_path / "all/images/a.tif", rgb, photometric="rgb")
    cfg = segment_config(tmp_path / "all", tiny_checkpoint, output=str(tmp_path / "run"))
    write_run(cfg)
    view = open_run(cfg.output)
    assert export(view, "geotiff", str(tmp_path / "out")).masks == 1
    with rasterio.open(tmp_path / "out/a.tif") as file:
        assert (file.crs, file.transform) == (CRS, TRANSFORM)
    (tmp_path / "all/images/a.tif").unlink()
    with pytest.raises(UserError, match=r"image 'a' cannot be read again for its coordinates: .* put it back"):
        export(view, "geotiff", str(tmp_path / "out"))


def test_an_image_without_coordinates_has_no_geotiff(four_bands, tmp_path):
    write_tif(tmp_path / "all/images/a.tif", scene(64, 96)[0], crs=None)
    cfg = segment_config(tmp_path / "all", four_bands, output=str(tmp_path / "run"))
    write_run(cfg)
    with pytest.raises(UserError, match=r"image 'a' .* has no coordinate reference system.* export as png instead"):
        export(open_run(cfg.output), "geotiff", str(tmp_path / "out"))


def test_another_declaration_is_another_run(corpus, four_bands, tmp_path):
    cfg = segment_config(corpus / "all", four_bands, output=str(tmp_path / "run"))
    write_run(cfg)
    other = write_checkpoint(tmp_path / "other", ImageConfig(bands=(1, 2, 3, 4), range=(0.0, 4095.0)))
    with pytest.raises(UserError, match=r"image.bands: \[3, 2, 1, 4\], now \[1, 2, 3, 4\]"):
        Run.resumed(cfg.output, identity(cfg, checkpoint.load(other)))


# Training


@pytest.mark.slow
def test_a_network_learns_from_declared_bands_and_segments_as_it_was_validated(tmp_path):
    manifest = write_manifest(tmp_path / "corpus", {"train": 6, "val": 2})
    cfg = train_config(
        ("/unused", None), tmp_path / "run", corpus={"images": str(manifest), "layout": "manifest"}, label_space="camvid11",
        image={"bands": [3, 2, 1, 4], "range": [0, 4095]}, model=UNET, workers=1, epochs=8, batch_size=2,
        augment={"crop": [64, 64], "scale": [1, 1], "flip": True, "colour": 0.1},
        optimizer={"name": "adamw", "lr": 0.01, "backbone_lr_factor": 1, "weight_decay": 0, "warmup_steps": 0,
                   "poly_power": 1},
        validate_crf={"iterations": 1, "smooth_weight": 1, "smooth_px": 1, "colour_weight": 1, "colour_px": 9,
                      "colour_levels": 9},
    )  # fmt: skip
    losses = train_alone(cfg)
    assert losses[-1] < 0.5 * losses[0]
    ready = checkpoint.load(f"{cfg.output}/best")
    assert ready.image == DECLARED and len(ready.model.mean) == 4
    (started,) = [record for record in read_records(f"{cfg.output}/metrics.jsonl") if record["kind"] == "start"]
    assert started["first_convolution"].startswith(
        "the network sees 4 bands (3, 2, 1, 4); its first convolution begins with"
    )
    counts, _ = counts_of_segment(cfg, "best")
    assert counts.trace() > 0.9 * counts.sum() > 0
    again = train_config(
        ("/unused", None), tmp_path / "again", corpus=cfg.corpus.model_dump(), label_space="camvid11", workers=1, epochs=1,
        model=UNET, start_from=f"{cfg.output}/best", batch_size=2, image={"bands": [3, 2, 1, 4], "range": [0, 4095]},
    )  # fmt: skip
    assert train_alone(again)[0] < 0.7 * losses[0]


def test_what_is_wrong_with_an_image_ends_training_in_a_sentence(tmp_path):
    manifest = write_manifest(tmp_path, {"train": 2, "val": 1})
    corpus = {"images": str(manifest), "layout": "manifest"}
    plain = train_config(
        ("/unused", None), tmp_path / "run", corpus=corpus, label_space="camvid11", workers=1, batch_size=2
    )
    with pytest.raises(UserError, match=r"train_\d: .* not declared; .* image: \{bands:"):
        train_alone(plain)
    image = {"bands": [5], "range": [0, 4095]}
    declared = train_config(("/unused", None), tmp_path / "five", corpus=corpus, label_space="camvid11", workers=1,
                            batch_size=2, image=image)  # fmt: skip
    with pytest.raises(UserError, match=r"train_\d: image.bands asks for band 5, and the file has 4"):
        train_alone(declared)


# Stores, and memory


def test_windows_are_read_from_a_store_by_ranges_with_its_own_client(corpus, four_bands, s3, tmp_path):
    """Credentials and endpoint come from the AWS environment; the file is never fetched whole."""
    path = corpus / "all/images/s_0.tif"
    storage.put(f"{s3}/bands/images/s_0.tif", path.read_bytes())
    storage.put(f"{s3}/bands/labels/s_0.png", (corpus / "all/labels/s_0.png").read_bytes())
    here = answer(segment_config(corpus / "all", four_bands, stream_above_pixels=10_000))[0][:1]
    there, rejects = answer(segment_config(f"{s3}/bands", four_bands, stream_above_pixels=10_000))
    assert not rejects
    same_rows([{**row, "uri": ""} for row in here], [{**row, "uri": ""} for row in there])


@pytest.mark.parametrize("good_reads", [0, 1, 3, 6])
def test_a_store_that_fails_is_a_store_error_not_a_damaged_image(corpus, four_bands, monkeypatch, good_reads):
    cfg = segment_config(corpus / "all", four_bands, stream_above_pixels=10_000)
    reads, real = [], storage.read_range

    def failing(uri, offset, length):
        reads.append(uri)
        if uri.endswith("s_1.tif") and reads.count(uri) > good_reads:
            raise OSError("the store is away")
        return real(uri, offset, length)

    monkeypatch.setattr(range_file, "_BLOCK_BYTES", 4096)  # many requests
    monkeypatch.setattr(storage, "read_range", failing)
    rows, rejects = answer(cfg)
    assert [row["image_id"] for row in rows] == ["s_0"]
    assert [(row["stage"], row["error"]) for row in rejects] == [("read", "store_error")]
    assert "the store is away" in rejects[0]["message"]


def test_a_file_that_grew_since_it_was_planned_is_another_file(corpus, four_bands, tmp_path):
    shutil.copytree(corpus / "all", tmp_path / "all")
    cfg = segment_config(tmp_path / "all", four_bands, stream_above_pixels=10_000)
    segmenter, items = ShardSegmenter(checkpoint.load(four_bands), cfg), list_items(cfg.corpus, None)
    with (tmp_path / "all/images/s_0.tif").open("ab") as file:
        file.write(b"more")
    (tmp_path / "all/images/s_1.tif").unlink()
    _, rejects = segmenter.answer(items)
    assert [row["error"] for row in rejects.to_pylist()] == ["source_changed", "not_found"]


@pytest.mark.slow
def test_an_image_of_many_bands_is_never_whole_in_memory():
    """6144 x 6144 pixels: 302 MB as stored, 604 MB decoded; the child says how far its memory rose above a small file's."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.bench.geotiff", "6144", "6144", "--bare", "--tile", "512", "512", "--overlap", "64"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert found["pixels"] == [(6144 // 2 - 100) * 6144, 6144 // 2 * 6144]
    assert found["rise_mb"] < 200 < found["stored_mb"]
