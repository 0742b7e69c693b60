"""The search for CRF settings: on real Ray tasks, and its verdict on counts whose answer is known."""

import json

import numpy as np
import pytest

from pipeline import storage
from pipeline.config import CrfConfig, PredictConfig, SegmentConfig, load, parse
from pipeline.corpus import list_items
from pipeline.corpus.samples import load_pair
from pipeline.crf import dense_crf
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import mean_iou
from pipeline.models import checkpoint
from pipeline.predict import Predictor
from pipeline.segment.tune_crf import RANGES, _judge, tune_crf


@pytest.mark.slow
def test_the_search_tells_what_each_setting_gives(ray_session, scenes, tiny_checkpoint, tmp_path):
    own = {"iterations": 1, "smooth_weight": 1, "smooth_px": 1, "colour_weight": 1, "colour_px": 5, "colour_levels": 9,
           "class_weights": {"car": 1.5}}  # fmt: skip
    values = {
        "corpus": {"images": scenes[0], "labels": scenes[1], "layout": "cityscapes"}, "split": "val",
        "checkpoint": tiny_checkpoint, "output": str(tmp_path / "tuned"), "crf": own, "max_reject_rate": 0, "actors": 1,
        "cpus_per_actor": 1,
    }  # fmt: skip
    cfg = parse(SegmentConfig, values, where="test")
    steps = []
    found = tune_crf(cfg, num_images=3, on_progress=lambda done, total: steps.append((done, total)))
    assert found.images == 3 and steps[0][1] == 3 * (1 + 1 + 27)
    tried = [setting.crf for setting in found.settings]
    assert None in tried and CrfConfig(**own) in tried and len(tried) == len(set(tried)) > 29
    coarse = {crf.colour_px for crf in tried if crf and crf.smooth_weight == 3}
    assert coarse >= {30, 65, 100} and {crf.iterations for crf in tried if crf} == {1}
    assert [s.miou for s in found.settings] == sorted((s.miou for s in found.settings), reverse=True)

    # One setting done again by hand, from half-precision scores as the search keeps them.
    chosen = np.random.default_rng(0).permutation(6)[:3]
    items = [list_items(cfg.corpus, "val")[index] for index in sorted(chosen)]
    ready = checkpoint.load(tiny_checkpoint)
    predictor = Predictor(ready.model, PredictConfig())
    confusion = np.zeros((19, 19), np.int64)
    for item in items:
        image, label = load_pair(item, ready.label_space, cfg.max_pixels)
        probs = predictor.probs([image])[0].numpy().astype(np.float16).astype(np.float32)
        mask = (
            dense_crf(probs, image, found.best.crf, classes=ready.label_space.classes).argmax(axis=0).astype(np.uint8)
        )
        confusion += count_confusion(label, mask, 19)
    assert found.best.miou == mean_iou(confusion)

    assert json.loads(storage.read(str(tmp_path / "tuned/tune_crf.json")))["best"]["miou"] == found.best.miou
    written = load(SegmentConfig, str(tmp_path / "tuned/best.yaml"))
    assert written.crf == (found.best.crf if found.helps else None)
    assert written.model_copy(update={"crf": cfg.crf}) == cfg


def counts_of(right, images=30):
    """Counts of images of 100 pixels in two classes, of which about so many are right; no boundaries."""
    rng, rows = np.random.default_rng(1), []
    for _ in range(images):
        good = int(np.clip(right + rng.integers(-3, 4), 0, 50))
        confusion = np.array([[good, 50 - good], [50 - good, good]])
        rows.append(np.concatenate([confusion.ravel(), np.ones(20, np.int64)]))
    return np.stack(rows)


def test_the_verdict_follows_the_paired_interval():
    crf = CrfConfig(iterations=1, smooth_weight=3, smooth_px=3, colour_weight=3, colour_px=30, colour_levels=3)
    classes = ("a", "b")
    better = _judge({None: counts_of(30), crf: counts_of(35)}, 30, 2, classes)
    worse = _judge({None: counts_of(35), crf: counts_of(30)}, 30, 2, classes)
    equal = _judge({None: counts_of(30), crf: counts_of(30)}, 30, 2, classes)
    assert (better.helps, worse.helps, equal.helps) == (True, False, False)
    change, low, high = better.change["miou"]
    assert 0 < low <= change <= high
    assert better.class_iou["a"][1] > better.class_iou["a"][0]
    assert equal.change["miou"] == (0, 0, 0)


def test_the_ranges_are_deeplabs():
    """arXiv:1606.00915, section 4.1."""
    assert RANGES == {"colour_weight": (3, 6), "colour_px": (30, 100), "colour_levels": (3, 6)}
