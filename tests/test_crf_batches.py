"""Images of one pass share batches of the device path, smaller ones if memory runs out, with the same results as alone."""

import logging

import numpy as np
import pytest
import torch

from pipeline.corpus import list_items
from pipeline.crf import gpu
from pipeline.imaging.mask_png import decode_mask
from pipeline.models import checkpoint
from pipeline.segment import crf_batches
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.street import draw_scene
from tests.test_shard import config, put

CRF = {"iterations": 2, "smooth_weight": 3, "smooth_px": 3, "colour_weight": 4, "colour_px": 67, "colour_levels": 13}
SIZES = [
    (40, 56),
    (40, 56),
    (41, 55),
    (40, 56),
    (41, 55),
    (40, 56),
    (40, 56),
    (24, 30),
]  # the first three pad to one size


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(SIZES):
        put(folder, f"images/val/s_{number}.png", draw_scene(np.random.default_rng(number), *size)[0])
    return folder


@pytest.fixture
def batches(monkeypatch):
    """Sizes of the batches that the device path is given; scores on the CPU take it too."""
    sizes = []

    def on_device(probs, images, cfg, num_threads, classes):
        sizes.append(len(probs))
        pixels = torch.from_numpy(np.stack(images))
        return list(gpu.dense_crf_batch(torch.stack(probs), pixels, cfg, classes))

    monkeypatch.setattr(crf_batches, "sharpen_together", on_device)
    return sizes


def answered(checkpoint_uri, pictures, most, **changes):
    """(mask, mean confidence, mean entropy) by image, rejects by image, and the segmenter."""
    cfg = config(pictures, checkpoint_uri, **{"crf": CRF, "batch_size": 4} | changes)
    segmenter = ShardSegmenter(checkpoint.load(checkpoint_uri), cfg)
    segmenter.crf.most = most
    rows, rejects = segmenter.answer(list_items(cfg.corpus, None))
    assert rows.num_rows + rejects.num_rows == len(SIZES)
    assert all(second > 0 for second in rows["seconds_crf"].to_pylist())
    found = {row["image_id"]: answer_of(row) for row in rows.to_pylist()}
    return found, {row["image_id"]: row["error"] for row in rejects.to_pylist()}, segmenter


def answer_of(row):
    return decode_mask(row["mask"]["bytes"]), row["confidence"], row["entropy"]


def assert_same(found, others):
    """To the last bit."""
    assert found.keys() == others.keys()
    for name, (mask, *means) in found.items():
        assert np.array_equal(mask, others[name][0]) and means == [*others[name][1:]]


def test_images_of_one_size_share_batches_and_get_the_masks_of_each_alone(tiny_checkpoint, pictures, batches):
    alone, rejects, _ = answered(tiny_checkpoint, pictures, most=1)
    assert batches == [1] * len(SIZES) and not rejects
    batches.clear()
    together, _, _ = answered(tiny_checkpoint, pictures, most=4)
    assert sum(batches) == len(SIZES) and max(batches) > 1
    assert_same(alone, together)
    assert len({confidence for _, confidence, _ in alone.values()}) == len(SIZES)  # each is its own


def test_they_are_the_masks_of_the_cpu_path(tiny_checkpoint, pictures, request):
    on_cpu, _, segmenter = answered(tiny_checkpoint, pictures, most=1)
    assert segmenter.crf.most == 1
    request.getfixturevalue("batches")
    together, _, _ = answered(tiny_checkpoint, pictures, most=4)
    without, _, _ = answered(tiny_checkpoint, pictures, most=4, crf=CRF | {"smooth_weight": 0, "colour_weight": 0})
    assert on_cpu.keys() == together.keys() == without.keys()
    for name, (mask, *means) in together.items():
        assert (mask == on_cpu[name][0]).mean() > 0.999
        assert means == pytest.approx(on_cpu[name][1:], abs=1e-5)
        assert means != pytest.approx(without[name][1:], abs=1e-3)  # the CRF did something


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def full_above(monkeypatch, most, error=FULL):
    """A device whose memory holds so many images at once."""
    enough = crf_batches.sharpen_together

    def given(probs, *rest):
        if len(probs) > most:
            raise error
        return enough(probs, *rest)

    monkeypatch.setattr(crf_batches, "sharpen_together", given)


@pytest.mark.parametrize("most", [1, 2])
def test_where_the_memory_ends_batches_are_halved_and_stay_so(
    tiny_checkpoint, pictures, batches, most, monkeypatch, caplog
):
    alone, _, _ = answered(tiny_checkpoint, pictures, most=1)
    batches.clear()
    full_above(monkeypatch, most)
    with caplog.at_level(logging.WARNING):
        fewer, rejects, segmenter = answered(tiny_checkpoint, pictures, most=4)
    assert not rejects
    assert_same(alone, fewer)
    assert max(batches) <= most and segmenter.crf.most <= most
    told = [record.message for record in caplog.records if "does not hold the CRF" in record.message]
    assert 1 <= len(told) <= 2 and "(CUDA out of memory): " in told[0]


def test_an_image_that_does_not_fit_alone_is_rejected_and_the_others_are_not(
    tiny_checkpoint, pictures, batches, monkeypatch
):
    enough = crf_batches.sharpen_together

    def given(probs, *rest):
        if any(one.shape[1:] == (41, 55) for one in probs):
            raise FULL
        return enough(probs, *rest)

    monkeypatch.setattr(crf_batches, "sharpen_together", given)
    found, rejects, _ = answered(tiny_checkpoint, pictures, most=4)
    assert rejects == {"val/s_2": "out_of_memory", "val/s_4": "out_of_memory"}
    assert len(found) == len(SIZES) - 2


def test_another_error_is_not_taken_for_a_full_memory(tiny_checkpoint, pictures, batches, monkeypatch):
    full_above(monkeypatch, 0, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        answered(tiny_checkpoint, pictures, most=4)
    assert batches == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_device_batches_are_as_large_as_the_networks(tiny_checkpoint, pictures):
    alone, _, _ = answered(tiny_checkpoint, pictures, most=1, gpus_per_actor=1)
    cfg = config(pictures, tiny_checkpoint, crf=CRF, batch_size=4, gpus_per_actor=1)
    segmenter = ShardSegmenter(checkpoint.load(tiny_checkpoint), cfg)
    assert segmenter.crf.most == 4
    rows, _ = segmenter.answer(list_items(cfg.corpus, None))
    assert_same(alone, {row["image_id"]: answer_of(row) for row in rows.to_pylist()})
