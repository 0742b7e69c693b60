"""Determine the corpus layout and the engine of a run: from its config, from its record, or by trying before it begins."""

import logging
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from pipeline.cluster.worker_env import take_cores
from pipeline.config import EngineName, SegmentConfig
from pipeline.corpus import scan_items
from pipeline.corpus.detect import settled
from pipeline.errors import Reject, UserError
from pipeline.models import Exported
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict.choose_engine import EQUAL, Choice, choose, compare, quantised_on
from pipeline.predict.engines import GRAPHS, build_engine, onnx_of, require_engine
from pipeline.runs import RunInfo, describe, keep_network, run_exists
from pipeline.segment.checkpoints import with_quantised
from pipeline.segment.core_turns import Turns
from pipeline.segment.loading import Loaded, Loader

FIRST = 3  # images on which engines are tried
LEAST_EQUAL = 0.9  # least share of labels that bf16 and int8 must leave unchanged
_log = logging.getLogger(__name__)


def as_recorded(cfg: SegmentConfig) -> tuple[SegmentConfig, RunInfo | None]:
    """Return the config with layout and engine of the run at its output, and that run's record (None: no run yet).

    The layout is detected if neither config nor run names one.

    Raises:
        UserError: the config asks for another engine than the run's; all rows of a run must come from one.
    """
    recorded = describe(cfg.output) if run_exists(cfg.output) else None
    if cfg.corpus.layout is None:
        cfg = cfg.model_copy(update={"corpus": settled(cfg.corpus, recorded.config["corpus"] if recorded else None)})
    if recorded is None:
        return cfg, None
    engine = recorded.config.get("engine", "torch")
    if cfg.engine not in ("auto", engine):
        raise UserError(
            f"run {cfg.output} was made with engine {engine}, the config has {cfg.engine}, which rounds differently: set "
            f"engine: {engine}, or auto, which keeps it, to resume this run; or choose another output"
        )
    return cfg.model_copy(update={"engine": engine}), recorded


@dataclass(frozen=True)
class Beginning:
    """Config, networks and engine that a run begins with."""

    cfg: SegmentConfig  # with the engine set
    ready: Checkpoint  # with the int8 network, if the run computes in int8
    choice: Choice  # how the engine was chosen

    def keep(self) -> None:
        """Export the network into the run's folder, once for all of its actors."""
        if self.cfg.engine in GRAPHS and not isinstance(self.ready.model, Exported):
            sha256 = self.ready.identity.get("quantised_sha256")
            keep_network(self.cfg.output, self.ready.quantised or onnx_of(self.ready.model), sha256)


def with_engine(cfg: SegmentConfig, ready: Checkpoint, recorded: RunInfo | None) -> Beginning:
    """Choose an engine that works here and supports the network; compare it with torch for `auto`, bf16 and int8.

    Args:
        cfg: as `fitted` and then `as_recorded` return it.
        recorded: record of the run to be resumed, or None.
    Raises:
        UserError: the engine is not installed, or does not support the network.
    """
    if ready.others and cfg.engine not in ("torch", "auto"):
        raise UserError(
            f"engine {cfg.engine} computes one network, found an ensemble of {1 + len(ready.others)}; set engine: torch"
        )
    if cfg.engine == "auto":
        choice = _choice(cfg, ready)
        for trial in choice.trials:
            if trial.refused:
                _log.warning("engine: auto leaves out %s", trial.words)
        if choice.missing:
            _log.warning("engine: auto takes %s", choice.words)
        return Beginning(cfg.model_copy(update={"engine": choice.engine}), ready, choice)
    if recorded is not None or (cfg.engine == "tensorrt" and not torch.cuda.is_available()):
        require_engine(cfg.engine)
        return Beginning(cfg, with_quantised(ready, cfg, recorded), Choice(cfg.engine))
    if cfg.engine == "torch" or cfg.predict.precision == "fp32":
        build_engine(cfg.engine, ready.model, cfg.cpus_per_actor)
        return Beginning(cfg, ready, Choice(cfg.engine))
    return _reduced(cfg, cfg.engine, ready)


def _reduced(cfg: SegmentConfig, engine: EngineName, ready: Checkpoint) -> Beginning:
    """Compare bf16 or int8 with float32 on the first images; UserError if too few labels stay the same."""
    require_engine(engine)
    images, threads = _first_images(cfg, ready), cfg.cpus_per_actor
    if cfg.predict.precision == "int8":
        require_engine("onnxruntime")  # quantises for all engines
        if not images:
            raise UserError(
                f"predict.precision int8 measures the network's ranges on the first {FIRST} images of the corpus, and none of "
                "them can be predicted whole; set predict.precision: fp32"
            )
        ready = replace(ready, quantised=quantised_on(ready.model, cfg.predict, images))
    if not images:
        build_engine(engine, ready.model, threads, cfg.predict.precision)
        return Beginning(cfg, ready, Choice(engine))
    choice = compare(engine, ready.model, cfg.predict, images, threads, ready.quantised)
    if choice.trials[-1].equal < LEAST_EQUAL:
        raise UserError(
            f"predict.precision {cfg.predict.precision} spoils this network ({choice.words}): at least {LEAST_EQUAL:.0%} of "
            "the labels must stay; set predict.precision: fp32"
        )
    if choice.trials[-1].equal < EQUAL:
        _log.warning("engine: %s", choice.words)
    return Beginning(cfg, ready, choice)


def _choice(cfg: SegmentConfig, ready: Checkpoint) -> Choice:
    """Choose the engine by trying all on this machine, with the threads of an actor."""
    if ready.others:
        return Choice("torch", missing="an ensemble is computed by torch alone")
    images = _first_images(cfg, ready)
    if not images:
        return Choice("torch", missing=f"none of the first {FIRST} images can be predicted whole")
    return choose(ready.model, cfg.predict, images, cfg.cpus_per_actor)


def _first_images(cfg: SegmentConfig, ready: Checkpoint) -> list[np.ndarray]:
    """Return those of the first images that are predicted whole, read with the threads of an actor."""
    take_cores(cfg.cpus_per_actor)
    whole = cfg.model_copy(update={"predict": cfg.predict.model_copy(update={"reduced_decode": False})})
    load, images = Loader(whole, ready.label_space, Turns(1), ready.image), []
    for item in islice(scan_items(cfg.corpus, cfg.split), FIRST):
        try:
            loaded = load(item)
        except Reject:
            continue
        if isinstance(loaded, Loaded):
            images.append(loaded.image)
    return images
