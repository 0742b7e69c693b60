"""One actor's segmenter on one device, without Ray, compared with its predictor alone: a part of `tests.bench.gpu`."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import torch

from tests.bench.gpu_chapter import Chapter

CLASSES = 19
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(work: Callable[[], object], rounds: int) -> float:
    """Median seconds, the device's queue empty before and after."""
    seconds = []
    for turn in range(rounds + 2):  # two for kernels to be chosen and compiled
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        if turn >= 2:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def end_to_end(height: int, width: int, batch: int, images: int, chapter: Chapter) -> Iterator[list[str]]:
    """PNGs of a local zip through one actor's segmenter, beside its network alone on a picture that is there already.

    With the CRF too, its images in batches and one at a time: the masks must be the same.
    """
    from pipeline import labels, models
    from pipeline.config import SegmentConfig, parse_model
    from pipeline.corpus import list_items, read
    from pipeline.imaging.decode import decode_image
    from pipeline.models import checkpoint
    from pipeline.segment.shard import ShardSegmenter
    from pipeline.synthetic.scenes import write_corpus

    with tempfile.TemporaryDirectory() as folder:
        network, space = parse_model({"name": "lraspp"}, where="bench"), labels.space("cityscapes19")
        checkpoint.save(f"{folder}/model", models.build(network, CLASSES), network, space, {})
        uris = write_corpus(folder, {"val": images}, height, width, seed=1)
        values = {
            "corpus": {"images": uris[0], "layout": "cityscapes"}, "checkpoint": f"{folder}/model", "output": folder,
            "predict": {"precision": "bf16"}, "batch_size": batch, "max_reject_rate": 0, "actors": 1, "cpus_per_actor":
            torch.get_num_threads(), "gpus_per_actor": 1 if DEVICE.type == "cuda" else 0,
        }  # fmt: skip
        crf = {"iterations": 5, "smooth_weight": 3, "smooth_px": 3, "colour_weight": 10, "colour_px": 80,
               "colour_levels": 13}  # fmt: skip
        cfg = SegmentConfig.model_validate(values)
        segmenter = ShardSegmenter(checkpoint.load(cfg.checkpoint), cfg)
        items = list_items(cfg.corpus, None)
        picture = decode_image(read(items[0].image), cfg.max_pixels)
        alone = timed(lambda: segmenter.predictor.masks([picture] * batch), 5) / batch
        yield ["predictor alone, picture in memory", f"{1 / alone:.1f}", ""]
        found = []
        for name, config, most in (
            ("segmenter: read, decode, predict, encode", cfg, None),
            ("and the CRF, one image at a time", SegmentConfig.model_validate(values | {"crf": crf}), 1),
            ("and the CRF, in batches", SegmentConfig.model_validate(values | {"crf": crf}), None),
        ):
            segmenter = ShardSegmenter(checkpoint.load(cfg.checkpoint), config)
            segmenter.crf.most = most or segmenter.crf.most
            segmenter.answer(items[:batch])
            started = time.perf_counter()
            rows = segmenter.answer(items)[0]
            seconds = (time.perf_counter() - started) / images
            chapter.hold(f"{name}: every image has a mask", rows.num_rows == images)
            found.append(rows)
            yield [name, f"{1 / seconds:.1f}", f"{100 * alone / seconds:.0f} %"]
        chapter.hold(
            "masks are the same with the CRF in batches and one at a time", found[1]["mask"].equals(found[2]["mask"])
        )
        chapter.hold("the CRF changes what images are given", not found[0]["entropy"].equals(found[1]["entropy"]))
