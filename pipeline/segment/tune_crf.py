"""DeepLab's search for CRF settings on validation images, as Ray tasks over scores that are predicted once.

<output>/scores/*.npy      probs of each image, float16 (C, H, W)
<output>/tune_crf.json     every setting with its figures, best first, and the verdict
<output>/best.yaml         the segmentation config with the best settings, or without CRF where it does not help
"""

import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import torch
import yaml

from pipeline import storage
from pipeline.cluster import connection
from pipeline.cluster.worker_env import take_cores
from pipeline.config import CrfConfig, SegmentConfig, parse
from pipeline.corpus import Item
from pipeline.corpus.samples import load_pair
from pipeline.crf.gpu import sharpen
from pipeline.errors import UserError
from pipeline.imaging.bands import as_picture
from pipeline.metrics.bootstrap import interval, resample
from pipeline.metrics.boundary import boundary_iou, count_boundary
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import class_iou, mean, mean_accuracy, mean_iou, summary_scores
from pipeline.models import checkpoint
from pipeline.segment.checkpoints import fitted, load_checkpoints
from pipeline.segment.labelled_images import as_task, labelled_images, predictor_of

# arXiv:1606.00915, section 4.1: w2 = 3, sigma_gamma = 3, ten steps; w1, sigma_alpha and sigma_beta are searched in these.
SMOOTH_WEIGHT, SMOOTH_PX, STEPS = 3.0, 3.0, 10
RANGES = {"colour_weight": (3.0, 6.0), "colour_px": (30.0, 100.0), "colour_levels": (3.0, 6.0)}
BOUNDARY_PX = 3  # band of the boundary IoU
SEED = 0  # of the choice of images and of the intervals


@dataclass(frozen=True)
class Setting:
    """One setting of the CRF (None: without) and its figures over all images."""

    crf: CrfConfig | None
    miou: float
    class_accuracy: float


@dataclass(frozen=True)
class Tuned:
    """What the search found; intervals are 95 %, by image, of the change from raw to best on the same images."""

    images: int
    raw: Setting
    best: Setting
    settings: list[Setting]  # all that were tried, best first
    helps: bool  # the interval of the change in mIoU lies above 0
    change: dict[str, tuple[float, float, float]]  # miou, class_accuracy, boundary_iou: change, low end, high end
    class_iou: dict[str, tuple[float, float]]  # of each class: raw, best


