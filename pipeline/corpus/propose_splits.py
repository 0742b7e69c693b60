"""Proposal of a training and a validation split for a corpus whose config sets none."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config import CorpusConfig, parse
from pipeline.corpus import Item, list_items
from pipeline.errors import UserError

FRACTIONS = {"train": 0.8, "val": 0.2}
_SEEDS = 50  # seeds to try, since with few images a hash may give a split too many or none
_ENOUGH_SEQUENCES = 10


@dataclass(frozen=True)
class Splits:
    """The splits to train and to validate on, with their labelled images."""

    train: str
    val: str
    num_train: int
    num_val: int


def propose_splits(cfg: CorpusConfig, items: Sequence[Item]) -> tuple[CorpusConfig, Splits]:
    """Return the corpus with splits, and the splits: those of the layout, or fractions of the images.

    Images of one sequence are similar, so they are kept together if there are enough sequences.

    Args:
        items: all items of the corpus.
    Raises:
        UserError: fewer than two images have a label.
    """
    labelled = [item for item in items if item.label is not None]
    if len(labelled) < 2:
        raise UserError(
            f"corpus {cfg.images}: {len(labelled) or 'no'} image has a label; training needs at least two, one to train on "
            "and one to validate on: add labels"
        )
    named = Counter(str(item.groups["split"]) for item in labelled if item.groups.get("split"))
    if len(named) > 1:
        train = next((name for name in sorted(named) if name.startswith("train")), named.most_common(1)[0][0])
        val = min(named.keys() - {train}, key=lambda name: (not name.startswith("val"), -named[name], name))
        return cfg, Splits(train, val, named[train], named[val])
    wanted = FRACTIONS["val"] * len(labelled)
    return min(
        _dealt(cfg, labelled), key=lambda one: (not one[1].num_val, not one[1].num_train, abs(one[1].num_val - wanted))
    )


def _dealt(cfg: CorpusConfig, labelled: list[Item]) -> Iterator[tuple[CorpusConfig, Splits]]:
    """Yield the corpus split with one seed after another, until the validation split is near its share."""
    sequences = {item.groups.get("sequence") for item in labelled}
    together = (
        {"by": "sequence"} if _ENOUGH_SEQUENCES <= len(sequences) < len(labelled) and None not in sequences else {}
    )
    for seed in range(_SEEDS):
        splits = {"fractions": FRACTIONS, "seed": seed, **together}
        dealt = parse(CorpusConfig, cfg.model_dump(mode="json") | {"splits": splits}, where="splits")
        counts = Counter(item.groups.get("split") for item in list_items(dealt, split=None) if item.label is not None)
        yield dealt, Splits("train", "val", counts["train"], counts["val"])
        off = abs(counts["val"] - FRACTIONS["val"] * len(labelled))
        if counts["train"] and counts["val"] and off <= max(0.5, 0.05 * len(labelled)):
            return
