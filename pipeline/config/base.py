"""Building blocks of config sections."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline import storage
from pipeline.errors import UserError


def added_later(default: Any, **bounds: Any) -> Any:
    """Declare a key that was added after runs had been written; `bounds` are those of Field.

    At its default the key is left out of the config's text, so that older runs keep their fingerprints.
    """
    return Field(default, exclude_if=lambda value: value == default, **bounds)


def located(uri: str) -> str:
    """Return the absolute form of a URI; UserError if it holds a secret, since it appears in run folders and messages."""
    if storage.without_secrets(uri) != uri:
        raise UserError(
            f"'{storage.without_secrets(uri)}' contains a user, a password or a query; a config must not hold "
            "credentials: remove them, or list files that need a signature in a manifest"
        )
    return storage.absolute(uri)


Uri = Annotated[str, Field(min_length=1), AfterValidator(located)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]  # (height, width), pixels
Precision = Literal["fp32", "bf16"]
PredictPrecision = Literal["fp32", "bf16", "int8"]
EngineName = Literal["torch", "compile", "onnxruntime", "openvino", "tensorrt"]


class Section(BaseModel):
    """Part of a config. The string below each key documents it, and begins with the key's unit in brackets if it has one."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Key:
    """What a key of a run's config affects, given in its declaration: `Annotated[int, Key("machine")]`.

    run: what the run writes, so it may not change between two starts. This is the default for keys without a `Key`.
    machine: who does the work and when to give up; it may change.
    address: where something is stored; the contents matter, and are compared by their own hash if they can be read.
    """

    decides: Literal["run", "machine", "address"] = "run"
    pace: bool = False  # whether the key also affects how long an image takes


def run_keys(schema: type[Section]) -> set[str]:
    """Return the keys that decide what a run writes."""
    return {name for name, key in _keys(schema) if key.decides == "run"}


def machine_keys(schema: type[Section]) -> set[str]:
    """Return the keys that may change between two starts of a run."""
    return {name for name, key in _keys(schema) if key.decides == "machine"}


def pace_keys(schema: type[Section]) -> set[str]:
    """Return the keys that affect how long an image takes."""
    return {name for name, key in _keys(schema) if key.pace}


def _keys(schema: type[Section]) -> Iterator[tuple[str, Key]]:
    for name, field in schema.model_fields.items():
        yield name, next((mark for mark in field.metadata if isinstance(mark, Key)), Key())
