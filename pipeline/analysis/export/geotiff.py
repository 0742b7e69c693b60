"""Cloud Optimized GeoTIFFs, with the georeference of the images that the masks were made from."""

import tempfile
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported, place_in
from pipeline.corpus import Place, open_file, read
from pipeline.errors import Reject, UserError
from pipeline.imaging.bands import georeference_of
from pipeline.imaging.geotiff import write_cog
from pipeline.runs import GEOREFERENCE


def write(answers: Answers, out: str) -> Exported:
    """Write `<image id>.tif`: uint8 train ids, nodata 255, colours, class names, and CRS and transform of the image.

    The run stores CRS and transform if its checkpoint declares bands; else they are read from the images, which must still be
    there. Memory holds one mask as PNG and one as COG, and a few of its pixel rows.

    Raises:
        UserError: an image has no georeference, its id leads out of the folder, or rasterio is not installed.
    """
    kept = [GEOREFERENCE] if answers.view.description.image is not None else []
    written = 0
    with tempfile.TemporaryDirectory(prefix="maskmill-") as folder:
        path = Path(folder) / "mask.tif"
        for row in answers.rows("image_id", "uri", "member", "mask", *kept, batch_rows=1):
            image_id = row["image_id"]
            file = place_in(out, image_id, ".tif")
            place = row[GEOREFERENCE] if kept else _read_again(row)
            if place is None:
                raise UserError(
                    f"image '{image_id}' ({row['uri']}) has no coordinate reference system, which a GeoTIFF needs; export as "
                    "png instead"
                )
            write_cog(row["mask"]["bytes"], place, answers.space, path)
            storage.put(file, path.read_bytes())
            written += 1
    return Exported(out, written)


def _read_again(row: dict[str, Any]) -> str | None:
    """Read the georeference of a row's image from its original location."""
    place = Place(row["uri"], row["member"])
    try:
        return georeference_of(open_file(place) if place.member is None else read(place))
    except (Reject, OSError) as error:
        raise UserError(
            f"image '{row['image_id']}' cannot be read again for its coordinates: {error}; put it back, or train with `image` "
            "in the config, whose runs keep them"
        ) from None
