"""The dense CRF's fast mode: how close it is to the exact mode, and what both must do alike."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.config import SegmentConfig, parse
from pipeline.corpus import list_items
from pipeline.crf import DenseCRF, dense_crf
from pipeline.crf.cpu.points import join
from pipeline.crf.cpu.threads import Team
from pipeline.labels import IGNORE
from pipeline.metrics.boundary import boundary_iou, count_boundary
from pipeline.metrics.iou import mean
from pipeline.models import checkpoint
from pipeline.segment.driver import identity
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.street import draw_scene
from tests.crf_cases import SHARP, SOFT, noisy_probs, on_device, photograph, smooth_probs, street_scene
from tests.test_segment import config

FAST = {"mode": "fast"}


def both(probs, image, cfg, num_threads=1):
    return [dense_crf(probs, image, cfg.model_copy(update={"mode": mode}), num_threads) for mode in ("exact", "fast")]


@pytest.mark.parametrize(
    ("cfg", "equal", "points"), [(SHARP, 0.9995, 0.1), (SOFT, 0.999, 0.25)], ids=["A, 10 steps", "B, 5 steps"]
)
def test_it_keeps_the_labels_and_the_boundaries_of_photographs(camvid, cfg, equal, points):
    counts = np.zeros((2, 1, 10, 11), np.int64)
    for number in (0, 20, 60):
        image, label = photograph(camvid, number)
        exact, fast = both(smooth_probs(np.minimum(label, 10), 11), image, cfg)
        assert np.abs(fast.sum(axis=0) - 1).max() <= 1e-5
        masks = [marginals.argmax(axis=0).astype(np.uint8) for marginals in (exact, fast)]
        assert (masks[0] == masks[1]).mean() >= equal
        truth = np.where(label < 11, label, IGNORE).astype(np.uint8)
        counts += np.stack([count_boundary(truth, mask, 11, (3,)) for mask in masks])
    before, after = (100 * mean(boundary_iou(one[0])) for one in counts)
    assert abs(after - before) <= points


def test_a_large_smooth_scene_needs_a_third_of_the_points():
    image, label = (one.repeat(4, axis=0).repeat(4, axis=1) for one in draw_scene(np.random.default_rng(2), 64, 128))
    probs = smooth_probs(label % 19, 19)
    with Team(1) as team:
        points = join(team, probs.reshape(19, -1), True, image)
    assert len(points) <= label.size / 3
    assert points.counts().sum() == label.size
    assert (np.bincount(points.of_pixel) == points.side.astype(int) ** 2).all()
    labels, blocks = probs.argmax(axis=0).ravel(), points.of_pixel
    assert (labels == labels[points.first[blocks]]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (5, 5), (33, 131), (65, 3)])
def test_odd_sizes_and_any_number_of_threads_give_the_same_bits(size):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(3, 0.1), size).transpose(2, 0, 1).astype(np.float32)
    image = rng.integers(0, 30, (*size, 3), np.uint8)
    one, three = (both(probs, image, SOFT, num_threads)[1] for num_threads in (1, 3))
    assert np.array_equal(one, three)
    assert np.abs(one.sum(axis=0) - 1).max() <= 1e-5


def test_any_number_of_threads_gives_the_same_bits_over_many_tiles():
    image, label = draw_scene(np.random.default_rng(3), 300, 400)
    probs = smooth_probs(label % 7, 7)
    cfg = SHARP.model_copy(update=FAST)
    assert np.array_equal(dense_crf(probs, image, cfg, 1), dense_crf(probs, image, cfg, 4))


def test_where_no_two_pixels_are_alike_and_none_settles_it_is_exact():
    rng = np.random.default_rng(4)
    image = rng.integers(0, 2, (40, 60, 3), np.uint8) * 200
    image[::2, :, 0] = 30
    probs = noisy_probs(rng.integers(0, 5, (40, 60)), 5)
    for steps in (0, 1, 2):
        exact, fast = both(probs, image, SOFT.model_copy(update={"iterations": steps}))
        assert np.abs(exact - fast).max() <= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
def test_it_stays_near_after_any_number_of_steps(steps):
    image, probs = street_scene()
    exact, fast = both(probs, image, SOFT.model_copy(update={"iterations": steps}))
    assert (exact.argmax(axis=0) == fast.argmax(axis=0)).mean() >= 0.998


def test_energies_and_class_weights_are_taken():
    image, label = draw_scene(np.random.default_rng(6), 96, 160)
    probs = smooth_probs(label % 5, 5)
    results = {}
    for mode in ("exact", "fast"):
        crf = DenseCRF(-np.log(np.maximum(probs, 1e-5)) + 700)  # each up to a number of its pixel
        crf.add_gaussian(px=3, compat=3)
        crf.add_bilateral(image, px=30, levels=8, compat=4)
        crf.weigh_classes([1, 1, 1.5, 1, 0.5])
        results[mode] = crf.inference(6, num_threads=2, mode=mode)
    assert (results["exact"].argmax(axis=0) == results["fast"].argmax(axis=0)).mean() >= 0.998


def test_what_has_no_answer_is_refused_as_in_the_exact_mode():
    image, probs = street_scene()
    cfg = SOFT.model_copy(update=FAST)
    broken = probs.copy()
    broken[0, 3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        dense_crf(broken, image, cfg)
    assert dense_crf(probs, image, cfg.model_copy(update={"iterations": 0})) is probs
    crf = DenseCRF.from_probs(probs)
    with pytest.raises(ValueError, match="mode 'quick' is none of exact, fast"):
        crf.inference(1, mode="quick")
    crf.add_kernel(np.zeros((probs[0].size, 2), np.float32), 3)
    with pytest.raises(ValueError, match="the fast mode has kernels of add_gaussian and add_bilateral alone"):
        crf.inference(1, mode="fast")
    crf = DenseCRF.from_probs(probs)
    crf.add_gaussian(px=3, compat=3, normalisation="after")
    with pytest.raises(ValueError, match='use mode="exact"'):
        crf.inference(1, mode="fast")


def test_on_a_gpu_it_is_refused():
    image, probs = street_scene()
    with pytest.raises(ValueError, match="mode fast is for scores on the CPU"):
        on_device(probs, image, SOFT.model_copy(update=FAST))
    values = {"corpus": {"images": "a.zip"}, "checkpoint": "c", "output": "o", "crf": FAST, "gpus_per_actor": 1}
    with pytest.raises(ValueError, match=r"set crf_on: cpu, or crf\.mode: exact"):
        parse(SegmentConfig, values, where="test")
    assert parse(SegmentConfig, values | {"crf_on": "cpu"}, where="test").crf.mode == "fast"


def test_a_run_segments_in_it_and_keeps_it(scenes, tiny_checkpoint, tmp_path):
    cfg = config(*scenes, tiny_checkpoint, tmp_path / "run", crf={"iterations": 6, "colour_px": 30, "mode": "fast"})
    exact = cfg.model_copy(update={"crf": cfg.crf.model_copy(update={"mode": "exact"})})
    ready, items = checkpoint.load(cfg.checkpoint), list_items(cfg.corpus, None)[:2]
    fast, slow = (ShardSegmenter(ready, one).answer(items)[0] for one in (cfg, exact))
    assert fast.num_rows == 2
    masks, others = (
        [np.array(Image.open(io.BytesIO(one.as_py()["bytes"]))) for one in table["mask"]] for table in (fast, slow)
    )
    assert min((a == b).mean() for a, b in zip(masks, others, strict=True)) >= 0.99
    assert identity(cfg, ready) != identity(exact, ready)
