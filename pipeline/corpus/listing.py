"""Corpus -> its items, sorted: which images there are, and which label belongs to each."""

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.archive import is_zip, list_members
from pipeline.corpus.item import Item, Place
from pipeline.corpus.layouts import keyed, layout_of

_HIDDEN = ("__MACOSX", ".")


def list_files(uri: str) -> dict[str, Place]:
    """path -> place of every file of a prefix or a zip, sorted; hidden files and folders are left out.

    Raises:
        ValueError: nothing is there.
    """
    if is_zip(uri):
        files = dict(list_members(uri))
    else:
        files = {file.path: Place(file.uri, bytes=file.bytes) for file in storage.list_files(uri)}
        if not files:
            raise ValueError(f"corpus {uri}: there is no file; check the path or the bucket and its credentials")
    return {path: place for path, place in files.items() if not any(p.startswith(_HIDDEN) for p in path.split("/"))}


def list_items(cfg: CorpusConfig, split: str | None) -> list[Item]:
    """Every image of a split (None: of the corpus) with its label where there is one, sorted by image id.

    Raises:
        ValueError: nothing is there or nothing matches the layout, the split is unknown, or two files are one image.
    """
    layout = layout_of(cfg)
    image_files = list_files(cfg.images)
    label_files = list_files(cfg.labels) if cfg.labels and cfg.labels != cfg.images else image_files
    images = keyed(layout.image, image_files)
    labels = keyed(layout.label, label_files) if layout.label else {}
    if not images:
        raise ValueError(
            f"corpus {cfg.images}: none of its {len(image_files)} files matches layout '{cfg.layout}' ({layout.expects}); "
            f"found e.g. {', '.join(list(image_files)[:2]) or 'nothing'}: choose another layout or URI"
        )
    if cfg.labels and not images.keys() & labels.keys():
        raise ValueError(
            f"corpus labels {cfg.labels}: none of its {len(label_files)} files is the label of an image ({layout.expects}); "
            f"found e.g. {', '.join(list(label_files)[:2]) or 'nothing'}: choose another URI, or leave corpus.labels out"
        )
    splits = sorted({key.split for key, _ in images.values() if key.split})
    if split is not None and split not in splits:
        known = (
            f"choose one of {', '.join(splits)}" if splits else f"layout '{cfg.layout}' has none: leave the split out"
        )
        raise ValueError(f"corpus {cfg.images}: split '{split}' is not there; {known}")
    items = [
        Item(
            image_id=key.image_id,
            image=image_files[path],
            label=label_files[labels[key.image_id][1]] if key.image_id in labels else None,
            split=key.split,
            city=key.city,
            sequence=key.sequence,
            frame=key.frame,
        )
        for key, path in images.values()
        if split is None or key.split == split
    ]
    return sorted(items, key=lambda item: item.image_id)


def unmatched_labels(cfg: CorpusConfig) -> list[str]:
    """Paths of labels without an image."""
    layout = layout_of(cfg)
    if layout.label is None:
        return []
    images = keyed(layout.image, list_files(cfg.images))
    labels = keyed(layout.label, list_files(cfg.labels or cfg.images))
    return [path for image_id, (_, path) in labels.items() if image_id not in images]
