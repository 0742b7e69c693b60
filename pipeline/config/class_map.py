"""Maps from the classes of one label space to those of another, like MSeg's tables (arXiv:2112.13762, section 3)."""

from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config.base import Section
from pipeline.config.loading import load
from pipeline.errors import UserError, nearest
from pipeline.labels import IGNORE, LabelSpace

Rule = Literal["ignored", "wrong"]


class UnmappedConfig(Section):
    """How pixels count whose class is not in the map."""

    labels: Rule = "wrong"
    """Pixels labelled as a class that is not in the map: `ignored`, or `wrong`, which makes the IoU of that class 0."""
    masks: Rule = "wrong"
    """Pixels predicted as a class that is not in the map: `ignored`, or `wrong`, as errors for the class of their label."""


class ClassMap(Section):
    """A table from the classes of a model to those of labels, and a rule for classes that are not in it."""

    classes: dict[str, tuple[str, ...]]
    """Class of the labels -> the model's classes that correspond to it, such as `car: [car, van]`."""
    unmapped: Rule | UnmappedConfig = "wrong"
    """How pixels count whose class is not in the map: `ignored` or `wrong`, or one rule for `labels` and one for `masks`. The
    default never flatters a score."""

    @property
    def rules(self) -> UnmappedConfig:
        """The rules for labels and for masks."""
        both = self.unmapped
        return both if isinstance(both, UnmappedConfig) else UnmappedConfig(labels=both, masks=both)

    @property
    def has_wrong(self) -> bool:
        """Whether predictions of classes that are not in the map count as wrong."""
        return self.rules.masks == "wrong"

    def tables(self, model: LabelSpace, truth: LabelSpace, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Return two (256,) uint8 tables, for masks and for labels: their id -> train id of the labels, 255 ignored, C wrong.

        Raises:
            UserError: a class is in neither space, or is mapped to two classes.
        """
        if unknown := [name for name in self.classes if name not in truth.classes]:
            raise UserError(
                f"{where}: '{unknown[0]}' is not a class of the labels' {truth.name}: {', '.join(truth.classes)}"
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
                        f"{where}: {name}: '{member}' is not a class of the run's {model.name}: {', '.join(model.classes)}"
                        f"{nearest(member, model.classes)}"
                    )
                if member in owner:
                    raise UserError(
                        f"{where}: '{member}' is mapped to both '{owner[member]}' and '{name}'; a class of the run has one "
                        "counterpart"
                    )
                owner[member] = name
                masks[model.classes.index(member)] = truth.classes.index(name)
        if self.rules.labels == "ignored":
            labels[[index for index, name in enumerate(truth.classes) if not self.classes.get(name)]] = IGNORE
        return masks, labels


def read_class_map(path: str) -> ClassMap:
    """Read the map from a YAML file."""
    if not Path(path).is_file():
        raise UserError(
            f"--map {path}: no such file; give a YAML file such as {{classes: {{car: [car, van]}}, unmapped: wrong}}"
        )
    return load(ClassMap, path)


def same_classes(space: LabelSpace) -> ClassMap:
    """Return the map of each class to itself."""
    return ClassMap(classes={name: (name,) for name in space.classes})
