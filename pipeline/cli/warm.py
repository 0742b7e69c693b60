"""`maskmill warm`: compile now what is otherwise compiled at its first use; added by `commands.py`."""

import os
import tempfile
import time
from typing import Any

HEIGHT, WIDTH, SCENES = 48, 96, 2
CRF = {"iterations": 2, "smooth_px": 3, "colour_px": 30}
# The code that one of these runs compiles serves every run like it, whatever the image size and the classes.
RUNS: tuple[dict[str, Any], ...] = (
    {
        "crf": CRF,
        "metrics": {"boundary_px": [1, 3], "calibration_bins": 15},
        "regions": {"min_area": 4},
    },
    {"crf": CRF | {"class_weights": {"pole": 2.0}}, "confidence_map": True},
    {"crf": CRF | {"iterations": 6, "mode": "fast"}},
    {"confidence_map": True, "unknown_below": 0.1, "regions": {"min_area": 4}},
    {},
)


def warm() -> None:
    """Compile ahead the code that is otherwise compiled at its first use.

    Run it once after an installation, or when a container image is built, so that no run has to wait.
    """
    from pipeline import compiled
    from pipeline.cli.console import console

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        _segment(folder)
    places = compiled.folders()
    console.print(
        f"compiled in {time.monotonic() - started:.0f} s, kept in {', '.join(map(str, places))}"
        if places
        else "compiled code is not kept: set NUMBA_CACHE_DIR to a folder that can be written and lasts",
        soft_wrap=True,
    )


def _segment(folder: str) -> None:
    """Segment a few drawn scenes with a random network, and score the run; then segment them with other keys."""
    from pipeline import labels, models
    from pipeline.analysis import open_run
    from pipeline.config import SegmentConfig, parse, parse_model
    from pipeline.corpus import list_items
    from pipeline.models import checkpoint
    from pipeline.segment.driver import segment
    from pipeline.segment.shard import ShardSegmenter
    from pipeline.synthetic.scenes import write_corpus

    network, space = parse_model({"name": "unet", "channels": 4}, where="warm"), labels.space("cityscapes19")
    checkpoint.save(f"{folder}/model", models.build(network, space.num_classes), network, space, {})
    images, truths = write_corpus(folder, {"val": SCENES}, HEIGHT, WIDTH, seed=1)
    values = {
        "corpus": {"images": images, "labels": truths, "layout": "cityscapes"}, "checkpoint": f"{folder}/model",
        "output": f"{folder}/run", "cpus_per_actor": 1,
    }  # fmt: skip
    first, *others = (parse(SegmentConfig, values | keys, where="warm") for keys in RUNS)
    os.environ.pop("RAY_ADDRESS", None)  # the code is needed here, not on a cluster
    segment(first)
    open_run(first.output).summary()
    ready, items = checkpoint.load(first.checkpoint), list_items(first.corpus, None)
    for cfg in others:
        ShardSegmenter(ready, cfg).answer(items)
