"""Match labels to images by common ways of naming files, such as photo.jpg with photo_mask.png."""

import re
from collections import Counter
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import CorpusConfig, parse
from pipeline.corpus import scan_items
from pipeline.corpus.detect import find_layout
from pipeline.corpus.files import scan_files
from pipeline.corpus.layouts.base import IMAGE_SUFFIX
from pipeline.errors import UserError

_PICTURE = re.compile(IMAGE_SUFFIX, re.I)
_LABELS = re.compile(r"label|mask|annot|truth|segm|^gt", re.I)  # typical of names of label folders
_MOST_COMPARED = 50  # images at most that are compared with every label


def pair(images: str, labels: str | None) -> CorpusConfig:
    """Return the corpus of these images and labels, with its layout or with the globs that match them.

    Raises:
        UserError: there is no image, no label belongs to an image, or labels are mixed with the images.
    """
    cfg = parse(CorpusConfig, {"images": images, "labels": labels}, where="corpus")
    if cfg.labels == cfg.images:
        raise UserError(
            f"labels {cfg.labels}: that is where the images lie; leave the labels out, or give their own folder"
        )
    if cfg.labels is None:
        found = find_layout(cfg).cfg
        if found.layout == "folder":
            _check_folders(found.images)
            _check_names(found.images)
        return found
    try:
        found = find_layout(cfg).cfg
        scan_items(found, split=None)
        return found
    except UserError:
        find_layout(cfg.model_copy(update={"labels": None}))  # raises if something is wrong with the images themselves
    image_paths, label_paths = (_pictures(uri) for uri in (cfg.images, cfg.labels))
    globs = _globs(image_paths, label_paths)
    if globs is None:
        example = f"found images such as {image_paths[0]}, and {_such_as(label_paths)}"
        raise UserError(
            f"labels {cfg.labels}: none of them belongs to an image of {cfg.images}; a label has its image's path and name, "
            f"{example}: give the folder of the labels, or name the files by --images-glob '**/*.jpg' --labels-glob "
            "'**/*_mask.png'"
        )
    return parse(CorpusConfig, {"images": images, "labels": labels, "layout": "pairs", **globs}, where="corpus")


def _such_as(labels: list[str]) -> str:
    return f"labels such as {labels[0]}" if labels else "no label that is a picture"


def _pictures(uri: str) -> list[str]:
    return sorted(path for path, _ in scan_files(uri) if _PICTURE.search(path))


def _globs(images: list[str], labels: list[str]) -> dict[str, str] | None:
    """Return globs for labels named like their images with a prefix or suffix; None if there are none."""
    ways: Counter[tuple[str, str, str, str]] = Counter()
    for image in map(PurePosixPath, images[:: max(1, len(images) // _MOST_COMPARED)]):
        for label in map(PurePosixPath, labels):
            if image.parent == label.parent and image.stem in label.stem:
                before, _, behind = label.stem.partition(image.stem)
                ways[image.suffix, before, behind, label.suffix] += 1
    if not ways:
        return None
    (image_suffix, before, behind, label_suffix), _ = ways.most_common(1)[0]
    return {"image_glob": f"**/*{image_suffix}", "label_glob": f"**/{before}*{behind}{label_suffix}"}


def _check_folders(uri: str) -> None:
    """Raise UserError if a folder whose name suggests labels would be taken for images."""
    folders = Counter(path.split("/")[0] for path in _pictures(uri) if "/" in path)
    labels = sorted(name for name in folders if _LABELS.search(name))
    others = sorted(folders.keys() - set(labels))
    if labels and others:
        raise UserError(
            f"images {uri}: its folder '{labels[0]}' looks like the labels of '{others[0]}'; give --images "
            f"{storage.join(uri, others[0])} --labels {storage.join(uri, labels[0])}, or name what are images: --images-glob "
            f"'{others[0]}/**'"
        )


def _check_names(uri: str) -> None:
    """Raise UserError if labels such as photo_mask.png lie beside their images, and would be taken for images."""
    paths = [PurePosixPath(path) for path in _pictures(uri)]
    known, compared = set(paths), paths[:: max(1, len(paths) // _MOST_COMPARED)]
    found: dict[tuple[str, str, str, str], list[PurePosixPath]] = {}
    for image in compared:
        for label in paths:
            before, has, behind = label.stem.partition(image.stem)
            if has and image.parent == label.parent and (_LABELS.search(before) or _LABELS.search(behind)):
                found.setdefault((image.suffix, before, behind, label.suffix), [image, label])
    for (image_suffix, before, behind, label_suffix), (image, label) in found.items():
        with_label = sum(one.with_name(f"{before}{one.stem}{behind}{label_suffix}") in known for one in compared)
        if 4 * with_label < len(compared):
            continue
        advice = (
            "move the labels into a folder of their own, and give it with --labels; or, if all are images, say so: "
            f"--images-glob '**/*{image_suffix}'"
        )
        if image_suffix != label_suffix:
            globs = f"--images-glob '**/*{image_suffix}' --labels-glob '**/{before}*{behind}{label_suffix}'"
            advice = f"say which are which: {globs}, or name the images alone: --images-glob '**/*{image_suffix}'"
        raise UserError(f"images {uri}: '{label}' looks like the label of '{image}'; {advice}")
