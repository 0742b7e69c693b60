"""Label Studio: tasks with the masks as predictions, which people correct as brush regions."""

import json
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported, Shown, regions_by_class
from pipeline.analysis.export.brush import encode_brush
from pipeline.labels import LabelSpace

_TAG, _IMAGE = "tag", "image"  # names in the labelling config, to which the results refer


def write(answers: Answers, out: str) -> Exported:
    """Write `tasks.json`, `config.xml` (the project's labelling interface), and the images below `images/`.

    Images that are objects in a store stay there, and tasks name their URIs; others are copied. Label Studio serves copies
    on a disk if LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the export's folder.

    Source: https://labelstud.io/guide/predictions and https://labelstud.io/tags/brushlabels.
    """
    # Kept as text, the numbers of a mask take half of the memory.
    tasks = [json.dumps(_task(answers, shown, out), separators=(",", ":")) for shown in answers.shown("confidence")]
    uri = storage.join(out, "tasks.json")
    storage.put(uri, f"[{','.join(tasks)}]".encode())
    storage.put(storage.join(out, "config.xml"), _config(answers.space).encode())
    return Exported(uri, len(tasks))


def _task(answers: Answers, shown: Shown, out: str) -> dict[str, Any]:
    height, width = shown.mask.shape
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    names = {"type": "brushlabels", "from_name": _TAG, "to_name": _IMAGE}
    results = []
    for index, region in regions_by_class(shown.mask):
        rle = encode_brush(region)
        value = {"format": "rle", "rle": rle, "brushlabels": [answers.space.classes[index]]}
        results.append({"id": f"class-{index}", **names, **size, "value": value})
    prediction: dict[str, Any] = {"model_version": answers.view.description.fingerprint[:12], "result": results}
    if (score := shown.row["confidence"]) is not None:
        prediction["score"] = score
    return {"data": {_IMAGE: _address(shown, out), "image_id": shown.image_id}, "predictions": [prediction]}


def _address(shown: Shown, out: str) -> str:
    """Return the address at which Label Studio finds the image, which is copied if it must be."""
    if shown.uri is not None and "://" in shown.uri and not shown.uri.startswith("file://"):
        return shown.uri
    shown.copy(storage.join(out, "images"))
    name = f"images/{shown.name}"
    return storage.join(out, name) if "://" in out else f"/data/local-files/?d={quote(name)}"


def _config(space: LabelSpace) -> str:
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="#{red:02x}{green:02x}{blue:02x}"/>'
        for name, (red, green, blue) in zip(space.classes, space.colours, strict=True)
    )
    return (
        f'<View>\n  <Image name="{_IMAGE}" value="${_IMAGE}" zoom="true"/>\n  <BrushLabels name="{_TAG}" toName="{_IMAGE}">\n'
        f"{labels}\n  </BrushLabels>\n</View>\n"
    )
