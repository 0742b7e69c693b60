"""One shard in one process: threads that take turns, images that are streamed, memory that stays bounded."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import SegmentConfig, parse
from pipeline.corpus import Item, Place, list_items
from pipeline.errors import Reject
from pipeline.imaging.mask_png import decode_mask
from pipeline.imaging.strips import Strips
from pipeline.models import checkpoint
from pipeline.runs import SECONDS
from pipeline.segment.core_turns import Turns
from pipeline.segment.loading import Loaded, Streamed
from pipeline.segment.packed import pack, unpack
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.scenes import write_corpus
from tests.bench.memory import peak_of

ROOT = Path(__file__).parent.parent


def config(images, checkpoint_uri, **changes) -> SegmentConfig:
    values = {
        "corpus": {"images": str(images), "layout": "camvid"}, "checkpoint": checkpoint_uri, "output": "/unused",
        "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return parse(SegmentConfig, values | changes, where="test")


def answer(checkpoint_uri, images, **changes):
    cfg = config(images, checkpoint_uri, **changes)
    masks, rejects = ShardSegmenter(checkpoint.load(checkpoint_uri), cfg).answer(list_items(cfg.corpus, None))
    rows = [{key: value for key, value in row.items() if key not in SECONDS} for row in masks.to_pylist()]
    return rows, {row["image_id"]: (row["stage"], row["error"]) for row in rejects.to_pylist()}


def put(folder, name, pixels, **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_no_more_threads_compute_than_there_are_cores_and_none_beside_the_model():
    turns, ones, model, seen = Turns(2), [], [], []
    lock = threading.Lock()

    def work(running, turn, label):
        for _ in range(40):
            with turn():
                with lock:
                    running.append(label)
                    seen.append((len(ones), len(model)))
                time.sleep(0.0005)
                with lock:
                    running.remove(label)

    threads = [threading.Thread(target=work, args=(ones, turns.one, n)) for n in range(5)]
    threads += [threading.Thread(target=work, args=(model, turns.all, n)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 7 * 40  # nobody waits for ever
    assert set(seen) == {(1, 0), (2, 0), (0, 1)}


def test_the_model_keeps_the_cores_until_it_waits_and_then_all_of_them_decode():
    turns, decoding, seen = Turns(2), [], []
    both = threading.Barrier(2, timeout=60)

    def decode():
        with turns.one():
            decoding.append(1)
            both.wait()

    with turns.all():
        threads = [threading.Thread(target=decode) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):  # passes, the CRF within one
            with turns.all():
                time.sleep(0.01)
                seen.append(len(decoding))
        assert set(seen) == {0}
        with turns.lent():
            for thread in threads:
                thread.join(60)
        assert len(decoding) == 2
        with pytest.raises(ZeroDivisionError), turns.lent():
            raise ZeroDivisionError
        late = threading.Thread(target=decode)
        late.start()
        time.sleep(0.05)
        assert len(decoding) == 2  # the cores came back
    both.wait()
    late.join(60)


def test_an_actor_of_one_core_uses_one_core(scenes, tiny_checkpoint):
    """Decoding, the model, enlarging, counting and encoding together: never more processor time than wall time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cfg = config(
            scenes[0], tiny_checkpoint, corpus={"images": scenes[0], "labels": scenes[1], "layout": "cityscapes"}
        )
        segmenter = ShardSegmenter(checkpoint.load(tiny_checkpoint), cfg)
        items = list_items(cfg.corpus, None)
        segmenter.answer(items[:2])  # compiles
        wall, cpu = time.perf_counter(), time.process_time()
        segmenter.answer(items * 4)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        torch.set_num_threads(threads)
    assert cpu < 1.1 * wall


