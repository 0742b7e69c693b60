"""How the classes of one label space stand for those of another: MSeg's tables (arXiv:2112.13762, section 3)."""

from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config.base import Section
from pipeline.config.loading import load
from pipeline.errors import UserError, nearest
from pipeline.labels import IGNORE, LabelSpace

Rule = Literal["ignored", "wrong"]


class UnmappedConfig(Section):
    """What becomes of pixels whose class the map leaves out."""

    labels: Rule = "wrong"
    """Labelled as a class without a counterpart: the pixels count nowhere, or as never found, so that its IoU is 0."""
    masks: Rule = "wrong"
    """Predicted as a class without a counterpart: the pixels count nowhere, or as missed by the class they are labelled."""


class ClassMap(Section):
    """A table from the classes of a model to those of labels, and a rule for what it leaves out."""

    classes: dict[str, tuple[str, ...]]
    """Class of the labels -> the model's classes that stand for it; `car: [car, van]`."""
    unmapped: Rule | UnmappedConfig = "wrong"
    """What becomes of pixels whose class the map leaves out: `ignored` or `wrong`, or a rule for `labels` and one for `masks`.
    The default cannot make a score better than it is."""

    @property
    def rules(self) -> UnmappedConfig:
        """Both rules."""
        both = self.unmapped
        return both if isinstance(both, UnmappedConfig) else UnmappedConfig(labels=both, masks=both)

    @property
    def has_wrong(self) -> bool:
        """Whether a prediction can be wrong without being one of the labels' classes."""
        return self.rules.masks == "wrong"

    def tables(self, model: LabelSpace, truth: LabelSpace, where: str) -> tuple[np.ndarray, np.ndarray]:
        """(256,) uint8 each: train id of a mask -> train id of the labels, 255 = ignored, C = wrong; and the same of a label.

        Raises:
            UserError: a class is in neither space, or stands for two.
        """
        if unknown := [name for name in self.classes if name not in truth.classes]:
            raise UserError(
                f"{where}: '{unknown[0]}' is no class of the labels' {truth.name}: {', '.join(truth.classes)}"
                f"{nearest(unknown[0], truth.classes)}"
            )
        masks, labels = (np.full(256, IGNORE, np.uint8) for _ in range(2))
        masks[: model.num_classes] = truth.num_classes if self.has_wrong else IGNORE
        labels[: truth.num_classes] = np.arange(truth.num_classes)
        owner: dict[str, str] = {}
        for name, members in self.classes.items():
            for member in members:
                if member not in model.classes:
                    raise UserError(
                        f"{where}: {name}: '{member}' is no class of the run's {model.name}: {', '.join(model.classes)}"
                        f"{nearest(member, model.classes)}"
                    )
                if member in owner:
                    raise UserError(
                        f"{where}: '{member}' stands for both '{owner[member]}' and '{name}'; a class of the run has one "
                        "counterpart"
                    )
                owner[member] = name
                masks[model.classes.index(member)] = truth.classes.index(name)
        if self.rules.labels == "ignored":
            labels[[index for index, name in enumerate(truth.classes) if not self.classes.get(name)]] = IGNORE
        return masks, labels


def read_class_map(path: str) -> ClassMap:
    """The map of a YAML file."""
    if not Path(path).is_file():
        raise UserError(
            f"--map {path}: no such file; give a YAML file such as {{classes: {{car: [car, van]}}, unmapped: wrong}}"
        )
    return load(ClassMap, path)


def same_classes(space: LabelSpace) -> ClassMap:
    """Each class for itself."""
    return ClassMap(classes={name: (name,) for name in space.classes})
