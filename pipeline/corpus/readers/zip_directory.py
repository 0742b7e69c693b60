"""A zip's central directory, read as a stream, because `zipfile` would hold millions of entries in memory.

Numbers of sections and offsets of fields: APPNOTE.TXT 6.3.10, PKWARE.
"""

import struct
from collections.abc import Iterator
from zipfile import BadZipFile

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.errors import UserError

_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # 4.3.7
_TAIL_BYTES = 1 << 18  # holds the longest comment, and the whole directory of a small zip
_BLOCK_BYTES = 1 << 20
_UTF8 = 0x800  # 4.4.4, bit 11
_FULL32 = 0xFFFFFFFF  # the value is in the zip64 extra field instead, 4.5.3


def read_directory(uri: str) -> Iterator[tuple[str, Place]]:
    """Yield (path, place) of every entry, including folders, in the directory's order.

    The place of an entry has no offset if its bytes would not end before the directory.

    Raises:
        zipfile.BadZipFile: there is no directory, or it is damaged.
        FileNotFoundError: there is no such object.
    """
    start, length, shift, tail_start, tail = _locate(uri)
    # What is left of the directory: the part in `block`, then `position` on.
    block = tail[start - tail_start : start - tail_start + length] if start >= tail_start else b""
    position, end, at = start + len(block), start + length, 0
    while at < len(block) or position < end:
        entry_bytes = _ENTRY.size
        if len(block) - at >= _ENTRY.size:
            fields = _ENTRY.unpack_from(block, at)
            if fields[0] != b"PK\1\2":
                raise BadZipFile(f"no entry at byte {position - len(block) + at} of the central directory")
            entry_bytes += sum(fields[10:13])
        if len(block) - at < entry_bytes:
            if position >= end:
                raise BadZipFile("the central directory ends inside an entry")
            more = storage.read_range(uri, position, min(max(_BLOCK_BYTES, entry_bytes), end - position))
            if not more:
                raise BadZipFile("the zip ends inside its central directory")
            block, position, at = block[at:] + more, position + len(more), 0
            continue
        yield _entry(uri, fields, block[at + _ENTRY.size : at + entry_bytes], shift, start)
        at += entry_bytes


def _entry(uri: str, fields: tuple[int, ...], variable: bytes, shift: int, end: int) -> tuple[str, Place]:
    """Return path and place of one entry; `end` is the start of the directory, before which its bytes must end."""
    flags, crc32, packed, unpacked, name_bytes, extra_bytes, offset = (*fields[3:4], *fields[7:12], fields[16])
    raw = variable[:name_bytes]
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437").partition("\0")[0]
    except UnicodeDecodeError:
        raise UserError(f"corpus {uri}: the member name {raw!r} is not UTF-8; zip the corpus again") from None
    if _FULL32 in (packed, unpacked, offset):
        wide = iter(_wide_values(variable[name_bytes : name_bytes + extra_bytes]))
        try:  # the field has the values in this order, and only those that did not fit into 32 bits
            _, packed, offset = (next(wide) if value == _FULL32 else value for value in (unpacked, packed, offset))
        except RuntimeError:
            return name, Place(uri, name, crc32=crc32)  # the entry refers to a field that it does not have
    if offset + shift + LOCAL_HEADER.size + packed > end:
        return name, Place(uri, name, crc32=crc32)
    return name, Place(uri, name, offset + shift, packed, crc32)


def _wide_values(extra: bytes) -> tuple[int, ...]:
    """Return the 64-bit values of an entry's zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            count = min(length, len(extra) - at - 4) // 8
            return struct.unpack_from(f"<{count}Q", extra, at + 4)
        at += 4 + length
    return ()


def _locate(uri: str) -> tuple[int, int, int, int, bytes]:
    """Return the central directory's start and size, the shift of all offsets (bytes before the zip), and the tail's start and
    bytes.
    """
    size = storage.size(uri)
    tail_start = max(0, size - _TAIL_BYTES)
    tail = storage.read_range(uri, tail_start, size - tail_start) if size else b""
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise BadZipFile("there is no end of a central directory; the file is not a zip, or is cut short")
    _, _, _, _, _, length, offset, _ = _END.unpack_from(tail, at)
    locator = at - _END64_LOCATOR.size
    if tail[max(0, locator) : locator + 4] == b"PK\6\7":
        _, _, wide_at, _ = _END64_LOCATOR.unpack_from(tail, locator)
        at = _wide_end(tail, tail_start, locator, wide_at)
        *_, length, offset = _END64.unpack_from(tail, at)
    elif _FULL32 in (length, offset):  # 65535 entries may be as many: writers need zip64 only for more
        raise BadZipFile("its zip64 end of the central directory is missing")
    start = tail_start + at - length
    if start < 0 or start < offset:
        raise BadZipFile("its central directory does not fit into it; the file is cut or damaged")
    return start, length, start - offset, tail_start, tail


def _wide_end(tail: bytes, tail_start: int, locator: int, wide_at: int) -> int:
    """Return the start of the zip64 end record in the tail: where the locator says, or before it if bytes precede the zip."""
    for at in (wide_at - tail_start, locator - _END64.size):
        if 0 <= at <= len(tail) - _END64.size and tail[at : at + 4] == b"PK\6\6":
            return at
    raise BadZipFile("its zip64 end of the central directory is damaged")
