"""DeepLab's search for CRF settings on validation images, as Ray tasks over scores that are predicted once.

Settings are searched on one half of the images and judged on the other (`crf_search.py`).

<output>/scores/*.npy      probs of each image, float16 (C, H, W)
<output>/tune_crf.json     every setting with its scores on the first half, best first, and the scores of the best on the second
<output>/best.yaml         the segmentation config with the best settings, or without CRF where it does not help
"""

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from pipeline.models import checkpoint
from pipeline.segment.checkpoints import fitted, load_checkpoints
from pipeline.segment.crf_search import SEED, Judged, Setting, Tried, chosen, count, halves, judge_all, search
from pipeline.segment.labelled_images import as_task, labelled_images, of_split, predictor_of

FORMAT = 2  # of tune_crf.json; in format 1, scores were of the images that were searched, not split into halves


@dataclass(frozen=True)
class Tuned:
    """Result of the search, judged on images that it did not see."""

    images: int  # in both halves
    judged_on: int  # images in the second half
    halves_of: str  # what was split: sequences or images
    settings: list[Setting]  # all that were tried, on the first half, best first
    raw: Judged  # without CRF, on the second half
    shared: Judged  # the best setting that treats all classes alike
    weighted: Judged | None  # with class weights, if they improved it on the first half

    @property
    def judged(self) -> list[Judged]:
        """The settings that were judged, those with fewer free parameters first."""
        return [self.shared, *([self.weighted] if self.weighted else [])]

    @property
    def crf(self) -> CrfConfig | None:
        """The CRF in best.yaml: the last of the judged settings that helps."""
        return chosen(self.judged)


def tune_crf(
    cfg: SegmentConfig, num_images: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Tuned:
    """Search coarse to fine over w1, sigma_alpha and sigma_beta, then over class weights; write the best that helps, or none.

    Args:
        cfg: a segmentation config; its own `crf`, if any, is tried too, and sets the number of steps.
        num_images: labelled images to draw at random from its split; DeepLab took 100. Half of them are searched on.
        on_progress: called with (CRF runs done, total) of each round.
    Raises:
        UserError: fewer than two labelled images, no CRF fits the config, or the cluster cannot hold a task.
    """
    _with_crf(cfg, CrfConfig())
    ready = load_checkpoints(cfg)
    cfg = fitted(cfg, ready, needed_by="tune-crf")
    items = draw(cfg, num_images)
    first, second, halves_of = halves(items)
    connection.connect()
    connection.require(1, cfg.cpus_per_actor, cfg.gpus_per_actor, "a task of the search", connection.ACTOR_KEYS)
    payload, classes = cfg.model_dump(mode="json"), ready.label_space.classes
    scores = _predict_all(payload, cfg, items)

    def of(places: Sequence[int]) -> Callable[[Sequence[CrfConfig | None]], Tried]:
        chosen_items, uris = [items[place] for place in places], [scores[place] for place in places]
        return partial(_evaluate, payload, cfg, chosen_items, uris, on_progress=on_progress)

    found = search(cfg.crf, of(first), classes)
    raw, shared, weighted = judge_all(found, of(second), classes)
    tuned = Tuned(len(items), len(second), halves_of, found.settings, raw, shared, weighted)
    _write(cfg, tuned)
    return tuned


def draw(cfg: SegmentConfig, number: int) -> list[Item]:
    """Draw that many labelled images of the split at random; return them in its order."""
    items = labelled_images(cfg)
    if not items:
        raise UserError(f"corpus {cfg.corpus.images}: no image{of_split(cfg)} has a label, which the search needs")
    chosen = np.random.default_rng(SEED).permutation(len(items))[:number]
    return [items[index] for index in sorted(chosen)]


def _predict_all(payload: dict[str, Any], cfg: SegmentConfig, items: list[Item]) -> list[str]:
    """Predict and store the probs of all images; return their URIs."""
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


def _evaluate(
    payload: dict[str, Any], cfg: SegmentConfig, items: list[Item], scores: list[str],
    settings: Sequence[CrfConfig | None], on_progress: Callable[[int, int], None],
) -> Tried:  # fmt: skip
    """Return the counts of each setting over all images; a task per image reads its scores once."""
    gpus = cfg.gpus_per_actor if cfg.crf_on == "device" else 0
    task = ray.remote(num_cpus=cfg.cpus_per_actor, num_gpus=gpus, max_retries=2)(_count)
    dumped = [None if crf is None else crf.model_dump() for crf in settings]
    if not settings:
        return {}
    todo = [task.remote(payload, item, uri, dumped) for item, uri in zip(items, scores, strict=True)]
    places = {reference: index for index, reference in enumerate(todo)}
    rows: dict[int, np.ndarray] = {}
    while todo:
        (ready,), todo = ray.wait(todo, num_returns=1)
        rows[places[ready]] = ray.get(ready)
        on_progress(len(rows) * len(settings), len(items) * len(settings))
    return {crf: np.stack([rows[image][index] for image in range(len(items))]) for index, crf in enumerate(settings)}


def _count(payload: dict[str, Any], item: Item, uri: str, settings: Sequence[dict[str, Any] | None]) -> np.ndarray:
    """Return (settings, K) counts of one image."""
    cfg = parse(SegmentConfig, payload, where="segment config")
    space, declared = checkpoint.label_space_of(cfg.checkpoint), checkpoint.image_of(cfg.checkpoint)
    image, label = load_pair(item, space, cfg.max_pixels, declared)
    picture = as_picture(image)
    device = "cuda" if cfg.gpus_per_actor > 0 and cfg.crf_on == "device" else "cpu"
    probs = torch.from_numpy(np.load(io.BytesIO(storage.read(uri))).astype(np.float32)).to(device)
    counts = []
    for values in settings:
        marginals = (
            probs if values is None else sharpen(probs, picture, CrfConfig(**values), cfg.cpus_per_actor, space.classes)
        )
        mask = marginals.argmax(dim=0).to(torch.uint8).cpu().numpy()
        counts.append(count(label, mask, space.num_classes))
    return np.stack(counts)


def _write(cfg: SegmentConfig, tuned: Tuned) -> None:
    values = _with_crf(cfg, tuned.crf).model_dump(mode="json")
    storage.put(storage.join(cfg.output, "best.yaml"), yaml.safe_dump(values, sort_keys=False).encode())
    record = _plain({"format": FORMAT, **asdict(tuned), "crf": tuned.crf})
    storage.put(storage.join(cfg.output, "tune_crf.json"), json.dumps(record, indent=2, allow_nan=False).encode())


def _with_crf(cfg: SegmentConfig, crf: CrfConfig | None) -> SegmentConfig:
    """Return the config with another CRF; UserError if a CRF does not fit its other keys."""
    values = cfg.model_dump(mode="json") | {"crf": None if crf is None else crf.model_dump()}
    return parse(SegmentConfig, values, where="tune-crf, which adds crf to the config")


def _plain(value: Any) -> Any:
    """Return a record as JSON values: None for NaN, as in the scores of a class that no image has."""
    match value:
        case CrfConfig():
            return value.model_dump()
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case float() if math.isnan(value):
            return None
    return value
