"""Checks that a label space is consistent; each error is one sentence."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.labels.label_space import MAX_CLASSES, LabelSpace


def check_names(names: list[str]) -> None:
    """Raise UserError if there are too many classes, or two have the same name."""
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{len(names)} classes: masks hold one byte a pixel, of which 254 and 255 mean unknown and ignored, so there can "
            f"be {MAX_CLASSES} at most; leave classes out, or merge some: several values may mean one class"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        places = ", ".join(str(index) for index, name in enumerate(names) if name == twice[0])
        raise UserError(f"classes {places} are all called '{twice[0]}'; give each class a name of its own")


def check_said(of_class: Mapping[str, bool]) -> None:
    """Raise UserError if some classes say which label values mean them and others do not.

    Args:
        of_class: class name -> whether the class says it.
    """
    without = [name for name, said in of_class.items() if not said]
    if without and len(without) < len(of_class):
        raise UserError(
            f"class '{without[0]}' has no values, and other classes have; give each class its values, or none of them: then "
            "they are 0, 1, 2, ... in order"
        )


def check_colours(made: LabelSpace) -> None:
    """Raise UserError if two classes are shown in the same colour."""
    for colour, names in _shared(zip(made.colours, made.classes, strict=True)):
        raise UserError(
            f"classes {_and(names)} have one colour, {colour}; give them different ones, leave them out to have them chosen, "
            "or set equal_colours: true"
        )


def check_stored(made: LabelSpace) -> None:
    """Raise UserError if a value or a colour of label pictures has two meanings."""
    ids = [(value, name) for name, own in zip(made.classes, made.values, strict=True) for value in own]
    colours = [(colour, name) for name, own in zip(made.classes, made.stored_colours, strict=True) for colour in own]
    ignored_ids: list[tuple[Any, str]] = [(value, "(ignored)") for value in made.ignored_ids]
    ignored_colours: list[tuple[Any, str]] = [(colour, "(ignored)") for colour in made.ignored_colours]
    for kind, pairs in (("value", [*ids, *ignored_ids]), ("colour", [*colours, *ignored_colours])):
        for stored, names in _shared(pairs):
            raise UserError(
                f"{kind} {stored} of label pictures means both {_and(names)}; each {kind} belongs to one class, or is ignored"
            )


def _shared(pairs: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, list[str]]]:
    """Yield each key that several names share, with those names."""
    found: dict[Any, list[str]] = {}
    for key, name in pairs:
        found.setdefault(key, []).append(name)
    yield from ((key, names) for key, names in found.items() if len(names) > 1)


def _and(names: list[str]) -> str:
    quoted = [name if name.startswith("(") else f"'{name}'" for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"