SMOOTH = np.random.default_rng(2).integers(0, 256, (30, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)[:231, :317]


@pytest.mark.parametrize("kind", ["png", "tif", "tiled tif", "jpg"])
def test_rows_read_from_the_top_are_those_of_the_whole_picture(kind):
    file = io.BytesIO()
    if kind == "tiled tif":
        import pyvips

        data = pyvips.Image.new_from_array(SMOOTH).tiffsave_buffer(tile=True, tile_width=64, tile_height=64)
    else:
        Image.fromarray(SMOOTH).save(file, format={"png": "PNG", "tif": "TIFF", "jpg": "JPEG"}[kind])
        data = file.getvalue()
    strips, whole = Strips(data, 10**6), np.asarray(Image.open(io.BytesIO(data))).astype(int)
    found = np.zeros_like(whole)
    for top, bottom in [(0, 100), (60, 180), (170, 231)]:
        found[top:bottom] = strips.rows(top, bottom)
    assert np.abs(found - whole).max() <= (2 if kind == "jpg" else 0)


@pytest.mark.parametrize("overlap", [0, 16])
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "L"])
def test_a_streamed_image_gets_the_row_of_a_whole_one(tiny_checkpoint, tmp_path, overlap, mode):
    picture = Image.fromarray(SMOOTH).convert(mode)
    put(tmp_path, "images/val/s_1.png", np.asarray(picture.convert("RGB")))
    (tmp_path / "images/val/s_2.png").write_bytes(_saved(picture))
    for name in ("s_1", "s_2"):
        put(tmp_path, f"labels/val/{name}.png", SMOOTH[..., 0] % 34)
    predict = {"tile": [96, 128], "overlap": overlap}
    whole, _ = answer(tiny_checkpoint, tmp_path, predict=predict)
    streamed, rejects = answer(tiny_checkpoint, tmp_path, predict=predict, stream_above_pixels=50_000)
    assert not rejects and len(streamed) == len(whole) == 2
    for one, other in zip(whole, streamed, strict=True):
        masks = [decode_mask(row.pop("mask")["bytes"]) for row in (one, other)]
        assert np.array_equal(*masks)
        floats = [[row.pop(name) for name in ("confidence", "entropy")] for row in (one, other)]
        assert floats[0] == pytest.approx(floats[1], abs=1e-5)
        assert one == other
        assert sum(other["confusion"]) > 0


