"""Write masks as Cloud Optimized GeoTIFFs, some rows at a time, with rasterio (GDAL)."""

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.imaging.bands import require_rasterio, settings
from pipeline.labels import IGNORE, LabelSpace

BLOCK_PX = 512  # side of a tile in the file
_ROWS = 512  # rows decoded at once


def write_cog(mask: bytes, georeference: str, space: LabelSpace, path: Path) -> None:
    """Write a mask's PNG as a COG: uint8 train ids, nodata 255, class colours as colour table, class names as band tags.

    Overviews have the most frequent class of the pixels that they cover. Memory holds only some rows, however large the mask;
    in the meantime a plain tiled TIFF is in a temporary folder beside `path`.

    Args:
        georeference: as returned by `Windows.georeference`.
    Raises:
        UserError: rasterio is not installed, or the mask is damaged or not of 8 bits.
    """
    rasterio = require_rasterio()
    from rasterio.enums import ColorInterp
    from rasterio.shutil import copy

    with tempfile.TemporaryDirectory(dir=path.parent) as folder, settings():
        plain = Path(folder) / "plain.tif"
        with _opened(rasterio, mask) as source:
            profile = _profile(rasterio, source, georeference)
            with rasterio.open(plain, "w", **profile) as target:
                _copy_rows(rasterio, source, target)
                target.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(space.colours)})
                target.colorinterp = [ColorInterp.palette]
                target.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(space.classes)})
                target.set_band_description(1, f"train ids of {space.name}")
        copy(
            plain,
            path,
            driver="COG",
            compress="DEFLATE",
            blocksize=BLOCK_PX,
            overview_resampling="MODE",
            bigtiff="IF_SAFER",
        )


@contextmanager
def _opened(rasterio: Any, mask: bytes) -> Iterator[Any]:
    """Open the PNG for reading by rows."""
    with ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                file = stack.enter_context(rasterio.io.MemoryFile(mask))
                source = stack.enter_context(file.open(driver="PNG", sharing=False))
        except rasterio.errors.RasterioError as error:
            raise UserError(f"the mask cannot be decoded ({error})") from None
        if source.count != 1 or source.dtypes[0] != "uint8":
            raise UserError(f"geotiff holds masks of 8 bits, found {source.dtypes[0]}; export as png instead")
        yield source


def _profile(rasterio: Any, source: Any, georeference: str) -> dict[str, Any]:
    place = json.loads(georeference)
    return {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": source.height, "width": source.width, "nodata": IGNORE,
        "crs": rasterio.crs.CRS.from_wkt(place["crs"]), "transform": rasterio.Affine.from_gdal(*place["transform"]),
        "photometric": "palette", "tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate",
        "zlevel": 1, "bigtiff": "IF_SAFER",
    }  # fmt: skip


def _copy_rows(rasterio: Any, source: Any, target: Any) -> None:
    for top in range(0, source.height, _ROWS):
        window = rasterio.windows.Window(0, top, source.width, min(_ROWS, source.height - top))
        try:
            rows: np.ndarray = source.read(1, window=window)
        except rasterio.errors.RasterioError as error:
            raise UserError(f"the mask cannot be decoded at row {top} ({error.__cause__ or error})") from None
        target.write(rows, 1, window=window)
