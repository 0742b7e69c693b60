"""Corpus -> its items, sorted: which images there are, and which label belongs to each."""

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.item import Item, Place
from pipeline.corpus.layouts import keyed, layout_of
from pipeline.corpus.tables import manifest_items, parquet_items
from pipeline.corpus.tars import is_tar, list_tar
from pipeline.corpus.zips import is_zip, list_members

_HIDDEN = ("__MACOSX", ".")


def list_files(uri: str) -> dict[str, Place]:
    """path -> place of every file of a prefix, a zip or a tar, sorted; hidden files and folders are left out.

    Tars below a prefix (WebDataset shards) are looked into: their members' paths begin with the tar's, without its suffix.

    Raises:
        ValueError: nothing is there.
    """
    if is_zip(uri):
        files = dict(list_members(uri))
    elif is_tar(uri):
        files = dict(list_tar(uri))
    else:
        files = {}
        for file in storage.list_files(uri):
            if is_tar(file.path):
                files |= {f"{file.path[: -len('.tar')]}/{path}": place for path, place in list_tar(file.uri)}
            else:
                files[file.path] = Place(file.uri, bytes=file.bytes, etag=file.etag)
        if not files:
            raise ValueError(f"corpus {uri}: there is no file; check the path or the bucket and its credentials")
    for path in files:
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise ValueError(
                f"corpus {uri}: the file name {path.encode(errors='surrogateescape')!r} is not UTF-8; rename it"
            )
    return {path: place for path, place in files.items() if not any(p.startswith(_HIDDEN) for p in path.split("/"))}


def list_items(cfg: CorpusConfig, split: str | None) -> list[Item]:
    """Every image of a split (None: of the corpus) with its label where there is one.

    Sorted by image id; those of Parquet files in the files' order, so that neighbours lie in one row group.

    Raises:
        ValueError: nothing is there or nothing matches the layout, the split is unknown, or two files are one image.
    """
    items = _table_items(cfg) if cfg.layout in ("manifest", "parquet") else _file_items(cfg)
    splits = sorted({item.split for item in items if item.split})
    if split is None:
        return items
    if split not in splits:
        known = (
            f"choose one of {', '.join(splits)}" if splits else f"layout '{cfg.layout}' has none: leave the split out"
        )
        raise ValueError(f"corpus {cfg.images}: split '{split}' is not there; {known}")
    return [item for item in items if item.split == split]


def _table_items(cfg: CorpusConfig) -> list[Item]:
    if cfg.layout == "manifest":
        items = sorted(manifest_items(cfg.images), key=lambda item: item.image_id)
    else:
        files = [cfg.images] if cfg.images.endswith(".parquet") else [f.uri for f in storage.list_files(cfg.images)]
        items = list(parquet_items([uri for uri in files if uri.endswith(".parquet")]))
    if not items:
        raise ValueError(
            f"corpus {cfg.images}: there is no row in it; check the path or the bucket and its credentials"
        )
    seen: set[str] = set()
    for item in items:
        if item.image_id in seen:
            raise ValueError(
                f"corpus {cfg.images}: two rows are image '{item.image_id}'; give each an image_id of its own"
            )
        seen.add(item.image_id)
    return items


def _file_items(cfg: CorpusConfig) -> list[Item]:
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
    ]
    return sorted(items, key=lambda item: item.image_id)


def unmatched_labels(cfg: CorpusConfig) -> list[str]:
    """Paths of labels without an image."""
    if cfg.layout in ("manifest", "parquet"):
        return []
    layout = layout_of(cfg)
    if layout.label is None:
        return []
    images = keyed(layout.image, list_files(cfg.images))
    labels = keyed(layout.label, list_files(cfg.labels or cfg.images))
    return [path for image_id, (_, path) in labels.items() if image_id not in images]
