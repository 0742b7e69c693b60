"""Reading zips in place: read the central directory once, then make one ranged read per member."""

import zipfile
import zlib
from array import array
from collections.abc import Iterator

import numpy as np

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.corpus.readers.archive import checked_name, start_of, unique
from pipeline.corpus.readers.zip_directory import LOCAL_HEADER, read_directory
from pipeline.errors import Reject, UserError

_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
# The local header's extra field may be longer than the central directory says, so each read requests this much more.
_SLACK_BYTES = 256
_MOST_BYTES = 1 << 30  # limit for one inflated member; no image of a legal size needs more


def is_zip(uri: str) -> bool:
    return uri.lower().endswith(".zip")


def list_members(uri: str) -> dict[str, Place]:
    """Return path -> place of every file in a zip, sorted; UserError as in `scan_zip`, and if a path appears twice."""
    return unique(uri, scan_zip(uri))


def scan_zip(uri: str) -> Iterator[tuple[str, Place]]:
    """Yield (path, place) of every file in a zip, in its directory's order; reads only the central directory, block by block.

    A member with an impossible offset is listed too, and rejected when it is read.

    Raises:
        UserError: no such zip, a damaged one, or one with members that lead out of it or share bytes.
    """
    try:
        end, ordered = 0, True
        for name, place in read_directory(uri):
            if place.offset is not None:
                if ordered and place.offset < end:
                    _refuse_overlaps(uri)
                    ordered = False
                end = place.offset + LOCAL_HEADER.size + place.bytes
            if not name.endswith("/"):
                yield checked_name(uri, name), place
    except FileNotFoundError:
        raise UserError(f"corpus {uri}: there is no such zip; check the path or the bucket") from None
    except zipfile.BadZipFile as error:
        raise UserError(f"corpus {uri}: not a readable zip ({error}); copy it again or repair it") from None


def _refuse_overlaps(uri: str) -> None:
    """Raise UserError if members share bytes: such a zip bomb unpacks to any size (Fifield 2019), and is never accidental.

    Needed only if the directory is not in the order of its members; takes 16 bytes of memory per member.
    """
    starts, ends = array("q"), array("q")
    for _, place in read_directory(uri):
        if place.offset is not None:
            starts.append(place.offset)
            ends.append(place.offset + LOCAL_HEADER.size + place.bytes)
    order = np.argsort(starts, kind="stable")
    shared = np.flatnonzero(np.asarray(starts)[order][1:] < np.asarray(ends)[order][:-1])
    if len(shared):
        pair = {int(order[shared[0]]), int(order[shared[0] + 1])}
        placed = (name for name, place in read_directory(uri) if place.offset is not None)
        names = [name for index, name in enumerate(placed) if index in pair]
        raise UserError(f"corpus {uri}: members '{names[0]}' and '{names[1]}' overlap; zip the corpus again")


def read_member(place: Place) -> bytes:
    """Return the uncompressed bytes of a member, checked against its CRC, with one ranged read.

    Raises:
        Reject: `truncated`, `encrypted`, `unsupported_compression`, `corrupt` or `not_found`.
    """
    assert place.member is not None
    where, offset = f"{place.uri} member '{place.member}'", start_of(place)
    ahead = LOCAL_HEADER.size + len(place.member.encode()) + _SLACK_BYTES
    data = storage.read_range(place.uri, offset, ahead + place.bytes)
    if len(data) < LOCAL_HEADER.size or data[:4] != _SIGNATURE:
        raise Reject(
            "read", "corrupt", f"{where}: no member starts at byte {offset}; the zip changed, plan the run anew"
        )
    _, _, flags, method, *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(data)
    if flags & _ENCRYPTED:
        raise Reject("read", "encrypted", f"{where}: it is encrypted; store it without a password")
    start = LOCAL_HEADER.size + name_bytes + extra_bytes
    if start + place.bytes > len(data):
        data += storage.read_range(place.uri, offset + len(data), start + place.bytes - len(data))
    packed = data[start : start + place.bytes]
    if len(packed) < place.bytes:
        raise Reject(
            "read", "truncated", f"{where}: {len(packed)} of {place.bytes} bytes are there; copy the zip again"
        )
    content = _unpack(packed, method, where)
    if zlib.crc32(content) != place.crc32:
        raise Reject("read", "corrupt", f"{where}: its bytes do not match its checksum; copy the zip again")
    return content


def _unpack(packed: bytes, method: int, where: str) -> bytes:
    match method:
        case zipfile.ZIP_STORED:
            return packed
        case zipfile.ZIP_DEFLATED:
            try:
                inflater = zlib.decompressobj(wbits=-15)
                content = inflater.decompress(packed, _MOST_BYTES)
            except zlib.error as error:
                raise Reject(
                    "read", "corrupt", f"{where}: it cannot be inflated ({error}); copy the zip again"
                ) from None
            if inflater.unconsumed_tail:
                raise Reject(
                    "read",
                    "too_large",
                    f"{where}: it inflates to more than {_MOST_BYTES} bytes; store the image itself",
                )
            if not inflater.eof:
                raise Reject("read", "corrupt", f"{where}: its deflated bytes end too early; copy the zip again")
            return content
        case _:
            raise Reject(
                "read",
                "unsupported_compression",
                f"{where}: compression method {method}; stored and deflated members are read",
            )
