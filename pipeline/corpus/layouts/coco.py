"""COCO panoptic (Kirillov et al. 2019) as semantic labels: images, panoptic_<split>/ and panoptic_<split>.json."""

import re
from collections.abc import Iterator

from pipeline.config import CorpusConfig
from pipeline.corpus.files import scan_files
from pipeline.corpus.item import Item, Place
from pipeline.corpus.layouts.base import Layout, Patterns, by_split_and_stem
from pipeline.corpus.readers.coco import panoptic_place
from pipeline.errors import UserError

_SPLIT = r"(?P<split>(?:train|val|test|unlabeled)20\d\d)"
_IMAGE = re.compile(r"(?:^|/)" + _SPLIT + r"/(?P<stem>[^/]+)\.jpe?g$", re.I)
_LABEL = re.compile(r"(?:^|/)panoptic_" + _SPLIT + r"/(?P<stem>[^/]+)\.png$", re.I)
_PATTERNS = Patterns(
    _IMAGE,
    _LABEL,
    "<split>/<name>.jpg, panoptic_<split>/<name>.png and panoptic_<split>.json, split e.g. val2017",
)
_JSON = re.compile(r"(?:^|/)panoptic_" + _SPLIT + r"\.json$", re.I)


def _rows(cfg: CorpusConfig) -> Iterator[Item]:
    """Yield the images in listing order, after reading all labels, which take about 400 bytes of memory each."""
    images: list[tuple[str, str, Place]] = []
    labels: dict[str, Place] = {}
    described: dict[str, Place] = {}
    for uri in dict.fromkeys((cfg.images, cfg.labels or cfg.images)):
        for path, place in scan_files(uri):
            if found := _JSON.search(path):
                described[found["split"]] = place
            elif found := _LABEL.search(path):
                labels[by_split_and_stem(found)[0]] = place
            elif uri == cfg.images and (found := _IMAGE.search(path)):
                images.append((by_split_and_stem(found)[0], found["split"], place))
    for image_id, split, place in images:
        label = labels.get(image_id)
        if label is not None and split not in described:
            raise UserError(
                f"corpus {cfg.labels or cfg.images}: it has panoptic_{split}/ and no panoptic_{split}.json, which says what "
                "its segments are; add it from panoptic_annotations_trainval2017.zip"
            )
        yield Item(image_id, place, label and panoptic_place(label, described[split]), {"split": split})


LAYOUT = Layout(
    "coco",
    patterns=_PATTERNS,
    rows=_rows,
    label_space="coco133",
    guessed=True,
    known_by_images=True,
    source="2017 images and panoptic annotations of https://cocodataset.org/#download, unpacked",
)
