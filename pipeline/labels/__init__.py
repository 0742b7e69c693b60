"""Label spaces: what the ids of a data set mean, and how its stored ids and colours map to train ids.

A label space is data: `spaces/*.yaml` holds the built-in ones, each with its source, and users define their own with the same
keys (`section.py`). Checkpoints and runs store the whole space, so that reading them does not depend on the built-in files.
"""

from pipeline.labels.changes import changes
from pipeline.labels.foreign import ForeignValues, Outside
from pipeline.labels.label_space import IGNORE, MAX_CLASSES, Colour, LabelSpace
from pipeline.labels.section import SPACES, LabelClass, LabelSpaceSection, from_section, identity_of, space

__all__ = [
    "IGNORE", "MAX_CLASSES", "SPACES", "Colour", "ForeignValues", "LabelClass", "LabelSpace", "LabelSpaceSection", "Outside",
    "changes", "from_section", "identity_of", "space",
]  # fmt: skip
