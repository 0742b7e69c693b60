"""PNG files with the classes' colours as palette."""

from PIL import Image

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported, place_in, png_of
from pipeline.imaging.colours import palette_of
from pipeline.imaging.mask_png import decode_mask


def write(answers: Answers, out: str) -> Exported:
    """Write `<image id>.png` of train ids; UserError if an image's id leads out of the folder."""
    palette = palette_of(answers.space.colours)
    written = 0
    for image_id, data in answers.masks():
        picture = Image.fromarray(decode_mask(data)).convert("P")
        picture.putpalette(palette)
        storage.put(place_in(out, image_id, ".png"), png_of(picture))
        written += 1
    return Exported(out, written)
