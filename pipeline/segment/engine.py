"""The engine of a run: given, kept from its start, or chosen on its first images before it is begun."""

import logging
from itertools import islice

from pipeline.cluster.worker_env import take_cores
from pipeline.config import SegmentConfig
from pipeline.corpus import scan_items
from pipeline.errors import Reject, UserError
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict.choose_engine import Choice, choose
from pipeline.predict.engines import build_engine, require_engine
from pipeline.runs import describe, run_exists
from pipeline.segment.core_turns import Turns
from pipeline.segment.loading import Loaded, Loader

FIRST = 3  # images that the engines are tried on
_log = logging.getLogger(__name__)


def with_recorded_engine(cfg: SegmentConfig) -> SegmentConfig:
    """The config with the engine of the run at its output, where there is one.

    Raises:
        UserError: the config asks for another: a run's rows come from one model.
    """
    if not run_exists(cfg.output):
        return cfg
    recorded = describe(cfg.output).config.get("engine", "torch")
    if cfg.engine not in ("auto", recorded):
        raise UserError(
            f"run {cfg.output} was made with engine {recorded}, the config has {cfg.engine}, which rounds differently: set "
            f"engine: {recorded}, or auto, which keeps it, to resume this run; or choose another output"
        )
    return cfg.model_copy(update={"engine": recorded})


def with_engine(cfg: SegmentConfig, ready: Checkpoint) -> tuple[SegmentConfig, Choice]:
    """The config with an engine that works here and takes the network, and how it came about.

    Raises:
        UserError: it is not installed, does not take the network, or is not that of the run at the output.
    """
    cfg = with_recorded_engine(cfg)
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
        return cfg.model_copy(update={"engine": choice.engine}), choice
    if run_exists(cfg.output):
        require_engine(cfg.engine)
    else:
        build_engine(cfg.engine, ready.model, cfg.cpus_per_actor)
    return cfg, Choice(cfg.engine)


def _choice(cfg: SegmentConfig, ready: Checkpoint) -> Choice:
    """Tried on this machine, with the threads of an actor."""
    if ready.others:
        return Choice("torch", missing="an ensemble is computed by torch alone")
    take_cores(cfg.cpus_per_actor)
    load, images = Loader(cfg, ready.label_space, Turns(1), ready.image), []
    for item in islice(scan_items(cfg.corpus, cfg.split), FIRST):
        try:
            loaded = load(item)
        except Reject:
            continue
        if isinstance(loaded, Loaded):
            images.append(loaded.image)
    if not images:
        return Choice("torch", missing=f"none of the first {FIRST} images can be predicted whole")
    return choose(ready.model, cfg.predict, images, cfg.cpus_per_actor)
