"""`maskmill show`: one image of a run, in the terminal or as a file."""

import io
from pathlib import PurePosixPath

import numpy as np
from PIL import Image
from rich.console import Console

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.analysis.run_view import RunView
from pipeline.cli.picture import print_picture
from pipeline.errors import UserError, nearest

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_MOST_IDS = 1_000_000  # ids of a plan that are searched for the one that is meant
_MOST_COMPARED = 20_000  # ids that are compared for a similar spelling


def show(console: Console, run: str, image_id: str, of: str, output: str | None) -> None:
    """Print the overlay of an image with its legend, or write it to a file.

    Raises:
        UserError: there is neither terminal nor file, the file's suffix is not a picture format, or the image cannot be shown.
    """
    form = None
    if output is not None:
        form = FORMATS.get(PurePosixPath(output).suffix.lower())
        if form is None:
            raise UserError(f"show --output {output}: its suffix is not a picture format; use .png or .jpg")
    elif not console.is_terminal:
        raise UserError(
            "show: the output is not a terminal, so it cannot show a picture; give a file with --output, such as overlay.png"
        )
    view = open_run(run)
    pictures = view.pictures([_meant(view, image_id)])
    ((found, picture),) = pictures.items()
    if output is not None and form is not None:
        target = storage.absolute(output)
        storage.put(target, _encoded(picture.overlay(of, legend=True), form))
        console.print(f"{found}, {of}: {target}", soft_wrap=True)
        return
    print_picture(console, *picture.overlay_and_entries(of))
    console.print(f"{found}, {of}", soft_wrap=True)


def _encoded(pixels: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, quality=95)
    return file.getvalue()


def _meant(view: RunView, image_id: str) -> str:
    """Return the id itself if the run has it, else the one id that ends with it, or with its file name."""
    if view.plan().rows_of([image_id]).num_rows:
        return image_id
    ids: list[str] = []
    for table in view.plan().tables(["image_id"]):
        ids += table["image_id"].to_pylist()
        if len(ids) >= _MOST_IDS:
            break
    name = PurePosixPath(image_id).stem if PurePosixPath(image_id).suffix.lower() in FORMATS else image_id
    ends = [one for one in ids if one.endswith(f"/{name}") or one == name]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(
            f"run {view.uri}: {len(ends)} images end in '{name}', such as {', '.join(ends[:3])}; give the whole id"
        )
    raise UserError(
        f"run {view.uri} has no image '{image_id}'; its ids are like {', '.join(repr(one) for one in ids[:3])}"
        f"{nearest(image_id, ids[:_MOST_COMPARED])}"
    )
