"""Which networks the dense CRF helps: `python -m tests.bench.crf_helps CORPUS CHECKPOINT... [--strides 8 16] [--scales 0.5 1]`.

CORPUS is `corpus.images` of a segmentation config, such as camvid_trainval.zip. For each network, stride and scale, it
computes scores once, searches settings on half of the images like `maskmill tune-crf`, and judges them on the other half, by
class, with paired intervals by image. All in one process; a scale below 1 predicts the image smaller and enlarges its scores.
Class weights could gain by preferring rare classes alone, without any neighbours: so a constant that is added to each class's
logits, searched and judged on the same halves and without a CRF, stands beside them ("with class offsets").
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import torch

from pipeline.config import CrfConfig, PredictConfig, SegmentConfig, parse
from pipeline.corpus.samples import load_pair
from pipeline.crf import dense_crf
from pipeline.imaging.bands import as_picture
from pipeline.models import checkpoint
from pipeline.predict import Predictor
from pipeline.segment.crf_search import Judged, Tried, chosen, count, halves, judge, judge_all, search, setting_of
from pipeline.segment.tune_crf import draw

OFFSETS = (-1.5, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5)  # of a class's logits
Scored = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # picture, label, probs (C, H, W) float16


def scored(cfg: SegmentConfig, number: int) -> tuple[Scored, list[int], list[int], tuple[str, ...]]:
    """The images with their scores, places of both halves, and the classes."""
    ready = checkpoint.load(cfg.checkpoint, output_stride=cfg.predict.output_stride)
    predictor, items = Predictor(ready.model, cfg.predict, num_threads=1), draw(cfg, number)
    found = []
    for item in items:
        image, label = load_pair(item, ready.label_space, cfg.max_pixels, ready.image)
        assert label is not None
        found.append((as_picture(image), label, predictor.probs([image])[0].numpy().astype(np.float16)))
    first, second, dealt = halves(items)
    print(f"{len(first)} images searched, {len(second)} judged; halves of {dealt}", flush=True)
    return found, first, second, ready.label_space.classes


def counted(images: Scored, classes: tuple[str, ...], settings: Sequence[CrfConfig | None]) -> Tried:
    """What the tasks of `tune-crf` count."""
    rows: dict[CrfConfig | None, list[np.ndarray]] = {crf: [] for crf in settings}
    for picture, label, half_probs in images:
        probs = half_probs.astype(np.float32)
        for crf in settings:
            marginals = probs if crf is None else dense_crf(probs, picture, crf, 1, classes)
            rows[crf].append(count(label, marginals.argmax(axis=0).astype(np.uint8), len(classes)))
    return {crf: np.stack(each) for crf, each in rows.items()}


def offsets(images: Scored, classes: tuple[str, ...]) -> np.ndarray:
    """(C,) float32 to add to the log probs for the best mIoU, searched class by class, rarest first."""
    confusion = count_offsets(images, classes, np.zeros(len(classes), np.float32)).sum(axis=0)[: len(classes) ** 2]
    rarest = np.argsort(confusion.reshape(len(classes), -1).sum(axis=1))
    best, best_miou = np.zeros(len(classes), np.float32), 0.0
    for index in rarest:
        for step in OFFSETS:
            tried = best.copy()
            tried[index] = step
            miou = setting_of(None, count_offsets(images, classes, tried), len(classes)).miou
            if miou > best_miou:
                best, best_miou = tried, miou
    return best


def count_offsets(images: Scored, classes: tuple[str, ...], offset: np.ndarray) -> np.ndarray:
    factors = np.exp(offset)[:, None, None]
    masks = ((probs * factors).argmax(axis=0).astype(np.uint8) for _, _, probs in images)
    return np.stack([count(label, mask, len(classes)) for (_, label, _), mask in zip(images, masks, strict=True)])


def report(name: str, cfg: SegmentConfig, number: int, steps: int) -> None:
    began = time.monotonic()
    images, first, second, classes = scored(cfg, number)
    halved = [[images[place] for place in half] for half in (first, second)]
    of = [partial(counted, half, classes) for half in halved]
    found = search(CrfConfig(iterations=steps), of[0], classes)
    without, shared, weighted = judge_all(found, of[1], classes)
    judged = [shared, weighted] if weighted else [shared]
    found_offsets, none = offsets(halved[0], classes), np.zeros(len(classes), np.float32)
    counts = {
        None: count_offsets(halved[1], classes, none),
        CrfConfig(): count_offsets(halved[1], classes, found_offsets),
    }
    only_offsets = judge(CrfConfig(), counts, classes)
    print(f"\n{name}: mIoU {100 * without.setting.miou:.2f} without, {time.monotonic() - began:.0f} s", flush=True)
    for one, words in zip(judged, ("with CRF", "with class weights"), strict=False):
        print(f"  {line(one, words)}", flush=True)
    print(f"  {line(only_offsets, 'without CRF, with class offsets')}", flush=True)
    for label in classes:
        changes = [one.class_change[label] for one in [*judged, only_offsets]]
        cells = ", ".join(f"{100 * c:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})" for c, low, high in changes)
        print(f"    {label:<14} {100 * without.class_iou[label]:6.2f} {cells}")
    kept = chosen(judged)
    print(f"  kept: {'none' if kept is None else kept.model_dump_json()}", flush=True)


def line(one: Judged, words: str) -> str:
    """mIoU with a setting, and the changes of mIoU and boundary IoU."""
    parts = [
        f"{key} {100 * change:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
        for key, (change, low, high) in one.change.items()
    ]
    return f"{words}: mIoU {100 * one.setting.miou:.2f}; " + ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--layout", default="camvid")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--strides", type=int, nargs="+", default=[None], help="absent: each checkpoint's own")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for uri, stride, scale in product(args.checkpoints, args.strides, args.scales):
        values = {
            "corpus": {"images": args.corpus, "layout": args.layout}, "split": args.split, "checkpoint": uri,
            "output": "unused", "predict": PredictConfig(scales=(scale,), output_stride=stride).model_dump(mode="json"),
        }  # fmt: skip
        cfg = parse(SegmentConfig, values, where="arguments")
        name = f"{uri}, stride {stride or 'its own'}, scale {scale:g}"
        report(name, cfg, args.images, args.steps)


if __name__ == "__main__":
    main()
