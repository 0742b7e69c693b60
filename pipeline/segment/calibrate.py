"""Temperature scaling: the one number that makes a network's confidences agree with its accuracy, fitted on labelled images.

Letters: P pixels, K passes whose softmax is averaged (networks, scales, mirror images), C classes, H rows, W columns.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from pipeline.cluster import connection
from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig, parse
from pipeline.corpus import Item
from pipeline.corpus.samples import load_pair
from pipeline.errors import UserError
from pipeline.labels import IGNORE
from pipeline.metrics.bootstrap import interval, resample
from pipeline.metrics.calibration import calibration_error, count_confidence
from pipeline.metrics.temperature import LabelledPixels, fit_temperature
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict import Predictor
from pipeline.segment.checkpoints import fitted, load_checkpoints
from pipeline.segment.labelled_images import as_task, labelled_images, of_split, predictor_of

BINS = 15  # bins of the expected calibration error: Guo et al. 2017, section 5
PIXELS = 20_000  # most pixels of an image that the fit uses
MEMORY = 256_000_000  # most bytes of logits to keep, of all images together
SEED = 0  # for the choice of images and pixels, the halves, and the intervals

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """A score over all labelled pixels of the judged half, before and after; 95 % interval of the change, by image."""

    before: float
    after: float
    change: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibrated:
    """Result of the fit. The temperature that is judged was fitted without the images of the judged half."""

    temperature: float  # fitted on all images
    images: int
    pixels: int  # used by that fit
    fitted_images: int  # in the half for fitting
    fitted_temperature: float  # fitted on that half alone; this one is judged
    judged_images: int
    judged_pixels: int
    ece: Change
    nll: Change  # nats per pixel

    @property
    def helps(self) -> bool:
        """Whether the interval of the change in the calibration error lies below 0."""
        return self.ece.high < 0


def calibrate(
    cfg: SegmentConfig, num_images: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Calibrated:
    """Fit the temperature of a config's network, and judge the fit of one half of the images on the other half.

    The fit is on the network's own probabilities: `crf` and `predict.temperature` of the config are ignored.

    Args:
        cfg: a segmentation config; nothing is written to its output.
        num_images: labelled images to draw at random from its split.
        on_progress: called with (predictions done, total); the judged half is predicted twice.
    Raises:
        UserError: fewer than two images with labelled pixels, no temperature is the best, or the cluster cannot hold a task.
    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    """
    if cfg.crf is not None:
        _log.warning("the temperature is that of the network's own probabilities: crf is left out here")
    cfg = _bare(cfg)
    ready = load_checkpoints(cfg)
    cfg = fitted(cfg, ready, needed_by="calibrate")
    items = _draw(cfg, num_images)
    connection.connect()
    connection.require(1, cfg.cpus_per_actor, cfg.gpus_per_actor, "a task of the fit", connection.ACTOR_KEYS)
    total, half = 2 * len(items) - len(items) // 2, len(items) // 2
    pixels = min(PIXELS, max(1, MEMORY // (len(items) * _bytes_of_a_pixel(cfg, ready))))
    samples = _each(cfg, items, _sample, (pixels,), lambda done: on_progress(done, total))
    if not all(any(sample.labelled for sample in part) for part in (samples[:half], samples[half:])):
        raise UserError(
            "calibrate: all pixels of one half of the images are ignored in their labels; name another split"
        )
    first = fit_temperature(samples[:half])
    counts = _each(cfg, items[half:], _count, (first,), lambda done: on_progress(len(items) + done, total))
    ece, nll = _judge(np.stack(counts))
    return Calibrated(
        temperature=_rounded(fit_temperature(samples)), images=len(items), pixels=sum(len(s.label) for s in samples),
        fitted_images=half, fitted_temperature=_rounded(first), judged_images=len(items) - half,
        judged_pixels=sum(s.labelled for s in samples[half:]), ece=ece, nll=nll,
    )  # fmt: skip


def _bare(cfg: SegmentConfig) -> SegmentConfig:
    return cfg.model_copy(update={"crf": None, "predict": cfg.predict.model_copy(update={"temperature": 1.0})})


def _rounded(temperature: float) -> float:
    return float(f"{temperature:.4g}")


def _draw(cfg: SegmentConfig, number: int) -> list[Item]:
    """Draw labelled images in random order, so that each half is random."""
    items = labelled_images(cfg)
    chosen = [items[index] for index in np.random.default_rng(SEED).permutation(len(items))[:number]]
    if len(chosen) < 2:
        raise UserError(
            f"corpus {cfg.corpus.images}: {len(chosen)} labelled images{of_split(cfg)} are chosen, and a temperature needs "
            "two: one to fit it, one to judge it; name another split, or a corpus with labels"
        )
    return chosen


def _bytes_of_a_pixel(cfg: SegmentConfig, ready: Checkpoint) -> int:
    passes = (1 + len(ready.others)) * len(cfg.predict.scales) * (2 if cfg.predict.flip else 1)
    return 4 * passes * ready.label_space.num_classes


def _each(
    cfg: SegmentConfig, items: list[Item], answer: Callable[..., Any], arguments: tuple[Any, ...],
    on_done: Callable[[int], None],
) -> list[Any]:  # fmt: skip
    """Return the answers for all images, in order; each task loads the networks once for `images_per_shard` images."""
    task = as_task(cfg, _answers)
    payload, size = cfg.model_dump(mode="json"), cfg.images_per_shard
    starts = range(0, len(items), size)
    todo = [task.remote(payload, items[start : start + size], answer, arguments) for start in starts]
    places, found = dict(zip(todo, starts, strict=True)), {}
    done = 0
    while todo:
        (ready,), todo = ray.wait(todo, num_returns=1)
        found[places[ready]] = ray.get(ready)
        done += len(found[places[ready]])
        on_done(done)
    return [one for start in starts for one in found[start]]


def _answers(
    payload: dict[str, Any], items: list[Item], answer: Callable[..., Any], arguments: tuple[Any, ...]
) -> list[Any]:
    """Return answer(predictor, item, image, label, *arguments) for each image; predictor(temperature) makes a Predictor."""
    cfg = parse(SegmentConfig, payload, where="segment config")
    take_cores(cfg.cpus_per_actor)
    ready = load_checkpoints(cfg)

    def predictor(temperature: float) -> Predictor:
        return predictor_of(cfg, ready, cfg.predict.model_copy(update={"temperature": temperature}))

    found = []
    for item in items:
        image, label = load_pair(item, ready.label_space, cfg.max_pixels, ready.image)
        found.append(answer(predictor, item, image, label, *arguments))
    return found


OfTemperature = Callable[[float], Predictor]


def _sample(predictor: OfTemperature, item: Item, image: np.ndarray, label: np.ndarray, most: int) -> LabelledPixels:
    """Return the logits of some labelled pixels, drawn at random; the draw does not depend on other images."""
    labelled = np.flatnonzero(label != IGNORE)
    rng = np.random.default_rng([SEED, *item.image_id.encode()])
    chosen = rng.choice(labelled, min(most, len(labelled)), replace=False)
    rows, columns = np.unravel_index(chosen, label.shape)
    logits = predictor(1).logits_at(image, rows, columns)
    if not np.isfinite(logits).all():
        raise UserError(f"image {item.image_id}: the network gives scores that are not numbers; leave the image out")
    return LabelledPixels(logits, label[rows, columns], len(labelled))


def _count(
    predictor: OfTemperature, item: Item, image: np.ndarray, label: np.ndarray, temperature: float
) -> np.ndarray:
    """Return (2, 3 * BINS + 1) float64, without and with the temperature: confidence counts and summed -log p of all pixels."""
    rows = []
    for one in (1.0, temperature):
        ((_, assembly),) = predictor(one).answers([(None, image)], keep_probs=True)
        assert assembly.probs is not None
        probs = assembly.probs.float().cpu()
        confidence, mask = probs.max(dim=0)
        counts = count_confidence(label, mask.to(torch.uint8).numpy(), confidence.numpy(), BINS)
        truth = torch.from_numpy(label).long()
        of_label = probs.gather(0, truth.where(truth != IGNORE, 0)[None])[0][truth != IGNORE]
        loss = -of_label.double().clamp(min=torch.finfo(torch.float32).tiny).log().sum()
        rows.append([*counts.ravel(), float(loss)])
    return np.array(rows, np.float64)


def _judge(counts: np.ndarray) -> tuple[Change, Change]:
    """Return the changes of calibration error and negative log-likelihood, from (I, 2, 3 * BINS + 1) counts."""

    def figures(sums: np.ndarray) -> np.ndarray:
        """(D, 2 * (3 * BINS + 1)) sums -> (D, 2, 2): before and after; calibration error and nats per pixel."""
        return np.array([[_figures(part) for part in draw] for draw in sums.reshape(len(sums), 2, -1)])

    rows = counts.reshape(len(counts), -1)
    before, after = figures(rows.sum(axis=0, keepdims=True))[0].tolist()

    def changes(sums: np.ndarray) -> np.ndarray:
        found = figures(sums)
        return found[:, 1] - found[:, 0]

    low, high = interval(resample(rows, changes, seed=SEED))
    ece, nll = (Change(before[i], after[i], after[i] - before[i], float(low[i]), float(high[i])) for i in (0, 1))
    return ece, nll


def _figures(sums: np.ndarray) -> tuple[float, float]:
    """(3 * BINS + 1,) sums -> calibration error, negative log-likelihood in nats per pixel."""
    counts = sums[:-1].reshape(3, -1)
    pixels = counts[0].sum()
    return calibration_error(counts), float(sums[-1] / pixels) if pixels else float("nan")
