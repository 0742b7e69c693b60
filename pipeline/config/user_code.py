"""Code of a user's own: the folder that holds it, and its hash. Torch is not needed: a laptop that submits has none."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.config import travelling
from pipeline.errors import UserError

MAX_BYTES = 20_000_000  # of a folder of code: it travels with each job
INSTALLED = "installed"  # in place of a folder: a module that is installed on every machine
TRUSTED = "trusted"  # in place of a folder: the code that lies in the checkpoint itself, in an exported program


def _absolute_if_there(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).is_dir() else path


Folder = Annotated[str, Field(min_length=1), AfterValidator(_absolute_if_there)]


def find_folder(path: str) -> Path:
    """The folder of a key `path`: there, or in what travelled with a job.

    Raises:
        UserError: there is none.
    """
    for folder in travelling.places(path, travelling.CODE):
        if folder.is_dir():
            return folder.resolve()
    raise UserError(
        f"model.path {path}: no such folder on this machine; give the folder that holds the network's code, for a "
        "segmentation by its key `code`"
    )


def code_files(place: Path) -> list[Path]:
    """The files of a folder of code, in order, without hidden ones and compiled ones; of a single file, itself.

    Raises:
        UserError: they are too many bytes to be code.
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
    """Of names and contents: the same wherever the folder lies."""
    total = hashlib.sha256()
    for file in code_files(place):
        name = file.relative_to(place).as_posix() if place.is_dir() else file.name
        total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        yield from (Path(root) / name for name in names if not name.startswith(".") and not name.endswith(".pyc"))
