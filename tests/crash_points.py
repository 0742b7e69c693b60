"""Kill the commit protocol between any two of its steps on the store. The product needs no hooks for this: the steps are calls
of `storage.put`, `create` and `delete` and, on a disk, the rename or link at the end of each."""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from pipeline import storage


class Killed(BaseException):
    """The process ends here: nothing catches this."""


def name_of(step: str, uri: str, root: str) -> str:
    """`put run.json`: stable from run to run; what follows from bytes or chance is left out."""
    path = uri.removeprefix(root).lstrip("/")
    if path.startswith("plan/"):
        path = path[: len("plan/part-00000")]
    return f"{step} {path}"


@contextlib.contextmanager
def dying(root: str, at: int | None, seen: list[str]) -> Iterator[None]:
    """Each step on the store below `root` is written to `seen`; before number `at` the process dies.

    What a dying process would still do is not done: after the death every further step dies too (`finally`, `__exit__`).
    """
    patch = pytest.MonkeyPatch()
    inside = []

    def wrapped(step: str, real: Callable) -> Callable:
        def call(uri, *rest):
            if inside or not str(uri).startswith(root):
                return real(uri, *rest)
            _note(name_of(step, uri, root), at, seen)
            inside.append(step)
            try:
                return real(uri, *rest)
            finally:
                inside.pop()

        return call

    def renamed(step: str, real: Callable) -> Callable:
        def call(source, target):
            if str(target).startswith(root):
                _note(f"  {step} of {name_of(inside[-1], str(target), root)}", at, seen)
            return real(source, target)

        return call

    for step in ("put", "create", "delete"):
        patch.setattr(storage, step, wrapped(step, getattr(storage, step)))
    for step in ("replace", "link"):
        patch.setattr(os, step, renamed(step, getattr(os, step)))
    try:
        yield
    finally:
        patch.undo()


def _note(name: str, at: int | None, seen: list[str]) -> None:
    if at is not None and len(seen) >= at:
        raise Killed(name)
    seen.append(name)
