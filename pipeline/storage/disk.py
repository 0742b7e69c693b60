"""Storage in a folder of this machine, or in one that all machines mount."""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.storage.retry import retried
from pipeline.storage.store import Listed

if TYPE_CHECKING:
    import pyarrow.fs

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)


class Disk:
    """Objects as files: `put` renames a temporary file, `create` makes an exclusive link to one."""

    exclusive_create = True

    @classmethod
    def open(cls, uri: str) -> tuple["Disk", str]:
        """Return the store, and the absolute path of a `file://` URI or a plain path."""
        path = uri.removeprefix("file://").removeprefix("local://")
        if not path.startswith("/"):
            path = str(Path(path).expanduser().absolute())
        return cls(), path.rstrip("/") or "/"

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def is_file(self, path: str) -> bool:
        return os.path.isfile(path)

    @retried
    def size(self, path: str) -> int:
        return Path(path).stat().st_size

    @retried
    def modified(self, path: str) -> float | None:
        return Path(path).stat().st_mtime

    def etag(self, path: str) -> str | None:
        return None

    @retried
    def read(self, path: str, etag: str | None) -> bytes:
        return Path(path).read_bytes()

    @retried
    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    @retried
    def put(self, path: str, data: bytes) -> None:
        with _temporary(path, data) as temporary:
            os.replace(temporary, path)
        _sync_folder(path)

    @retried
    def create(self, path: str, data: bytes) -> bool:
        try:
            with _temporary(path, data) as temporary:
                os.link(temporary, path)
        except FileExistsError:
            return False
        _sync_folder(path)
        return True

    @retried
    def delete(self, path: str) -> None:
        os.unlink(path)

    def scan(self, root: str) -> Iterator[Listed]:
        """Yield all files; links to files are followed, links to folders are not, since they could form a cycle."""
        try:
            with os.scandir(root) as entries:
                found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        while found:
            entry = found.pop()  # it keeps what is asked of it: of a million files, half a gigabyte
            if entry.is_dir(follow_symlinks=False):
                yield from self.scan(entry.path)
            else:
                try:
                    found_here = entry.stat()
                    yield Listed(entry.path, found_here.st_size, modified=found_here.st_mtime)
                except FileNotFoundError:  # a dangling link is listed, and reading it will fail
                    yield Listed(entry.path, 0)

    def arrow_filesystem(self) -> "pyarrow.fs.FileSystem":
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem()  # native: a read through Python costs as much as reading a small part


def is_temporary(path: str) -> bool:
    """Whether a file is a temporary one that `put` or `create` left behind when they were killed."""
    return bool(_TEMPORARY.fullmatch(path.rpartition("/")[2]))


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """Write the bytes to a temporary file in the target's folder, synced to disk; remove that name afterwards."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # The leading dot hides it from readers that glob `part-*`.
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _sync_folder(path: str) -> None:
    """Sync a file's folder to disk, without which a new name may not survive a power cut."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