def _saved(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


def test_bad_pictures_are_rejected_while_they_are_streamed(tiny_checkpoint, tmp_path):
    picture = Image.fromarray(SMOOTH)
    png, exif = _saved(picture), Image.Exif()
    exif[0x0112] = 6
    bad = {
        "s_cut": (png[:-12], "truncated"),
        "s_bit": (png[: len(png) // 2] + bytes([png[len(png) // 2] ^ 16]) + png[len(png) // 2 + 1 :], "corrupt"),
        "s_turned": (_saved(picture, "JPEG", exif=exif), "unsupported_mode"),
        "s_gif": (_saved(picture, "GIF"), "unsupported_mode"),
        "s_large": (_saved(picture.resize((700, 800))), "too_large"),
    }
    (tmp_path / "images/val").mkdir(parents=True)
    for name, (data, _) in bad.items():
        (tmp_path / f"images/val/{name}.png").write_bytes(data)
    for name, label in {"s_size": SMOOTH[:99, :, 0] % 34, "s_ids": SMOOTH[..., 0], "s_rgb": SMOOTH}.items():
        (tmp_path / f"images/val/{name}.png").write_bytes(png)
        put(tmp_path, f"labels/val/{name}.png", label)
    (tmp_path / "images/val/s_good.png").write_bytes(png)
    rows, rejects = answer(tiny_checkpoint, tmp_path, predict={"tile": [96, 128]}, stream_above_pixels=50_000,
                           max_pixels=500_000)  # fmt: skip
    assert [row["image_id"] for row in rows] == ["val/s_good"]
    assert rejects == {
        **{f"val/{name}": ("decode", code) for name, (_, code) in bad.items()},
        "val/s_size": ("label", "label_size"),
        "val/s_ids": ("label", "label_out_of_range"),
        "val/s_rgb": ("label", "label_not_indexed"),
    }


@pytest.mark.slow
def test_an_image_larger_than_its_memory_is_answered():
    """240 MB decoded, 3.5 GB of scores: the child says how far its memory rose above a small picture's."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.bench.huge", "5000", "16000", "--tile", "128", "1024", "--overlap", "16"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert found["pixels"] == [40_000_000, 40_000_000]
    assert found["confusion"] == [40_000_000, 0, 0, 40_000_000]
    assert found["rise_mb"] < 200 < found["decoded_mb"]


def test_scenes_in_one_corpus_keep_their_order_in_mixed_batches(tiny_checkpoint, tmp_path):
    for index, size in enumerate([(40, 60), (64, 64), (41, 60), (20, 90), (63, 62), (40, 60)]):
        put(tmp_path, f"images/val/s_{index}.png", SMOOTH[: size[0], : size[1]])
    alone, _ = answer(tiny_checkpoint, tmp_path, predict={"pad_multiple": 64})
    mixed, _ = answer(tiny_checkpoint, tmp_path, predict={"pad_multiple": 64}, batch_size=3)
    assert [row["image_id"] for row in mixed] == [f"val/s_{index}" for index in range(6)]
    for one, other in zip(alone, mixed, strict=True):
        assert one["mask"] == other["mask"] and one["pixels"] == other["pixels"]
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)


def test_a_corpus_of_other_scenes_is_untouched_by_streaming(tiny_checkpoint, tmp_path):
    images, labels = write_corpus(str(tmp_path), {"val": 2}, 64, 128, seed=1)
    corpus = {"images": images, "labels": labels, "layout": "cityscapes"}
    plain, _ = answer(tiny_checkpoint, images, corpus=corpus, predict={"tile": [256, 256]})
    ready, _ = answer(tiny_checkpoint, images, corpus=corpus, predict={"tile": [256, 256]}, stream_above_pixels=8192)
    assert plain == ready


@pytest.mark.slow
def test_memory_stays_flat_as_the_corpus_grows():
    """Ten times the images, less than a tenth more memory: what one image leaves behind would show."""
    few, many = (peak_of(images, (64, 128)) for images in (16, 160))
    assert many < 1.1 * few


def test_what_was_loaded_comes_out_of_its_row_as_it_went_in():
    items = {name: Item(name, Place(f"/{name}")) for name in ("whole", "bare", "streamed", "bad")}
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    things = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    loaded = {
        "whole": Loaded(items["whole"], pixels[:, ::-1], pixels[..., 0], 6, things, seconds={"seconds_decode": 0.5}),
        "bare": Loaded(items["bare"], pixels, None, 1),
        "streamed": Streamed(items["streamed"], b"image", b"label"),
    }

    def load(item):
        if item.image_id not in loaded:
            raise Reject("decode", "corrupt", "a flipped bit")
        return loaded[item.image_id]

    row = pack(7, list(items.values()), load, threads=2)
    assert row["shard"].to_pylist() == [7]
    found = unpack(row)
    whole, bare, streamed = (found(items[name]) for name in loaded)
    for name in ("image", "label", "instances"):
        one, other = getattr(whole, name), getattr(loaded["whole"], name)
        assert one.dtype == other.dtype and np.array_equal(one, other), name
    assert (whole.item, whole.orientation, whole.seconds) == (items["whole"], 6, {"seconds_decode": 0.5})
    assert np.array_equal(bare.image, pixels) and bare.label is None and bare.instances is None
    assert (streamed.image, streamed.label) == (b"image", b"label")
    with pytest.raises(Reject, match="a flipped bit") as caught:
        found(items["bad"])
    assert (caught.value.stage, caught.value.reason) == ("decode", "corrupt")
    assert unpack(pack(7, None, load, threads=2)) is None