def tune_crf(
    cfg: SegmentConfig, num_images: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Tuned:
    """Search coarse to fine over w1, sigma_alpha and sigma_beta; write the best settings, or none.

    Args:
        cfg: a segmentation config; its own `crf`, where there is one, is tried too, and gives the number of steps.
        num_images: labelled images of its split, drawn at random; DeepLab took 100.
        on_progress: called with (CRF runs done, all).
    Raises:
        UserError: no labelled image, or the cluster cannot hold a task.
    """
    ready = load_checkpoints(cfg)
    cfg = fitted(cfg, ready, needed_by="tune-crf")
    items = _draw(cfg, num_images)
    connection.connect()
    connection.require(1, cfg.cpus_per_actor, cfg.gpus_per_actor, "a task of the search", connection.ACTOR_KEYS)
    payload, space = cfg.model_dump(mode="json"), ready.label_space
    scores = _predict_all(payload, cfg, items)
    coarse = _grid(cfg, {name: np.linspace(*ends, 3).tolist() for name, ends in RANGES.items()})
    own = [cfg.crf] if cfg.crf is not None and cfg.crf not in coarse else []
    tried = _evaluate(payload, cfg, items, scores, [None, *own, *coarse], on_progress)
    best = max((crf for crf in tried if crf is not None), key=lambda crf: mean_iou(_sum(tried[crf], space.num_classes)))
    fine = [crf for crf in _around(cfg, best) if crf not in tried]
    tried |= _evaluate(payload, cfg, items, scores, fine, on_progress)
    tuned = _judge(tried, len(items), space.num_classes, space.classes)
    _write(cfg, tuned)
    return tuned


def _draw(cfg: SegmentConfig, number: int) -> list[Item]:
    items = labelled_images(cfg)
    if not items:
        raise UserError(
            f"corpus {cfg.corpus.images}: no image of split '{cfg.split}' has a label, which the search needs"
        )
    chosen = np.random.default_rng(SEED).permutation(len(items))[:number]
    return [items[index] for index in sorted(chosen)]


def _predict_all(payload: dict[str, Any], cfg: SegmentConfig, items: list[Item]) -> list[str]:
    """URIs of the images' probs."""
    uris = [storage.join(cfg.output, "scores", f"{index:05d}.npy") for index in range(len(items))]
    task = as_task(cfg, _predict)
    parts = np.array_split(np.arange(len(items)), max(1, cfg.actors))
    ray.get([task.remote(payload, [(items[i], uris[i]) for i in part]) for part in parts if len(part)])
    return uris


def _predict(payload: dict[str, Any], wanted: Sequence[tuple[Item, str]]) -> None:
    cfg = parse(SegmentConfig, payload, where="segment config")
    take_cores(cfg.cpus_per_actor)
    ready = load_checkpoints(cfg)
    predictor = predictor_of(cfg, ready)
    for item, uri in wanted:
        image, _ = load_pair(item, ready.label_space, cfg.max_pixels, ready.image)
        file = io.BytesIO()
        ((_, assembly),) = predictor.answers([(None, image)], keep_probs=True)
        assert assembly.probs is not None
        np.save(file, assembly.probs.cpu().numpy().astype(np.float16))
        storage.put(uri, file.getvalue())


Counts = np.ndarray  # (I, K) int64: confusion (C * C) and boundary counts (10 * C) of each image


def _evaluate(
    payload: dict[str, Any], cfg: SegmentConfig, items: list[Item], scores: list[str],
    settings: Sequence[CrfConfig | None], on_progress: Callable[[int, int], None],
) -> dict[CrfConfig | None, Counts]:  # fmt: skip
    """Counts of each setting over all images: a task an image, which reads its scores once."""
    gpus = cfg.gpus_per_actor if cfg.crf_on == "device" else 0
    task = ray.remote(num_cpus=cfg.cpus_per_actor, num_gpus=gpus, max_retries=2)(_count)
    dumped = [None if crf is None else crf.model_dump() for crf in settings]
    todo = [task.remote(payload, item, uri, dumped) for item, uri in zip(items, scores, strict=True)]
    places = {reference: index for index, reference in enumerate(todo)}
    rows: dict[int, np.ndarray] = {}
    while todo:
        (ready,), todo = ray.wait(todo, num_returns=1)
        rows[places[ready]] = ray.get(ready)
        on_progress(len(rows) * len(settings), len(items) * len(settings))
    return {crf: np.stack([rows[image][index] for image in range(len(items))]) for index, crf in enumerate(settings)}


def _count(payload: dict[str, Any], item: Item, uri: str, settings: Sequence[dict[str, Any] | None]) -> np.ndarray:
    """(settings, K) counts of one image."""
    cfg = parse(SegmentConfig, payload, where="segment config")
    space, declared = checkpoint.label_space_of(cfg.checkpoint), checkpoint.image_of(cfg.checkpoint)
    image, label = load_pair(item, space, cfg.max_pixels, declared)
    picture = as_picture(image)
    device = "cuda" if cfg.gpus_per_actor > 0 and cfg.crf_on == "device" else "cpu"
    probs = torch.from_numpy(np.load(io.BytesIO(storage.read(uri))).astype(np.float32)).to(device)
    counts = []
    for values in settings:
        if values is None:
            marginals = probs
        else:
            marginals = sharpen(probs, picture, CrfConfig(**values), cfg.cpus_per_actor, space.classes)
        mask = marginals.argmax(dim=0).to(torch.uint8).cpu().numpy()
        confusion = count_confusion(label, mask, space.num_classes)
        boundary = count_boundary(label, mask, space.num_classes, (BOUNDARY_PX,))
        counts.append(np.concatenate([confusion.ravel(), boundary.ravel()]))
    return np.stack(counts)


def _grid(cfg: SegmentConfig, values: dict[str, list[float]]) -> list[CrfConfig]:
    steps = cfg.crf.iterations if cfg.crf is not None and cfg.crf.iterations else STEPS
    return [
        CrfConfig(
            iterations=steps, smooth_weight=SMOOTH_WEIGHT, smooth_px=SMOOTH_PX, **dict(zip(values, point, strict=True))
        )
        for point in itertools.product(*values.values())
    ]


def _around(cfg: SegmentConfig, best: CrfConfig) -> list[CrfConfig]:
    """The settings half a coarse step from the best one, in every direction."""
    values = {}
    for name, (low, high) in RANGES.items():
        half, middle = (high - low) / 4, getattr(best, name)
        values[name] = [value for value in (middle - half, middle, middle + half) if value > 0]
    return _grid(cfg, values)


def _sum(counts: Counts, num_classes: int) -> np.ndarray:
    return counts.sum(axis=0)[: num_classes**2].reshape(num_classes, num_classes)


def _judge(tried: dict[CrfConfig | None, Counts], images: int, num_classes: int, classes: Sequence[str]) -> Tuned:
    settings = []
    for crf, counts in tried.items():
        confusion = _sum(counts, num_classes)
        settings.append(Setting(crf, mean_iou(confusion), mean_accuracy(confusion)))
    settings.sort(key=lambda setting: -setting.miou)
    raw = next(setting for setting in settings if setting.crf is None)
    best = next(setting for setting in settings if setting.crf is not None)

    def figures(sums: np.ndarray) -> np.ndarray:
        """(D, 2 K) sums of raw and best -> (D, 3) changes."""
        halves = np.split(sums, 2, axis=1)
        before, after = (_figures(half, num_classes) for half in halves)
        return after - before

    both = np.concatenate([tried[None], tried[best.crf]], axis=1)
    (change,) = figures(both.sum(axis=0, keepdims=True).astype(np.float64))
    low, high = interval(resample(both, figures, seed=SEED))
    names = ("miou", "class_accuracy", "boundary_iou")
    change_of = {name: (float(change[i]), float(low[i]), float(high[i])) for i, name in enumerate(names)}
    each = [class_iou(_sum(tried[setting.crf], num_classes)) for setting in (raw, best)]
    of_class = {name: (float(each[0][i]), float(each[1][i])) for i, name in enumerate(classes)}
    return Tuned(images, raw, best, settings, bool(low[0] > 0), change_of, of_class)


def _figures(sums: np.ndarray, num_classes: int) -> np.ndarray:
    """(D, K) sums -> (D, 3): mIoU, mean class accuracy, mean boundary IoU."""
    square = num_classes**2
    scores = summary_scores(sums[:, :square].reshape(-1, num_classes, num_classes))
    boundary = np.stack([mean(boundary_iou(row[square:].reshape(-1, num_classes))) for row in sums])
    return np.stack([scores["miou"], scores["mean_accuracy"], boundary], axis=1)


def _write(cfg: SegmentConfig, tuned: Tuned) -> None:
    values = cfg.model_dump(mode="json") | {
        "crf": tuned.best.crf.model_dump() if tuned.helps and tuned.best.crf else None
    }
    storage.put(storage.join(cfg.output, "best.yaml"), yaml.safe_dump(values, sort_keys=False).encode())

    def plain(setting: Setting) -> dict[str, Any]:
        return asdict(setting) | {"crf": None if setting.crf is None else setting.crf.model_dump()}

    record = asdict(tuned) | {
        "raw": plain(tuned.raw),
        "best": plain(tuned.best),
        "settings": [plain(s) for s in tuned.settings],
    }
    storage.put(storage.join(cfg.output, "tune_crf.json"), json.dumps(record, indent=2).encode())
