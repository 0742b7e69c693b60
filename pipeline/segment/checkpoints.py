"""Load the networks of a run: a checkpoint or an ensemble of checkpoints, at the output stride of its config."""

import logging
from collections.abc import Iterator
from dataclasses import replace

from pipeline import labels
from pipeline.config import ImageConfig, SegmentConfig, differences
from pipeline.crf.given import class_weights_of
from pipeline.errors import UserError
from pipeline.metrics.registry import needs
from pipeline.models import Exported, checkpoint
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs import RunInfo, check_checkpoints, describe, kept_network

_log = logging.getLogger(__name__)


def load_checkpoints(cfg: SegmentConfig) -> Checkpoint:
    """Load the run's checkpoint, with the other members of its ensemble.

    Raises:
        UserError: one of them cannot be loaded or does not support the output stride, their classes or bands differ, or a class
            weight of the CRF names an unknown class.
    """
    stride = cfg.predict.output_stride
    first, *others = [checkpoint.load(uri, cfg.code, stride) for uri in addresses(cfg)]
    if cfg.crf is not None:
        class_weights_of(cfg.crf.class_weights, first.label_space.classes)
    for uri, other in zip(cfg.ensemble, others, strict=True):
        if differs := list(_differences(first, other)):
            raise UserError(
                f"ensemble: {uri} and {cfg.checkpoint} are not of the same classes and bands, so their probabilities have no "
                f"mean: from the latter to the former, {'; '.join(differs)}; leave one of them out"
            )
    return replace(first, others=tuple(others))


def fitted(cfg: SegmentConfig, ready: Checkpoint, needed_by: str | None = None) -> SegmentConfig:
    """Adapt the config to exported files among its networks: their tile size, and the engine that runs them.

    Args:
        needed_by: name of a command that needs scores, whatever the config says.
    Raises:
        UserError: the config asks for something that one of them does not support.
    """
    for uri, one in zip(addresses(cfg), (ready, *ready.others), strict=True):
        if isinstance(one.model, Exported):
            cfg = _fitted(cfg, one.model, uri, needed_by)
    return cfg


def _fitted(cfg: SegmentConfig, model: Exported, uri: str, needed_by: str | None) -> SegmentConfig:
    for key, found, needed in (
        ("gpus_per_actor", cfg.gpus_per_actor, 0),
        ("predict.precision", cfg.predict.precision, "fp32"),
        ("predict.mode", cfg.predict.mode, "whole"),
    ):
        if found != needed:
            raise UserError(f"checkpoint {uri}: an exported file needs {key} {needed}, found {found}; leave it out")
    if not model.gives_scores and (keys := [*([needed_by] if needed_by else []), *_keys_on_scores(cfg)]):
        raise UserError(
            f"checkpoint {uri}: its network gives the number of the best class at each pixel and no scores, which "
            f"{', '.join(keys)} would need; leave that out, or export the network up to its logits"
        )
    if cfg.engine == "torch" and not cfg.ensemble:
        cfg = cfg.model_copy(update={"engine": model.own_engine})
    return cfg if model.tile is None else _tiled(cfg, model.tile, uri)


def _keys_on_scores(cfg: SegmentConfig) -> Iterator[str]:
    """Yield the keys that are set and need scores."""
    for key, on in (
        ("crf", cfg.crf is not None),
        ("metrics.calibration_bins", "confidence" in needs(dict(cfg.metrics))),
        ("confidence_map", cfg.confidence_map),
        ("unknown_below", cfg.unknown_below is not None),
        ("ensemble", bool(cfg.ensemble)),
        ("predict.scales", cfg.predict.scales != (1.0,)),
        ("predict.flip", cfg.predict.flip),
        ("predict.temperature", cfg.predict.temperature != 1),
    ):
        if on:
            yield key


def _tiled(cfg: SegmentConfig, tile: tuple[int, int], uri: str) -> SegmentConfig:
    """Set `predict.tile` to the only size that the network takes."""
    size = f"{tile[0]}x{tile[1]}"
    if cfg.predict.scales != (1.0,):
        raise UserError(f"checkpoint {uri}: its network takes images of {size} alone, so leave predict.scales out")
    if cfg.predict.tile not in (None, tile):
        raise UserError(
            f"checkpoint {uri}: its network takes images of {size} alone, and predict.tile is {list(cfg.predict.tile or ())}; "
            f"set {list(tile)}, or leave it out"
        )
    if cfg.predict.tile is None:
        _log.warning("the network takes images of %s alone: predict.tile is %s", size, list(tile))
    return cfg.model_copy(update={"predict": cfg.predict.model_copy(update={"tile": tile})})


def load_alike(one: SegmentConfig, two: SegmentConfig) -> bool:
    """Return whether `load_checkpoints` loads the same networks for both configs."""
    first, second = ((addresses(cfg), cfg.code, cfg.predict.output_stride) for cfg in (one, two))
    return first == second


def load_bound(cfg: SegmentConfig, ready: Checkpoint | None = None) -> Checkpoint:
    """Load the checkpoints that the run was begun with; UserError if one has been replaced since.

    Args:
        ready: result of `load_checkpoints`, if it was called already.
    """
    ready = ready or load_checkpoints(cfg)
    if cfg.predict.precision == "int8":
        ready = with_quantised(ready, cfg, describe(cfg.output))
    check_checkpoints(cfg.output, addresses(cfg), ready.identity)
    return ready


def with_quantised(ready: Checkpoint, cfg: SegmentConfig, recorded: RunInfo | None) -> Checkpoint:
    """Return the checkpoint with the int8 network of the run to be resumed, if it has one.

    Raises:
        UserError: the file of that network is gone, or was replaced.
    """
    sha256 = recorded.identity.get("quantised_sha256") if recorded else None
    return ready if sha256 is None else replace(ready, quantised=kept_network(cfg.output, sha256))


def addresses(cfg: SegmentConfig) -> list[str]:
    """Return the URIs of all checkpoints, in the order in which they are numbered."""
    return [cfg.checkpoint, *cfg.ensemble]


def _differences(one: Checkpoint, two: Checkpoint) -> Iterator[str]:
    if one.label_space != two.label_space:
        yield from (f"label_space: {words}" for words in labels.changes(one.label_space, two.label_space))
    yield from differences({"image": _dumped(one.image)}, {"image": _dumped(two.image)})


def _dumped(image: ImageConfig | None) -> object:
    return None if image is None else image.model_dump(mode="json")
