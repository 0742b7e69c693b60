"""`engine: auto`: every engine is tried on a few images; the fastest whose labels are torch's is taken."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import EngineName, PredictConfig
from pipeline.errors import UserError
from pipeline.models import Network
from pipeline.predict.engines import build_engine
from pipeline.predict.predictor import Predictor

CANDIDATES: tuple[EngineName, ...] = (
    "onnxruntime",
    "openvino",
)  # beside torch; compiling takes longer than a short run
EQUAL = 0.9999  # of the labels, at least


@dataclass(frozen=True)
class Trial:
    """One engine on the first images."""

    engine: EngineName
    seconds: float = 0.0  # of an image, once everything is in place
    start_s: float = 0.0  # until the first image can be answered
    equal: float = 0.0  # share of the pixels that have torch's label
    refused: str | None = None  # why it is out of the question

    @property
    def words(self) -> str:
        if self.seconds == 0:
            return f"{self.engine}: {self.refused}"
        figures = f"{self.engine} {self.seconds:.3g} s an image, labels equal on {100 * self.equal:.4f} %"
        return f"{figures}: {self.refused}" if self.refused else figures


@dataclass(frozen=True)
class Choice:
    """The engine of a run, and why."""

    engine: EngineName
    trials: tuple[Trial, ...] = ()  # none where it was given, or found in the run
    missing: str | None = None  # why nothing could be tried

    @property
    def words(self) -> str:
        """For a person."""
        if self.missing:
            return f"{self.engine}, since {self.missing}"
        return "; ".join([self.engine, *(trial.words for trial in self.trials)])


def choose(model: Network, cfg: PredictConfig, images: Sequence[np.ndarray], threads: int) -> Choice:
    """The fastest engine that gives torch's labels on at least `EQUAL` of the pixels of these images."""
    expected, own_trial = _timed(model.own_engine, model, cfg, images, threads)
    trials = [own_trial]
    for name in CANDIDATES:
        if name == model.own_engine:
            continue
        try:
            found, trial = _timed(name, model, cfg, images, threads)
        except UserError as error:
            trials.append(Trial(name, refused=str(error)))
            continue
        same = sum(int((one == other).sum()) for one, other in zip(found, expected, strict=True))
        equal = same / sum(one.size for one in expected)
        refused = None if equal >= EQUAL else f"at least {100 * EQUAL} % are asked for"
        trials.append(Trial(name, trial.seconds, trial.start_s, equal, refused))
    fastest = min((trial for trial in trials if trial.refused is None), key=lambda trial: trial.seconds)
    return Choice(fastest.engine, tuple(trials))


def _timed(
    name: EngineName, model: Network, cfg: PredictConfig, images: Sequence[np.ndarray], threads: int
) -> tuple[list[np.ndarray], Trial]:
    """Masks of the images, and the time of a second pass over them: a first one of each size prepares much."""
    started = time.perf_counter()
    predictor = Predictor(model, cfg, num_threads=threads, engine=build_engine(name, model, threads))
    built = time.perf_counter()
    masks = [prediction.mask for image in images for prediction in predictor.masks([image])]
    again = time.perf_counter()
    for image in images:
        predictor.masks([image])
    return masks, Trial(name, (time.perf_counter() - again) / len(images), built - started, equal=1.0)
