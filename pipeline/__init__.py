"""Maskmill turns image archives into queryable masks.

The public API for other programs. Each name is imported on first use, and reading a run needs neither torch nor Ray:

    from pipeline import DenseCRF, open_run, segment_corpus, train_network

    train_network("train.yaml")
    done = segment_corpus("segment.yaml")
    open_run(done.run).iou(by=["city"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.analysis.grown_run import open_generations as open_generations
    from pipeline.analysis.many_runs import RunsView as RunsView
    from pipeline.analysis.many_runs import open_runs as open_runs
    from pipeline.analysis.run_view import RunView as RunView
    from pipeline.analysis.run_view import open_run as open_run
    from pipeline.config import Section, SegmentConfig, TrainConfig
    from pipeline.crf import DenseCRF as DenseCRF
    from pipeline.segment.driver import Segmented
    from pipeline.segment.progress import Progress
    from pipeline.train.driver import Trained

__version__ = "0.1.0"
__all__ = [
    "DenseCRF", "RunView", "RunsView", "open_generations", "open_run", "open_runs", "segment_corpus", "train_network",
]  # fmt: skip

_S = TypeVar("_S", bound="Section")
_HOMES = {
    "DenseCRF": "pipeline.crf",
    "RunView": "pipeline.analysis.run_view",
    "RunsView": "pipeline.analysis.many_runs",
    "open_run": "pipeline.analysis.run_view",
    "open_generations": "pipeline.analysis.grown_run",
    "open_runs": "pipeline.analysis.many_runs",
}


# Not named `segment` and `train`: those names belong to the subpackages that do the work.
def segment_corpus(
    config: str | Mapping[str, Any] | SegmentConfig, on_progress: Callable[[Progress], None] = lambda progress: None
) -> Segmented:
    """Segment every image of a corpus, as `maskmill segment` does; resume the run if it was interrupted.

    Args:
        config: segmentation config: the path of a YAML file, or its keys and values.
        on_progress: called at the start, after each shard, and while the images of a shard are processed; calls come from
            different threads but never overlap.
    Raises:
        UserError: corpus, checkpoint, output or machine do not fit the config, or too many images were rejected.
    """
    from pipeline.config import SegmentConfig
    from pipeline.segment.driver import segment

    return segment(_read(SegmentConfig, config), on_progress)


def train_network(config: str | Mapping[str, Any] | TrainConfig) -> Trained:
    """Train a network, as `maskmill train` does; resume the training if it was interrupted.

    Args:
        config: training config: the path of a YAML file, or its keys and values.
    Raises:
        UserError: corpus, weights, output or machine do not fit the config.
    """
    from pipeline.config import TrainConfig
    from pipeline.train.driver import train

    return train(_read(TrainConfig, config))


def _read(schema: type[_S], config: str | Mapping[str, Any] | _S) -> _S:
    from pipeline.config import load, parse

    if isinstance(config, schema):
        return config
    return load(schema, config) if isinstance(config, str) else parse(schema, dict(config), where="config")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
