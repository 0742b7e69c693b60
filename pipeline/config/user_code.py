"""A user's own code: its folder and its hash. This needs no torch, which a laptop that submits jobs may not have."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.config import travelling
from pipeline.errors import UserError

MAX_BYTES = 20_000_000  # size limit of a folder of code, since it is uploaded with each job
INSTALLED = "installed"  # instead of a folder: a module that is installed on every machine
TRUSTED = "trusted"  # instead of a folder: the code in the checkpoint itself, in an exported program


def _absolute_if_there(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).is_dir() else path


Folder = Annotated[str, Field(min_length=1), AfterValidator(_absolute_if_there)]


def find_folder(path: str) -> Path:
    """Return the folder of a key `path`, on this machine or among the files uploaded with the job.

    Raises:
        UserError: there is none.
    """
    for folder in travelling.places(path, travelling.CODE):
        if folder.is_dir():
            return folder.resolve()
    raise UserError(
        f"model.path {path}: no such folder on this machine; give the folder with the network's code (in a "
        "segmentation config with the key `code`)"
    )


def code_files(place: Path) -> list[Path]:
    """Return the files of a folder of code, sorted, without hidden and compiled ones; for a single file, that file.

    Raises:
        UserError: they are larger than `MAX_BYTES`.
    """
    files = sorted(_walk(place)) if place.is_dir() else [place]
    size = sum(file.stat().st_size for file in files)
    if size > MAX_BYTES:
        raise UserError(
            f"{place}: {size / 1e6:.0f} MB, and a folder of code holds at most {MAX_BYTES / 1e6:.0f}, since it is hashed and "
            "travels with each job; give a folder of the network's code alone"
        )
    return files


def sha256_of_code(place: Path) -> str:
    """Return a hash of names and contents, which does not depend on where the folder is."""
    total = hashlib.sha256()
    for file in code_files(place):
        name = file.relative_to(place).as_posix() if place.is_dir() else file.name
        total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        yield from (Path(root) / name for name in names if not name.startswith(".") and not name.endswith(".pyc"))
