"""Hugging Face datasets: Parquet files with the images and their masks, and the library's own description of columns."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported
from pipeline.imaging.mask_png import encode_mask

_FILE_BYTES, _GROUP_BYTES, _GROUP_ROWS = 256_000_000, 32_000_000, 100  # limits of a Parquet file, of one row group
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SPLIT = re.compile(r"\w+(\.\w+)*")  # names that datasets takes for a split

Row = dict[str, Any]


def write(answers: Answers, out: str) -> Exported:
    """Write `data/<split>-<number>.parquet`, `id2label.json`, and a dataset card.

    Columns: the pictures `image` and `label`, `image_id`, the run's groups, `confidence`, `entropy`. Labels are the run's
    masks: train ids, 255 = no data. The files can also be read as a corpus of layout `parquet`.

    Source: https://huggingface.co/docs/datasets/image_dataset; Arrow schemas carry the features under the key `huggingface`.
    """
    split = answers.view.description.config.get("split") or "train"
    split = split if _SPLIT.fullmatch(split) else "train"
    schema, groups = _schema(answers), answers.view.groups
    written = 0
    for number, (data, rows) in enumerate(_files(_rows(answers, groups), schema)):
        storage.put(storage.join(out, "data", f"{split}-{number:05d}.parquet"), data)
        written += rows
    storage.put(storage.join(out, "README.md"), _card(answers, split).encode())
    names = dict(enumerate(answers.space.classes))
    storage.put(storage.join(out, "id2label.json"), json.dumps(names, indent=2).encode())
    return Exported(out, written)


def _rows(answers: Answers, groups: tuple[str, ...]) -> Iterator[Row]:
    for shown in answers.shown(*groups, "confidence", "entropy"):
        yield {
            **shown.row,
            "image": {"bytes": shown.data, "path": shown.name},
            "label": {"bytes": encode_mask(shown.mask), "path": f"{shown.image_id}.png"},
        }


def _files(rows: Iterator[Row], schema: pa.Schema) -> Iterator[tuple[bytes, int]]:
    """Yield bytes and number of rows of each Parquet file, uncompressed, since pictures are compressed already."""
    waiting = next(rows, None)
    with tempfile.TemporaryDirectory(prefix="maskmill-") as folder:
        path = Path(folder) / "part.parquet"
        while waiting is not None:
            written, size = 0, 0
            with pq.ParquetWriter(path, schema, compression="none") as writer:
                while waiting is not None and size < _FILE_BYTES:
                    group, waiting = _group(waiting, rows)
                    writer.write_table(pa.Table.from_pylist(group, schema))
                    written, size = written + len(group), path.stat().st_size
            yield path.read_bytes(), written


def _group(first: Row, rows: Iterator[Row]) -> tuple[list[Row], Row | None]:
    """Return the rows of one row group, and the row after it."""
    group, size = [first], _size(first)
    for row in rows:
        if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
            return group, row
        group.append(row)
        size += _size(row)
    return group, None


def _size(row: Row) -> int:
    return len(row["image"]["bytes"]) + len(row["label"]["bytes"])


def _schema(answers: Answers) -> pa.Schema:
    filesystem, path = storage.arrow_filesystem(answers.view.parts("masks")[0])
    kinds = pq.read_schema(path, filesystem=filesystem)
    fields = [("image", _PICTURE), ("label", _PICTURE), ("image_id", pa.string())]
    for name in (*answers.view.groups, "confidence", "entropy"):
        kind = kinds.field(name).type
        fields.append((name, kind.value_type if pa.types.is_dictionary(kind) else kind))
    features = {
        name: {"_type": "Image"} if kind is _PICTURE else {"dtype": _DTYPES[kind], "_type": "Value"}
        for name, kind in fields
    }
    description = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": description})


_DTYPES = {pa.string(): "string", pa.int32(): "int32", pa.int64(): "int64", pa.float32(): "float32"}


def _card(answers: Answers, split: str) -> str:
    """Return README.md: which files are which split, and what the values of a label mean."""
    classes = "\n".join(f"| {index} | {name} |" for index, name in enumerate(answers.space.classes))
    return (
        "---\ntask_categories:\n- image-segmentation\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - split: {split}\n    path: data/{split}-*.parquet\n---\n\n"
        "`label` holds the masks that a network predicted, not labels that people drew; 255 means no data.\n\n"
        f"| value | class |\n| --- | --- |\n{classes}\n"
    )
