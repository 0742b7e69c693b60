"""Label spaces: what the ids of a data set mean, and how its stored ids and colours map to train ids.

A space is data: `spaces/*.yaml` are those built in, each with its source; anybody's own is a section of the same keys
(`section.py`). Checkpoints, runs and configs hold it whole, so that no code is asked for it again.
"""

from pipeline.labels.changes import changes
from pipeline.labels.foreign import ForeignValues, Outside
from pipeline.labels.label_space import IGNORE, MAX_CLASSES, Colour, LabelSpace
from pipeline.labels.section import SPACES, LabelClass, LabelSpaceSection, from_section, identity_of, space

__all__ = [
    "IGNORE", "MAX_CLASSES", "SPACES", "Colour", "ForeignValues", "LabelClass", "LabelSpace", "LabelSpaceSection", "Outside",
    "changes", "from_section", "identity_of", "space",
]  # fmt: skip
