"""How one label space differs from another, in words."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.labels.label_space import LabelSpace


def changes(before: LabelSpace, after: LabelSpace) -> list[str]:
    """Return one sentence for each class name, colour or stored value that differs."""
    return list(_changes(before, after))


def _changes(one: LabelSpace, two: LabelSpace) -> Iterator[str]:
    shared = min(one.num_classes, two.num_classes)
    for index, (old, new) in enumerate(zip(one.classes, two.classes, strict=False)):
        if old != new:
            yield f"class {index} {_now(old, new)}"
    yield from (f"class '{name}' is gone" for name in one.classes[shared:])
    yield from (f"class '{name}' is new" for name in two.classes[shared:])
    for index in range(shared):
        name = two.classes[index]
        details: tuple[tuple[str, Sequence[Any]], ...] = (
            ("colour", (one.colours[index], two.colours[index])),
            ("values", (one.values[index], two.values[index])),
            ("stored colours", (one.stored_colours[index], two.stored_colours[index])),
        )
        for what, (was, now) in details:
            if was != now:
                yield f"{what} of '{name}' {_now(was, now)}"
    if one.classes == two.classes and one.categories != two.categories:
        yield f"categories {_now(one.categories, two.categories)}"
    for what, was, now in (
        ("ignored values", sorted(one.ignored_ids), sorted(two.ignored_ids)),
        ("ignored colours", sorted(one.ignored_colours), sorted(two.ignored_colours)),
        ("name", one.name, two.name),
    ):
        if was != now:
            yield f"{what} {_now(was, now)}"


def _now(was: Any, now: Any) -> str:
    return f"{json.dumps(was)}, now {json.dumps(now)}"
