"""Parse YAML into config sections, and explain what is wrong with it."""

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline import labels
from pipeline.config.base import Section
from pipeline.config.models import ModelConfig
from pipeline.config.yaml_file import YamlFile, parse_yaml
from pipeline.errors import UserError, nearest

# Schema -> its command, and keys that only configs of this command have.
_SIGNS = {
    "TrainConfig": (
        "train",
        {"train_split", "val_split", "label_space", "epochs", "weights", "optimizer", "model", "workers"},
    ),
    "SegmentConfig": (
        "segment",
        {"checkpoint", "actors", "cpus_per_actor", "gpus_per_actor", "predict", "max_reject_rate"},
    ),
}
S = TypeVar("S", bound=Section)
T = TypeVar("T")


def load(schema: type[S], path: str, overrides: list[str] | None = None) -> S:
    """Read one YAML file into its schema, with `key.path=value` overrides applied on top.

    Raises:
        UserError: no such file, not YAML, or keys or values that the schema does not allow (all are listed, each with its line
            in the file).
    """
    file = Path(path)
    if not file.is_file():
        beside = sorted(str(one) for one in file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
        raise UserError(
            f"config {path} does not exist; `maskmill init` writes one for your images, and examples lie in configs/"
            f"{nearest(file, beside)}"
        )
    found = parse_yaml(file.read_bytes(), path)
    values = found.values
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: expected keys and values, found {type(values).__name__}; see the examples in configs/camvid/"
        )
    for override in overrides or []:
        _set(schema, values, override)
    set_keys = [tuple(override.partition("=")[0].split(".")) for override in overrides or []]
    return _checked(TypeAdapter(schema), schema, values, _Places(path, found, set_keys))


def overridden(schema: type[Section], values: dict[str, Any], overrides: list[str] | None) -> dict[str, Any]:
    """Return the values with `key.path=value` overrides applied; UserError for a malformed override."""
    changed = copy.deepcopy(values)
    for override in overrides or []:
        _set(schema, changed, override)
    return changed


def parse(schema: type[S], values: dict[str, Any], where: str) -> S:
    """Return the section with these values; UserError names `where`, each wrong key, what was found and what is allowed."""
    return _checked(TypeAdapter(schema), schema, values, _Places(where))


def check_file(schema: type[BaseModel], values: dict[str, Any], file: YamlFile) -> None:
    """Raise UserError unless the values of a file are valid for the schema; like `parse`, with lines of the file."""
    _checked(TypeAdapter(schema), schema, values, _Places(file.where, file))


def parse_model(values: dict[str, Any], where: str) -> ModelConfig:
    """Return the network section with these values; errors as in `parse`."""
    return _checked(TypeAdapter(ModelConfig), ModelConfig, values, _Places(where))


def canonical(value: Any) -> str:
    """Return the same text for equal values: JSON with sorted keys and no spaces, which is hashed and compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def differences(before: dict[str, Any], after: dict[str, Any], path: str = "") -> list[str]:
    """Return a sentence for each key whose value differs between two nested configs, e.g. 'crf.iterations: 10, now 5'."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new, name = before.get(key), after.get(key), f"{path}{key}"
        if name == "label_space" and old and new:
            found += _label_changes(old, new) if old != new else []
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name}: {json.dumps(old)}, now {json.dumps(new)}")
    return found


def _label_changes(old: Any, new: Any) -> list[str]:
    before, after = (labels.from_section(space, where="label_space") for space in (old, new))
    return [f"label_space: {words}" for words in labels.changes(before, after)]


