"""YAML -> section, and what to say where it does not fit."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.section import Section

S = TypeVar("S", bound=Section)


def load(schema: type[S], path: str, overrides: list[str] | None = None) -> S:
    """Read one YAML file into its schema, with `key.path=value` overrides applied on top.

    Raises:
        ValueError: no such file, not YAML, or a key or value that the schema does not allow (all of them listed).
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"config {path} does not exist; the ready ones lie in configs/")
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: expected keys and values, found {type(values).__name__}; see the examples in configs/camvid/"
        )
    for override in overrides or []:
        _set(values, override)
    return parse(schema, values, where=path)


def parse(schema: type[S], values: dict[str, Any], where: str) -> S:
    """The section of these values; ValueError names `where`, each wrong key, what was found and what is allowed."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(schema, dict(problem)) for problem in error.errors())
        raise ValueError(f"{where}: {problems}") from None


def canonical(value: Any) -> str:
    """One text for equal values: JSON with sorted keys and no spaces, the form that is hashed and compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def differences(before: dict[str, Any], after: dict[str, Any], path: str = "") -> list[str]:
    """One sentence for each key whose value differs between two nested configs, e.g. 'crf.iterations: 10, now 5'."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new, name = before.get(key), after.get(key), f"{path}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name}: {json.dumps(old)}, now {json.dumps(new)}")
    return found


def _set(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {override}: expected key.path=value, e.g. crf.iterations=5")
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        if not isinstance(values[parent], dict):
            raise ValueError(f"--set {override}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        values = values[parent]
    values[leaf] = yaml.safe_load(text)


def _explain(schema: type[BaseModel], problem: dict[str, Any]) -> str:
    path = tuple(str(part) for part in problem["loc"])
    key = ".".join(path)
    found = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            known = _keys_at(schema, path[:-1])
            return f"{key}: unknown key" + (f"; known keys here: {', '.join(known)}" if known else "")
        case "missing":
            return f"{key}: missing; the config must set it"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
        case _:
            text = str(problem["msg"])
            return f"{key}: found {found!r}; {text[0].lower()}{text[1:]}"


def _keys_at(schema: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """Keys of the section at a path below `schema`; empty if the path is no section."""
    for part in path:
        field = schema.model_fields.get(part)
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not sections:
            return []
        schema = sections[0]
    return list(schema.model_fields)
