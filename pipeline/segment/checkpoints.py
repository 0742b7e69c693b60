"""What a run predicts with: its checkpoint, or an ensemble of checkpoints, at the output stride that the run asks for."""

from collections.abc import Iterator
from dataclasses import replace

from pipeline import labels
from pipeline.config import ImageConfig, SegmentConfig, differences
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs import check_checkpoints


def load_checkpoints(cfg: SegmentConfig) -> Checkpoint:
    """The run's checkpoint, with the other members of its ensemble.

    Raises:
        UserError: one of them cannot be loaded or has no such output stride, or they are of different classes or bands.
    """
    stride = cfg.predict.output_stride
    first, *others = [checkpoint.load(uri, cfg.code, stride) for uri in addresses(cfg)]
    for uri, other in zip(cfg.ensemble, others, strict=True):
        if differs := list(_differences(first, other)):
            raise UserError(
                f"ensemble: {uri} and {cfg.checkpoint} are not of the same classes and bands, so their probabilities have no "
                f"mean: from the latter to the former, {'; '.join(differs)}; leave one of them out"
            )
    return replace(first, others=tuple(others))


def load_bound(cfg: SegmentConfig) -> Checkpoint:
    """What the run was begun with; UserError where another checkpoint has taken a place since."""
    ready = load_checkpoints(cfg)
    check_checkpoints(cfg.output, addresses(cfg), ready.identity)
    return ready


def addresses(cfg: SegmentConfig) -> list[str]:
    """Of all checkpoints, in the order in which they are numbered."""
    return [cfg.checkpoint, *cfg.ensemble]


def _differences(one: Checkpoint, two: Checkpoint) -> Iterator[str]:
    if one.label_space != two.label_space:
        yield from (f"label_space: {words}" for words in labels.changes(one.label_space, two.label_space))
    yield from differences({"image": _dumped(one.image)}, {"image": _dumped(two.image)})


def _dumped(image: ImageConfig | None) -> object:
    return None if image is None else image.model_dump(mode="json")
