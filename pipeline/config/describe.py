"""The keys of a config, read from its schema: each with type, default, unit and meaning."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.base import located
from pipeline.config.segment import SegmentConfig
from pipeline.config.train import TrainConfig
from pipeline.config.tune import TuneConfig
from pipeline.errors import UserError

SCHEMAS: dict[str, type[BaseModel]] = {"train": TrainConfig, "segment": SegmentConfig, "tune": TuneConfig}
_UNIT = re.compile(r"\[([^\]]+)\] ")
_MANY = 100_000  # numbers from here on are written with underscores


@dataclass(frozen=True)
class KeyEntry:
    """One key, or one of the alternative sections of a key."""

    path: str  # includes the names of alternative sections: model.deeplabv3plus.aspp_channels
    kind: str  # its type, in words
    default: str  # as in YAML; "" for an alternative section
    unit: str
    doc: str
    inside: str = ""  # path of the innermost alternative section that contains it
    chosen: bool = False  # whether it is an alternative section of a key
    key: str = ""  # as written in a config and --set: model.aspp_channels

    @property
    def required(self) -> bool:
        return self.default == "required"


def overview(kind: str) -> list[KeyEntry]:
    """Return every key of a config, including nested ones, but without the contents of alternative sections."""
    return [entry for entry in _entries(SCHEMAS[kind]) if not entry.inside and not entry.chosen]


def detail(kind: str, key: str) -> list[KeyEntry]:
    """Return a key and the keys below it; for a key with alternative sections, these.

    Raises:
        UserError: there is no such key; the message suggests similar ones.
    """
    entries = list(_entries(SCHEMAS[kind]))
    found = [entry for entry in entries if entry.path == key] or [entry for entry in entries if entry.key == key]
    if not found:
        raise UserError(f"config {kind}: there is no key '{key}'; {_near(entries, key)}")
    return [one for entry in found for one in [entry, *_below(entries, entry)]]


def _below(entries: Iterable[KeyEntry], above: KeyEntry) -> Iterator[KeyEntry]:
    inside = above.path if above.chosen else above.inside
    for entry in entries:
        if entry.path.startswith(f"{above.path}.") and entry.inside == inside:
            yield entry


def _near(entries: list[KeyEntry], key: str) -> str:
    known = {name: entry.path for entry in reversed(entries) for name in (entry.path.rpartition(".")[2], entry.path)}
    near = [known[name] for word in (key, key.rpartition(".")[2]) for name in get_close_matches(word, known, n=3)]
    words = key.rpartition(".")[2].replace("_", " ").lower()
    near = near or [entry.path for entry in entries if words in entry.doc.lower() and not entry.inside][:3]
    if near:
        return f"did you mean {', '.join(dict.fromkeys(near))}?"
    return f"at the top are {', '.join(entry.path for entry in entries if '.' not in entry.path)}"


def _entries(section: type[BaseModel], path: str = "", key: str = "", inside: str = "") -> Iterator[KeyEntry]:
    for name, field in section.model_fields.items():
        here, plain = f"{path}{name}", f"{key}{name}"
        unit, doc = _unit_and_doc(field.description or "")
        kind = _words(field.annotation, field.metadata)
        yield KeyEntry(here, kind, _default(field), unit, doc, inside, key=plain)
        below = list(_sections(field.annotation))
        step = ".<key>." if get_origin(field.annotation) is dict else "."
        if len(below) == 1:
            yield from _entries(below[0], f"{here}{step}", f"{plain}{step}", inside)
            continue
        for choice in below:
            chosen = f"{here}.{_name_of(choice)}"
            yield KeyEntry(chosen, "section", "", "", _flat(choice.__doc__ or ""), inside, chosen=True, key=chosen)
            yield from _entries(choice, f"{chosen}.", f"{plain}.", chosen)


def _unit_and_doc(text: str) -> tuple[str, str]:
    found = _UNIT.match(text)
    return (found[1], _flat(text[found.end() :])) if found else ("", _flat(text))


def _flat(text: str) -> str:
    return " ".join(text.split())


def _name_of(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["name"].annotation)[0])


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _sections(part)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "follows from other keys"
    return _value(field.default)


def _value(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_unset=True)
        return _value(given) if given else "its keys' defaults"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= _MANY:
        return f"{value:_}"
    if isinstance(value, (int, float, str)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple):
        value = [one.model_dump(exclude_unset=True) if isinstance(one, BaseModel) else one for one in value]
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()


def _words(annotation: Any, metadata: Iterable[Any] = (), many: str = "") -> str:
    """Return a type in words, e.g. 'whole number >= 1'; `many` is the ending of a plural."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inner[0], [*inner[1:], *metadata], many)
    if origin is Literal:
        return str(inner[0]) if len(inner) == 1 else f"one of {', '.join(str(value) for value in inner)}"
    if origin is tuple:
        number = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"list{many} of {number}{_words(inner[0], many='s')}"
    sections = list(_sections(annotation))
    if origin in (Union, UnionType):
        parts = [part for part in inner if part is not type(None) and not (len(sections) > 1 and any(_sections(part)))]
        words = [_words(part, metadata if len(parts) == 1 else (), many) for part in parts]
        named = [f"section{many} with name {', '.join(map(_name_of, sections))}"] if len(sections) > 1 else []
        return " or ".join(dict.fromkeys(words + named))
    if origin is dict or sections:
        return f"section{many}"
    if annotation is str and any(isinstance(mark, AfterValidator) and mark.func is located for mark in metadata):
        return f"URI{many}"
    if annotation is bool:
        return "true or false"
    plain = {int: "whole number", float: "number", str: "text"}
    return plain.get(annotation, "value") + many + _bounds(metadata)


def _bounds(metadata: Iterable[Any]) -> str:
    flat = [one for mark in metadata for one in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
    words = []
    for mark in flat:
        match mark:
            case annotated_types.Ge(ge=value):
                words.append(f">= {value:g}")
            case annotated_types.Gt(gt=value):
                words.append(f"> {value:g}")
            case annotated_types.Le(le=value):
                words.append(f"<= {value:g}")
            case annotated_types.Lt(lt=value):
                words.append(f"< {value:g}")
            case annotated_types.MultipleOf(multiple_of=value):
                words.append(f"a multiple of {value:g}")
    return f" {' and '.join(words)}" if words else ""
