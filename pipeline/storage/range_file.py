"""A seekable view of an object, for libraries that need a file; it makes few, large ranged reads."""

import io

from pipeline import storage

_BLOCK_BYTES = 1 << 18


class RangeFile(io.RawIOBase):
    """The bytes of an object as a file. Ranges are read on demand, with read-ahead."""

    def __init__(self, uri: str) -> None:
        self._uri, self._size, self._position = uri, storage.size(uri), 0
        self._block_start, self._block = 0, b""

    @property
    def size(self) -> int:
        """Size of the object in bytes."""
        return self._size

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, length: int = -1) -> bytes:
        end = self._size if length < 0 else min(self._size, self._position + length)
        if end <= self._position:
            return b""
        if not self._block_start <= self._position <= end <= self._block_start + len(self._block):
            stop = min(self._size, max(end, self._position + _BLOCK_BYTES))
            self._block_start = self._position
            self._block = storage.read_range(self._uri, self._position, stop - self._position)
        data = self._block[self._position - self._block_start : end - self._block_start]
        self._position += len(data)
        return data
