"""Files that list chosen images: write a CSV that is a corpus of layout `manifest`, and read the ids from such a list."""

import csv
import io
from collections.abc import Iterator

import pandas as pd

from pipeline import storage
from pipeline.analysis.image_files import copy_image, read_image
from pipeline.analysis.run_counts import RunCounts
from pipeline.corpus import Item, items_of
from pipeline.corpus.reach import resolved
from pipeline.errors import UserError


def write_manifest(view: RunCounts, chosen: pd.DataFrame, uri: str, copy: bool = False) -> None:
    """Write a CSV with a row per image: `image` (its URI), then the columns of `chosen`.

    Args:
        chosen: `image_id` and further columns, as `RunView.next` gives them.
        copy: copy the images beside the CSV, into a folder with its name, and list the copies.
        Raises:
        UserError: a manifest cannot refer to an image at its location, or the image cannot be copied.
    """
    items = {item.image_id: item for item in items_of(view.plan().rows_of(chosen["image_id"].tolist()))}
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    columns = chosen.dropna(axis="columns", how="all")
    rows.writerow(["image", *columns])
    for values in columns.to_dict("records"):
        item = items[values["image_id"]]
        name = _copied(item, uri) if copy else _named(item, uri)
        rows.writerow([name, *(_cell(value) for value in values.values())])
    storage.put(uri, file.getvalue().encode())


def read_ids(uri: str) -> list[str]:
    """Read the image ids of a list: the column `image_id` of a CSV, or one id per line; UserError if there is none."""
    try:
        text = storage.read(storage.absolute(uri)).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{uri}: there is no such file; write one with `maskmill next RUN --output {uri}`") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{uri}: it is not a text file; give a CSV with a column image_id, or one image id a line"
        ) from None
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    if "image_id" in header:
        ids = list(_column(rows, header.index("image_id")))
    elif len(header) > 1:
        raise UserError(
            f"{uri}: it has no column image_id, found {', '.join(header)}; rename the column of ids to image_id"
        )
    else:
        ids = [line.strip() for line in text.splitlines() if line.strip()]
    if not ids:
        raise UserError(f"{uri}: it holds no image id; give a CSV with a column image_id, or one image id a line")
    return ids


def _column(rows: Iterator[list[str]], place: int) -> Iterator[str]:
    yield from (row[place] for row in rows if len(row) > place and row[place])


def _named(item: Item, uri: str) -> str:
    """Return an image's URI for the manifest; UserError if a manifest cannot refer to the image at its location."""
    if item.image.member is not None:
        raise UserError(
            f"image '{item.image_id}' lies in {item.image.uri}, or its address is secret: a list cannot name it; copy the "
            "images beside the list (--copy)"
        )
    resolved(item.image.uri, uri)
    return item.image.uri


def _copied(item: Item, uri: str) -> str:
    """Copy an image beside the manifest, and return the copy's path for the manifest."""
    folder = uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    data = read_image(item)
    return f"{folder}/{copy_image(item, data, storage.join(uri.rsplit('/', 1)[0], folder))}"


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.6f}"  # always with a point: whole numbers would be a group column
    return "" if value is None or value is pd.NA else value
