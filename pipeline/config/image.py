"""How to read images that are not 8-bit RGB."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config.base import Section
from pipeline.errors import UserError

Span = tuple[float, float]


class ImageConfig(Section):
    """Which bands of PNG and TIFF files a network gets, and which of their values are black and white.

    The section is part of the network's preprocessing: it is stored in the checkpoint, and `segment` reads images as training
    did. It needs rasterio: pip install 'maskmill[geo]'.
    """

    bands: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """The bands in the order in which the network gets them, counted from 1 as in GDAL. The CRF and the pictures of reports use
    the first three as red, green and blue: [3, 2, 1] for files that store blue, green, red."""

    range: Span | tuple[Span, ...]
    """The stored values that become 0 and 1 before normalisation with the network's mean and std: [low, high] for all bands, or
    one pair per band. Values between are scaled linearly to 32-bit floating point, others are clipped."""

    @model_validator(mode="after")
    def _ranges_fit(self) -> "ImageConfig":
        if len(self.spans) != len(self.bands):
            raise UserError(
                f"image.range has {len(self.spans)} pairs, and image.bands names {len(self.bands)} bands; give one pair "
                "[low, high] for all bands, or one for each"
            )
        for low, high in self.spans:
            if low >= high:
                raise UserError(
                    f"image.range: [{low:g}, {high:g}] has no width; give [low, high], the stored values that are black and "
                    "white, with low below high"
                )
        return self

    @property
    def spans(self) -> tuple[Span, ...]:
        """The (low, high) of each band."""
        pairs = [span for span in self.range if isinstance(span, tuple)]
        return tuple(pairs) if pairs else ((self.range[0], self.range[1]),) * len(self.bands)  # type: ignore[return-value]
