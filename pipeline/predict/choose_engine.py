"""Try engines on a few images: choose the fastest for `engine: auto`, and compare bf16 and int8 with torch's float32."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import EngineName, PredictConfig
from pipeline.errors import UserError
from pipeline.models import Network
from pipeline.models.quantise import quantise
from pipeline.predict.engines import build_engine, onnx_of
from pipeline.predict.predictor import Predictor
from pipeline.predict.tile import Tile

CANDIDATES: tuple[EngineName, ...] = (
    "onnxruntime",
    "openvino",
)  # besides torch; not `compile`, since compiling takes longer than a short run
EQUAL = 0.9999  # least share of labels that must equal torch's
RANGES_PX = 1024  # most rows and columns of an image for measuring int8 ranges, which keeps the maps of all layers


@dataclass(frozen=True)
class Trial:
    """The result of one engine on the first images."""

    engine: EngineName
    seconds: float = 0.0  # per image, after a first pass
    start_s: float = 0.0  # until the engine can take the first image
    equal: float = 0.0  # share of the pixels that have torch's label
    refused: str | None = None  # why it cannot be chosen
    precision: str = "fp32"

    @property
    def words(self) -> str:
        if self.seconds == 0:
            return f"{self.engine}: {self.refused}"
        name = self.engine if self.precision == "fp32" else f"{self.engine} {self.precision}"
        figures = f"{name} {self.seconds:.3g} s an image, labels equal on {100 * self.equal:.4f} %"
        return f"{figures}: {self.refused}" if self.refused else figures


@dataclass(frozen=True)
class Choice:
    """The engine of a run, and why."""

    engine: EngineName
    trials: tuple[Trial, ...] = ()  # empty if the engine was given, or recorded in the run
    missing: str | None = None  # why nothing could be tried

    @property
    def words(self) -> str:
        """The engine, and the reason or the results of its trials."""
        if self.missing:
            return f"{self.engine}, since {self.missing}"
        return "; ".join([self.engine, *(trial.words for trial in self.trials)])


def choose(model: Network, cfg: PredictConfig, images: Sequence[np.ndarray], threads: int) -> Choice:
    """Return the fastest engine that gives torch's labels on at least `EQUAL` of the pixels of these images."""
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
        equal = _share_equal(found, expected)
        refused = None if equal >= EQUAL else f"at least {100 * EQUAL} % are asked for"
        trials.append(replace(trial, equal=equal, refused=refused))
    fastest = min((trial for trial in trials if trial.refused is None), key=lambda trial: trial.seconds)
    return Choice(fastest.engine, tuple(trials))


def compare(
    name: EngineName,
    model: Network,
    cfg: PredictConfig,
    images: Sequence[np.ndarray],
    threads: int,
    quantised: bytes | None = None,
) -> Choice:
    """Compare the engine at the config's precision with torch's float32 on these images; int8 needs `quantised`."""
    expected, torch_trial = _timed("torch", model, cfg.model_copy(update={"precision": "fp32"}), images, threads)
    found, trial = _timed(name, model, cfg, images, threads, quantised)
    return Choice(name, (torch_trial, replace(trial, equal=_share_equal(found, expected), precision=cfg.precision)))


def quantised_on(model: Network, cfg: PredictConfig, images: Sequence[np.ndarray]) -> bytes:
    """Return the network in int8, with ranges measured on the middle of each of these images."""
    predictor, inputs = Predictor(model, cfg), []
    for image in images:
        top, left = (max(0, size - RANGES_PX) // 2 for size in image.shape[:2])
        middle = Tile.of(image[top : top + RANGES_PX, left : left + RANGES_PX])
        inputs += [predictor._input([middle], scale, mirrored=False).contiguous().numpy() for scale in cfg.scales]
    return quantise(onnx_of(model), inputs)


def _share_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    same = sum(int((one == other).sum()) for one, other in zip(found, expected, strict=True))
    return same / sum(one.size for one in expected)


def _timed(
    name: EngineName,
    model: Network,
    cfg: PredictConfig,
    images: Sequence[np.ndarray],
    threads: int,
    kept: bytes | None = None,
) -> tuple[list[np.ndarray], Trial]:
    """Return the masks of the images, and the time of a second pass over them, since the first includes preparation."""
    started = time.perf_counter()
    engine = build_engine(name, model, threads, cfg.precision, kept)
    predictor = Predictor(model, cfg, num_threads=threads, engine=engine)
    built = time.perf_counter()
    masks = [prediction.mask for image in images for prediction in predictor.masks([image])]
    again = time.perf_counter()
    for image in images:
        predictor.masks([image])
    return masks, Trial(name, (time.perf_counter() - again) / len(images), built - started, equal=1.0)
