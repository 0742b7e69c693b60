"""A label space as given in configs and on command lines: a built-in name, a YAML file, or the classes themselves."""

from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator

from pipeline import labels, storage
from pipeline.config.base import Section, located
from pipeline.config.loading import check_file, parse
from pipeline.config.yaml_file import parse_yaml
from pipeline.errors import UserError
from pipeline.labels import LabelSpace, LabelSpaceSection

_ENDINGS = (".yaml", ".yml", ".json")


def _inline(value: Any) -> Any:
    """Replace the URI of a YAML file by its contents, so that the file is read once; keep a built-in name or a section."""
    if not isinstance(value, str) or value in labels.SPACES:
        return value
    if not value.endswith(_ENDINGS) and "/" not in value:
        labels.space(value)  # raises an error that lists the built-in names
    uri = located(value)
    try:
        file = parse_yaml(storage.read(uri), uri)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{uri}: no such file; give a YAML file of classes, or one of {', '.join(labels.SPACES)}"
        ) from None
    if not isinstance(file.values, dict):
        raise UserError(
            f"{uri}: expected keys and values such as `classes: [background, crack]`, found {type(file.values).__name__}"
        )
    stem = PurePosixPath(uri).stem
    values = {"name": stem if stem not in labels.SPACES else f"own-{stem}"} | file.values
    check_file(LabelSpaceSection, values, file)
    return values


LabelSpaceConfig = Annotated[LabelSpaceSection, BeforeValidator(_inline)]


class _Named(Section):
    label_space: LabelSpaceConfig
    """A built-in name, or the URI of a YAML file."""


def read_label_space(value: str, where: str) -> LabelSpace:
    """Return the label space of a built-in name or a YAML file; UserError names `where`."""
    return parse(_Named, {"label_space": value}, where).label_space.space
