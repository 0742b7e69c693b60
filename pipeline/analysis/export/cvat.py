"""CVAT: the masks as annotations of a task, in the format "CVAT for images 1.1"."""

import json
from typing import Any
from xml.etree import ElementTree

import yaml

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported, Shown, regions_by_class
from pipeline.analysis.export.coco import box_of
from pipeline.analysis.export.rle import encode_rle
from pipeline.labels import Colour, LabelSpace
from pipeline.labels.colours import with_fresh

_BLACK = (0, 0, 0)


def write(answers: Answers, out: str) -> Exported:
    """Write `annotations.xml`, `labels.json` (the task's labels, for the field "Raw"), and the images below `images/`.

    Also write `classes.yaml`, the label space of pictures that CVAT exports as "Segmentation mask 1.1": colours, black = none.

    Source: https://docs.cvat.ai/docs/other/xml_format.
    """
    images = []
    for number, shown in enumerate(answers.shown()):
        shown.copy(storage.join(out, "images"))
        images.append(_text(_image(number, shown, answers.space)))
    uri = storage.join(out, "annotations.xml")
    head = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n{_text(_meta(answers.space))}\n'
    storage.put(uri, "\n".join([head, *images, "</annotations>\n"]).encode())
    labels = [{"name": name, "color": colour, "attributes": []} for name, colour in _labels(answers.space)]
    storage.put(storage.join(out, "labels.json"), json.dumps(labels, indent=2).encode())
    storage.put(
        storage.join(out, "classes.yaml"), yaml.safe_dump(_colour_space(answers.space), sort_keys=False).encode()
    )
    return Exported(uri, len(images))


def _image(number: int, shown: Shown, space: LabelSpace) -> ElementTree.Element:
    """Return an image with one mask per class: run lengths in its box, row by row, starting with a run outside the class."""
    height, width = shown.mask.shape
    image = ElementTree.Element("image", id=str(number), name=shown.name, width=str(width), height=str(height))
    for index, region in regions_by_class(shown.mask):
        left, top, wide, high = box_of(region)
        runs = encode_rle(region[top : top + high, left : left + wide].T)  # encode_rle goes down the columns
        values = {"label": space.classes[index], "source": "auto", "occluded": "0", "rle": ", ".join(map(str, runs))}
        box = {"left": left, "top": top, "width": wide, "height": high, "z_order": 0}
        ElementTree.SubElement(image, "mask", values | {name: str(value) for name, value in box.items()})
    return image


def _meta(space: LabelSpace) -> ElementTree.Element:
    meta = ElementTree.Element("meta")
    labels = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
    for name, colour in _labels(space):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = colour
        ElementTree.SubElement(label, "attributes")
    return meta


def _labels(space: LabelSpace) -> list[tuple[str, str]]:
    colours = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in _colours(space))
    return list(zip(space.classes, colours, strict=True))


def _colours(space: LabelSpace) -> list[Colour]:
    """Return a colour for each class that no other has, since the pictures that CVAT exports hold nothing else."""
    own = [None if colour in space.colours[:index] else colour for index, colour in enumerate(space.colours)]
    return with_fresh([*own, _BLACK])[:-1]


def _colour_space(space: LabelSpace) -> dict[str, Any]:
    classes = [
        {"name": name, "colour": list(colour)} for name, colour in zip(space.classes, _colours(space), strict=True)
    ]
    nothing = [] if _BLACK in space.colours else [list(_BLACK)]
    return {"classes": classes, "colour_labels": True, "ignore_colours": nothing}


def _text(element: ElementTree.Element) -> str:
    return ElementTree.tostring(element, encoding="unicode")
