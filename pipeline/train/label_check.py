"""The labelled images of a split, and a check that their labels belong to the declared label space."""

from collections.abc import Iterable, Mapping
from functools import partial

from pipeline.config import TrainConfig
from pipeline.corpus import Item, list_items
from pipeline.errors import UserError
from pipeline.labels import ForeignValues, Outside
from pipeline.read_ahead import read_ahead
from pipeline.train.data import count_label

LOOKED_AT = 64  # labels of a split that are checked before training begins
_THREADS = 4


def labelled(cfg: TrainConfig, split: str) -> list[Item]:
    """Return the images of a split that have a label; UserError if there is none."""
    items = [item for item in list_items(cfg.corpus, split) if item.label is not None]
    if not items:
        raise UserError(
            f"{cfg.corpus.images}: split '{split}' has no labelled image; training needs labels, set corpus.labels"
        )
    return items


def look_at_labels(stages: Iterable[TrainConfig]) -> None:
    """Check some labels of each split of each stage, evenly spaced, against its label space, before a cluster is started.

    Raises:
        UserError: labels have values that the label space lacks; the message names all of them.
    """
    looked_at = set[tuple[str, str, str]]()
    for cfg in stages:
        foreign = ForeignValues()
        for split in (cfg.train_split, cfg.val_split):
            what = cfg.corpus.model_dump_json(), split, cfg.label_space.model_dump_json()
            if what in looked_at:
                continue
            looked_at.add(what)
            items = labelled(cfg, split)
            chosen = [items[place] for place in sorted({i * len(items) // LOOKED_AT for i in range(LOOKED_AT)})]
            for item, look in read_ahead(partial(_foreign_of, cfg=cfg), chosen, _THREADS):
                foreign.add(item.image_id, look.result())
        refuse_foreign(cfg, [foreign])


def refuse_foreign(cfg: TrainConfig, found: Iterable[ForeignValues]) -> None:
    """Raise UserError if labels have values that the label space lacks: which, on how many pixels, in which files."""
    foreign = ForeignValues()
    for part in found:
        foreign.update(part)
    if foreign.pixels:
        raise UserError(f"{cfg.corpus.labels or cfg.corpus.images}: {foreign.sentence(cfg.label_space.space.name)}")


def _foreign_of(item: Item, cfg: TrainConfig) -> Mapping[str, int]:
    try:
        count_label(item, cfg.label_space.space, cfg.max_pixels)
    except Outside as error:
        return error.found
    except (UserError, OSError):
        pass  # training will raise the error when it reads this label
    return {}
