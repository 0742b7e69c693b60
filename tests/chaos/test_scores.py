"""Fault 23: a network whose scores are NaN or infinite for one image of a batch."""

import numpy as np
import pytest

from pipeline import storage
from pipeline.config import SegmentConfig, parse
from pipeline.corpus import list_items
from pipeline.models import checkpoint
from pipeline.runs import SECONDS
from pipeline.segment.shard import ShardSegmenter
from tests.bad_inputs import picture

pytestmark = pytest.mark.chaos
# Minus infinity in one class is a probability of zero, and harms only where coarse scores are enlarged.
CASES = [([1.0], "nan"), ([1.0], "inf"), ([1.0], "-inf"), ([1.0, 0.5], "nan"), ([1.0, 0.5], "inf")]


@pytest.mark.scorecard("fault", 23)
@pytest.mark.parametrize(("scales", "value"), CASES)
def test_only_the_image_whose_scores_are_not_finite_is_rejected(tiny_checkpoint, tmp_path, scales, value, seed):
    """The last layer answers so in one class at one position of the second image; seeds choose which."""
    rng = np.random.default_rng(seed)
    for name in ("s_1", "s_2", "s_3"):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        storage.put(str(tmp_path / f"images/val/{name}.png"), picture(pixels))
    values = {
        "corpus": {"images": str(tmp_path), "layout": "camvid"}, "checkpoint": tiny_checkpoint, "output": "/unused",
        "predict": {"scales": scales}, "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1, "batch_size": 3,
    }  # fmt: skip
    cfg, ready = parse(SegmentConfig, values, where="test"), checkpoint.load(tiny_checkpoint)
    items = list_items(cfg.corpus, None)
    good = _rows(ShardSegmenter(ready, cfg).answer(items)[0])
    place = [rng.random() for _ in range(2)]

    def spoil(module, inputs, logits):
        row, column = (int(share * size * 0.6) for share, size in zip(place, logits.shape[2:], strict=True))
        logits[1, int(rng.integers(19)), row, column] = float(value)
        return logits

    ready.model.classifier.register_forward_hook(spoil)
    masks, rejects = ShardSegmenter(ready, cfg).answer(items)
    assert dict(zip(*(rejects[name].to_pylist() for name in ("image_id", "error")), strict=True)) == {
        "val/s_2": "scores_not_finite"
    }
    assert _rows(masks) == {name: good[name] for name in ("val/s_1", "val/s_3")}


def _rows(table):
    return {row["image_id"]: {k: v for k, v in row.items() if k not in SECONDS} for row in table.to_pylist()}
