"""Class colours that stay apart for colour-blind eyes."""

from pipeline.labels import Colour

# Each colour is the farthest, in CIELAB, from those before it, as seen with normal sight and with protanopia, deuteranopia
# and tritanopia (Machado et al. 2009, severity 1); of all first colours of a 6 x 6 x 6 grid the one with the widest result.
SAFE_COLOURS: tuple[Colour, ...] = (
    (102, 0, 102), (0, 255, 0), (255, 204, 255), (0, 0, 255), (153, 0, 0), (153, 204, 153), (255, 51, 255),
    (102, 102, 102), (204, 102, 0), (0, 51, 51), (51, 0, 153), (204, 102, 204), (255, 51, 153), (153, 255, 153),
    (153, 51, 255), (102, 153, 102), (255, 153, 255), (51, 204, 102), (153, 51, 153), (51, 102, 51), (204, 255, 204),
)  # fmt: skip


def safe_colours(num_classes: int) -> tuple[Colour, ...] | None:
    """As many colours as classes; None for more classes than such colours can be told apart."""
    return SAFE_COLOURS[:num_classes] if num_classes <= len(SAFE_COLOURS) else None
