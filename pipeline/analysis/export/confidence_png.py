"""Confidence maps as PNG files: 255 is a probability of 1."""

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported, place_in
from pipeline.errors import UserError
from pipeline.runs import CONFIDENCE_MAP


def write(answers: Answers, out: str) -> Exported:
    """Write `<image id>.png` as the run stores it, 8-bit grey.

    Raises:
        UserError: the run has no confidence maps, or an image's id leads out of the folder.
    """
    if CONFIDENCE_MAP not in answers.view.columns:
        raise UserError(
            f"run {answers.view.uri} has no maps of confidence; set confidence_map: true in a new run's config"
        )
    written = 0
    for row in answers.rows("image_id", CONFIDENCE_MAP, batch_rows=16):
        storage.put(place_in(out, row["image_id"], ".png"), row[CONFIDENCE_MAP]["bytes"])
        written += 1
    return Exported(out, written)
