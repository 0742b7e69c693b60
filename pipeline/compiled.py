"""Compile functions with Numba and cache their machine code on disk, in a folder per version of the sources.

Numba's own cache key covers only the file that defines a function. The machine code also contains constants, intrinsics and
functions from the other files of its folder (its "room"), and constants of `labels`. The cache path therefore holds a hash of
all these files, so that a changed checkout never loads stale code. A compiled function may not use names of any other room;
tests/test_house.py checks this.

Cache folders are tried in this order: NUMBA_CACHE_DIR, the room's `__pycache__`, the user's cache, a private folder among the
temporary files. If none is writable, nothing is cached, and every process compiles again.
"""

import hashlib
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator
from numba.misc.appdirs import AppDirs

_KEPT = 4  # versions of a room whose code is kept, so that switching between branches does not recompile
_rooms = set[Path]()  # folders of modules with compiled functions
_SHARED = ("compiled.py", "labels/label_space.py")  # hashed with every room


def compiled(inline: Literal["never", "always"] = "never") -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function to machine code that releases the GIL, cached for later processes."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = njit(nogil=True, inline=inline)(function)
        _rooms.add(room := Path(function.__code__.co_filename).parent)
        folder = _folder_of(room)
        if folder is not None and hasattr(
            dispatcher, "enable_caching"
        ):  # NUMBA_DISABLE_JIT leaves the function as it is
            dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate


def folders() -> list[Path]:
    """Return the cache folders of the compiled functions that were imported so far."""
    return sorted({folder for room in _rooms if (folder := _folder_of(room)) is not None})


class _Locator(UserProvidedCacheLocator):
    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno
        self._cache_path = str(_folder_of(Path(file).parent))

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> "_Locator":
        return cls(function, file)


class _Keeper(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):
    _impl_class = _Keeper


def state_of(room: Path) -> str:
    """Return a hash of the sources that are compiled into a room's functions."""
    files = [*sorted(room.glob("*.py")), *(Path(__file__).parent / name for name in _SHARED)]
    state = hashlib.sha256()
    for file in files:
        text = file.read_bytes()
        state.update(f"{file.name} {len(text)}\n".encode() + text)
    return state.hexdigest()[:16]


@cache
def _folder_of(room: Path) -> Path | None:
    """Return the cache folder of a room, created and writable; None if there is no such place."""
    if not room.is_dir():  # a package in a zip
        return None
    name = f"numba-{state_of(room)}"
    for parent in _parents(room):
        if _is_writable(parent / name):
            _forget(parent)
            return parent / name
    _tell("compiled code is not kept, and every process compiles for about 10 s")
    return None


def _parents(room: Path) -> Iterator[Path]:
    own = UserProvidedCacheLocator.get_suitable_cache_subpath(str(room / "any.py"))
    if os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(os.environ["NUMBA_CACHE_DIR"]) / own
    yield room / "__pycache__"
    yield Path(AppDirs(appname="numba", appauthor=False).user_cache_dir) / own
    private = _private()
    if private is not None:
        _tell(f"compiled code is kept among the temporary files, in {private}")
        yield private / own


@cache
def _private() -> Path | None:
    """Return a temporary folder that only this user can write to, since code loaded from it is run; None if there is none."""
    try:
        folder = Path(tempfile.gettempdir()) / f"maskmill-numba-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
    return folder if is_ours else None


@cache
def _tell(outcome: str) -> None:
    places = "the package's folder and the user's cache"
    asked = os.environ.get("NUMBA_CACHE_DIR")
    places = f"NUMBA_CACHE_DIR ({asked}), {places}" if asked else places
    warnings.warn(
        f"{places} cannot be written: {outcome}; set NUMBA_CACHE_DIR to a folder that can be written and lasts",
        RuntimeWarning,
        stacklevel=1,
    )


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _forget(parent: Path) -> None:
    """Remove the code of all versions but the newest; a process that still needs removed code compiles it again."""
    for lone in parent.glob("*.nb[ic]"):  # written by earlier releases, without a folder per version
        lone.unlink(missing_ok=True)
    try:
        states = sorted(parent.glob("numba-*"), key=lambda state: state.stat().st_mtime, reverse=True)
    except OSError:  # another process removed them first
        return
    for old in states[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
