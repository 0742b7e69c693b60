"""A submission to the Cityscapes server: a zip of labelIds PNGs."""

import io
import re
import zipfile

from PIL import Image

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported, png_of
from pipeline.errors import UserError
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE

_UNLABELLED = 0  # labelId of unknown pixels, which count as wrong; 255 is outside the server's confusion matrix
# The server looks for <city>_<sequence>_<frame>*.png: getPrediction of cityscapesScripts.
_SERVER_NAME = re.compile(r"(?P<city>[^/_]+)_(?P<sequence>\d+)_(?P<frame>\d+)$")


def write(answers: Answers, out: str) -> Exported:
    """Write `submission.zip` with PNGs of labelIds.

    Raises:
        UserError: the run's label space is not Cityscapes', or an image is not named as the server expects.
    """
    uri = storage.join(out, "submission.zip")
    if answers.space.name != "cityscapes19":
        raise UserError(
            f"run {answers.view.uri} is in {answers.space.name}; a Cityscapes submission needs cityscapes19"
        )
    file, written = io.BytesIO(), set[str]()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for image_id, data in answers.masks():
            if not (found := _SERVER_NAME.search(image_id)):
                raise UserError(
                    f"image '{image_id}' is not named <city>_<sequence>_<frame>, which the server looks for; "
                    "export as png instead"
                )
            name = f"{found[0]}_pred_labelIds.png"
            if name in written:
                raise UserError(f"two images would be called {name}; segment one split at a time for a submission")
            written.add(name)
            mask = decode_mask(data)
            stored = answers.space.to_stored(mask)
            stored[mask == IGNORE] = _UNLABELLED
            # A fixed time: the same run gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), png_of(Image.fromarray(stored)))
    storage.put(uri, file.getvalue())
    return Exported(uri, len(written))
