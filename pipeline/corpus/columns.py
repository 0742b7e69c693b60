"""The columns that a corpus in the form of a table may have, and their types, checked when its schema is read."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow import types

from pipeline import storage
from pipeline.corpus.groups import GROUPS, PLAN_COLUMNS, ROW_COLUMNS, Groups
from pipeline.errors import UserError

_NO_GROUPS = ("image", "label", "image_id", "bytes", "etag")


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def _is_name(kind: pa.DataType) -> bool:
    return _is_text(kind) or types.is_integer(kind)


def _is_image(kind: pa.DataType) -> bool:
    if not types.is_struct(kind):
        return _is_binary(kind)
    fields = {field.name: field.type for field in kind}
    path = fields.get("path", pa.null())
    return "bytes" in fields and _is_binary(fields["bytes"]) and (_is_text(path) or types.is_null(path))


Allowed = tuple[Callable[[pa.DataType], bool], str]
_TEXT: Allowed = (_is_text, "text (a URI)")
_IMAGE: Allowed = (_is_image, "binary, or a struct of 'bytes' (binary) and maybe 'path' (text)")
_IDS: dict[str, Allowed] = {
    **dict.fromkeys(("image_id", "split", "city", "sequence"), (_is_name, "text or whole numbers")),
    "frame": (types.is_integer, "whole numbers"),
}
_FILE: dict[str, Allowed] = {"bytes": (types.is_integer, "whole numbers"), "etag": (_is_text, "text")}
MANIFEST: dict[str, Allowed] = {"image": _TEXT, "label": _TEXT, **_FILE, **_IDS}
PARQUET: dict[str, Allowed] = {"image": _IMAGE, "label": _IMAGE, **_IDS}
_OTHER = {
    "manifest": "the layout of files that hold the images themselves is 'parquet'",
    "parquet": "the layout of a table of URIs is 'manifest'",
}


def check_columns(schema: pa.Schema, uri: str, layout: str) -> list[str]:
    """Return the columns of a table to read: those that its layout knows, then all others of text or whole numbers.

    A column without any value may have the null type.

    Raises:
        UserError: there is no column `image`, a column is there twice, or one has a type that is not allowed.
    """
    allowed = MANIFEST if layout == "manifest" else PARQUET
    if "image" not in schema.names:
        raise UserError(
            f"{uri}: it has no column 'image', found {', '.join(schema.names)}; rename the column of images"
        )
    found = []
    for name, (fits, words) in allowed.items():
        if schema.names.count(name) > 1:
            raise UserError(f"{uri}: it has two columns '{name}'; rename one of them")
        if name not in schema.names:
            continue
        kind = _values(schema.field(name).type)
        if types.is_null(kind) and name != "image":
            continue
        if not fits(kind):
            hint = f"; {_OTHER[layout]}" if name in ("image", "label") else ""
            raise UserError(
                f"{uri}: column '{name}' has type {kind}, but must be {words}; write the table again with that type{hint}"
            )
        found.append(name)
    others = {*allowed, *PLAN_COLUMNS, *ROW_COLUMNS}
    # pandas writes a frame's index as `__index_level_0__`.
    further = [field.name for field in schema if field.name not in others and not field.name.startswith("__")]
    return found + [name for name in further if further.count(name) == 1 and _is_name(_values(schema.field(name).type))]


def _values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def groups_of(row: dict[str, Any], uri: str) -> Groups:
    """Return the groups of a row: text, except for whole numbers in `frame` and in further columns of the corpus."""
    found = {name: value for name, value in row.items() if name not in _NO_GROUPS}
    for name, value in found.items():
        bits = 32 if name == "frame" else 64
        if isinstance(value, int) and (name == "frame" or name not in GROUPS):
            if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
                what = "the frames of each sequence" if name == "frame" else "them"
                raise UserError(f"{uri}: {name} {value} does not fit into {bits} bits; renumber {what}")
        elif value is not None:
            found[name] = str(value)
    return found


def id_of(row: dict[str, Any]) -> str | None:
    """Return the image id that a row gives, or None."""
    value = row.get("image_id")
    return None if value in (None, "") else storage.without_secrets(str(value))