def _set(schema: type[Section], values: dict[str, Any], override: str) -> None:
    whole = values
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override}: expected key.path=value, e.g. crf.iterations=5")
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        if not isinstance(values[parent], dict):
            raise UserError(f"--set {override}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        values = values[parent]
    values[leaf] = value_of(text, _is_text(schema, whole, [*parents, leaf]))


def value_of(text: str, as_text: bool = False) -> Any:
    """Parse the value of an override as YAML; return the text itself if it is not YAML, or if the key holds text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date, such as 2024-13-01
        return text
    return text if as_text and value is not None and not isinstance(value, str) else value


def _is_text(schema: Any, values: dict[str, Any], path: list[str]) -> bool:
    """Whether the only values of the key at a path are text and null."""
    *parents, leaf = path
    sections = _sections(schema)
    for parent in parents:
        values = values.get(parent) or {}
        sections = _sections(
            next((s.model_fields[parent].annotation for s in sections if parent in s.model_fields), None)
        )
    named = (
        [section for section in sections if _name_of(section) == values.get("name")] if len(sections) > 1 else sections
    )
    fields = [section.model_fields[leaf].annotation for section in named if leaf in section.model_fields]
    return bool(fields) and all(set(_alternatives(field)) <= {str, type(None)} for field in fields)


def _alternatives(annotation: Any) -> list[Any]:
    """Return the types of a union, without their annotations."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _alternatives(inner[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in inner for kind in _alternatives(part)]
    return [annotation]


@dataclass(frozen=True)
class _Places:
    """The origin of each key of a config: a line of a file, or `--set`."""

    where: str
    file: YamlFile | None = None
    set_keys: Sequence[tuple[str, ...]] = ()

    def of(self, keys: tuple[str, ...]) -> str:
        """Return the prefix of a message about a key."""
        if any(keys[: len(one)] == one or one[: len(keys)] == keys for one in self.set_keys if keys):
            return "--set "
        line = self.file.line(keys) if self.file and keys else None
        return f"{self.where}: " if line is None else f"{self.where}:{line}: "

    def key_of(self, sentence: str) -> tuple[str, ...]:
        """Return the key with which a message of our own validators begins; () if it begins with no key of the config."""
        begins = re.match(r"[a-z_]\w*(\.\w+)*(?=[: ])", sentence)
        keys = tuple(begins[0].split(".")) if begins else ()
        return keys if (self.file and self.file.holds(keys)) or keys in self.set_keys else ()


def _checked(adapter: TypeAdapter[T], schema: Any, values: dict[str, Any], places: _Places) -> T:
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        for problem in error.errors():
            raised = problem.get("ctx", {}).get("error")
            if isinstance(raised, Exception) and not isinstance(raised, UserError):
                raise raised from None  # a bug in one of our validators, not a mistake in the config
        faults = [one for one in error.errors() if one["type"] != "default_factory_not_called"]  # follow from others
        _refuse_other_kind(schema, faults, places.where)
        problems = _shortened([_located(schema, dict(problem), places) for problem in faults])
        if len(problems) > 1:
            lines = "".join(f"\n  {problem}" for problem in problems)
            raise UserError(f"{places.where}: {len(problems)} mistakes{lines}") from None
        raise UserError(problems[0]) from None


def _refuse_other_kind(schema: Any, faults: Sequence[Any], where: str) -> None:
    """Raise UserError if the file is a config of another command."""
    unknown = {
        str(fault["loc"][0]) for fault in faults if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1
    }
    for kind, (other, keys) in _SIGNS.items():
        found = sorted(unknown & keys)
        if found and getattr(schema, "__name__", "") in _SIGNS and schema.__name__ != kind and len(found) >= 2:
            mine = _SIGNS[schema.__name__][0]
            raise UserError(
                f"{where}: this is the config of `maskmill {other}`: {mine} has no {', '.join(found)}; run maskmill {other} "
                f"{where}"
            ) from None


def _shortened(sentences: list[str]) -> list[str]:
    """Return the sentences, with the known keys of a section listed only once."""
    told, short = set[str](), []
    for sentence in sentences:
        known = re.search(r"; known keys here: [^;]*", sentence)
        short.append(sentence.replace(known[0], "", 1) if known and known[0] in told else sentence)
        told |= {known[0]} if known else set()
    return short


def _located(schema: Any, problem: dict[str, Any], places: _Places) -> str:
    sentence = _explain(schema, problem)
    keys = tuple(_keys_of(schema, tuple(str(part) for part in problem["loc"])))
    if not keys:
        keys = places.key_of(sentence)
    place = places.of(keys)
    if place == "--set " and not sentence.startswith(".".join(keys)):
        place = f"--set {'.'.join(keys)}: "
    return f"{place}{sentence}"


def _explain(schema: Any, problem: dict[str, Any]) -> str:
    path = tuple(str(part) for part in problem["loc"])
    key = ".".join(_keys_of(schema, path))
    found, context = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            known = list(_section_at(schema, path[:-1]).model_fields)
            return f"{key}: unknown key; known keys here: {', '.join(known)}{nearest(path[-1], known)}"
        case "missing":
            return f"{key}: missing; the config must set it"
        case "union_tag_invalid":
            hint = nearest(context["tag"], re.findall(r"'([^']*)'", context["expected_tags"]))
            return f"{_inside(key, 'name')}: found {context['tag']!r}; choose one of {context['expected_tags']}{hint}"
        case "union_tag_not_found":
            return f"{_inside(key, 'name')}: missing; the config must set it"
        case "model_type" | "model_attributes_type" if (
            isinstance(found, str) and key and (at := _walk(schema, path)[0])
        ):
            first = next((name for name, field in at[0].model_fields.items() if field.is_required()), "key")
            return (
                f"{key}: found {found!r}; it must be a section, such as {key.rpartition('.')[2]}: {{{first}: {found}}}"
            )
        case "value_error":
            return f"{key}: {context['error']}" if key else str(context["error"])
        case _:
            known = re.findall(r"'([^']*)'", context.get("expected", "")) if problem["type"] == "literal_error" else []
            allowed = _allowed(problem["type"], str(problem["msg"]), context)
            return f"{key}: found {found!r}; {allowed}{nearest(found, known)}"


def _allowed(kind: str, words: str, context: dict[str, Any]) -> str:
    """Return what a key may hold, in plain words; `kind` and `words` are pydantic's."""
    match kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float"):
        case "int":
            return "it must be a whole number"
        case "float":
            return "it must be a number"
        case "finite_number":
            return "it must be a finite number"
        case "bool":
            return "it must be true or false"
        case "string":
            return "it must be text"
        case "string_unicode":
            return "it must be text in UTF-8; rename the file"
        case "string_too_short":
            return "it must not be empty"
        case "tuple" | "list" | "set":
            return "it must be a list, such as [1, 2]"
        case "model" | "dict" | "model_attributes":
            return "it must be a section: keys with values"
        case "literal_error":
            return f"choose one of {context['expected'].replace(' or ', ', ')}"
        case "greater_than":
            return f"it must be above {context['gt']:g}"
        case "greater_than_equal":
            return f"it must be {context['ge']:g} or more"
        case "less_than":
            return f"it must be below {context['lt']:g}"
        case "less_than_equal":
            return f"it must be {context['le']:g} or less"
        case "multiple_of":
            return f"it must be a multiple of {context['multiple_of']:g}"
        case "too_short":
            return f"it needs at least {context['min_length']} of them"
        case "too_long":
            return f"it holds at most {context['max_length']} of them"
        case _:
            return f"{words[0].lower()}{words[1:]}"


def _inside(key: str, leaf: str) -> str:
    return f"{key}.{leaf}" if key else leaf


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a value of this type may be: one, or several between which the key `name` chooses."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections(part)]


def _walk(schema: Any, path: tuple[str, ...]) -> tuple[list[type[BaseModel]], list[str]]:
    """Return the sections at the path of an error, and the path without the names that choose between sections."""
    sections, keys = _sections(schema), []
    for part in path:
        named = [section for section in sections if _name_of(section) == part]
        if len(sections) > 1 and named:
            sections = named
            continue
        keys.append(part)
        if part.isdigit():  # an index into a list
            continue
        fields = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        sections = _sections(fields[0]) if fields else []
    return sections, keys


def _name_of(section: type[BaseModel]) -> str | None:
    field = section.model_fields.get("name")
    chosen = get_args(field.annotation) if field is not None else ()  # the values of a Literal
    return chosen[0] if chosen else None


def _keys_of(schema: Any, path: tuple[str, ...]) -> list[str]:
    return _walk(schema, path)[1]


def _section_at(schema: Any, path: tuple[str, ...]) -> type[BaseModel]:
    return _walk(schema, path)[0][0]
