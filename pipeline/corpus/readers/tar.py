"""Reading tars in place: list the members' offsets once, then make one ranged read per member. WebDataset shards are tars."""

import posixpath
import tarfile
from collections.abc import Iterator

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.corpus.readers.archive import checked_name, start_of, unique
from pipeline.errors import Reject, UserError
from pipeline.storage.range_file import RangeFile

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MOST_LINKS = 8  # links to links that are followed, which could form a cycle
_MOST_HEADER_BYTES = 1 << 24  # limit for the long name and extended attributes of one member


class _HeaderFile(RangeFile):
    """A tar of which tarfile reads only the headers. Limits their size, since tarfile allocates whatever a header claims."""

    def read(self, length: int = -1) -> bytes:
        if not 0 <= length <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header that says it has {length} bytes")
        return super().read(length)


def is_compressed_tar(uri: str) -> bool:
    """Whether a URI is a tar that cannot be read in place."""
    return uri.lower().endswith(_COMPRESSED)


def compressed_tar(uri: str) -> UserError:
    return UserError(f"corpus {uri}: a compressed tar cannot be read in place; store it as a plain .tar or a .zip")


def is_tar(uri: str) -> bool:
    """Whether a URI is a plain tar.

    Raises:
        UserError: the tar is compressed, so its members cannot be read without everything before them.
    """
    if is_compressed_tar(uri):
        raise compressed_tar(uri)
    return uri.lower().endswith(".tar")


def list_tar(uri: str) -> dict[str, Place]:
    """Return path -> place of every file in a tar, sorted; UserError as in `scan_tar`, and if a path appears twice."""
    return unique(uri, scan_tar(uri))


def scan_tar(uri: str, etag: str | None = None) -> Iterator[tuple[str, Place]]:
    """Yield (path, place) of every file in a tar, in its order, then of its links; reads the headers and skips the images.

    If a header gives a wrong size for its member, the next header cannot be found, and the tar is refused. A link has the place
    of the file that it leads to, or no offset if that is not in the tar.

    Args:
        etag: ETag of the tar, which all places get.
    Raises:
        UserError: no such tar, a damaged or truncated one, or one with members that lead out of it.
    """
    links = dict[str, str]()  # name -> that of its file
    for info in _headers(uri):
        if not (info.isreg() or info.islnk() or info.issym()):
            continue
        name = checked_name(uri, info.name.removeprefix("./"))
        if not info.isreg():
            beside = posixpath.dirname(name) if info.issym() else ""
            links[name] = posixpath.normpath(posixpath.join(beside, info.linkname))
        else:
            yield name, _place(uri, name, info, etag)
    if links:
        yield from _linked(uri, links, etag)


def _linked(uri: str, links: dict[str, str], etag: str | None) -> Iterator[tuple[str, Place]]:
    """Yield (path, place) of links; those to folders are left out, as on a disk."""
    wanted, files, folders = set(links.values()), dict[str, tarfile.TarInfo](), set[str]()
    for info in _headers(uri):
        name = posixpath.normpath(info.name)
        folders |= {name} if info.isdir() else {posixpath.dirname(name)}
        if info.isreg() and name in wanted:
            files[name] = info
    for name, target in links.items():
        for _ in range(_MOST_LINKS):
            target = links.get(target, target)
        if target in files:
            yield name, _place(uri, name, files[target], etag)
        elif target not in folders:
            yield name, Place(uri, name, etag=etag)


def _place(uri: str, name: str, info: tarfile.TarInfo, etag: str | None) -> Place:
    """Return a member's place; the stored bytes of a sparse member differ from its file's, and images are never sparse."""
    return Place(uri, name, etag=etag) if info.issparse() else Place(uri, name, info.offset_data, info.size, etag=etag)


def _headers(uri: str) -> Iterator[tarfile.TarInfo]:
    """Yield the header of every member; UserError if the tar is not there or not readable."""
    before = None
    try:
        file = _HeaderFile(uri)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                if info.size < 0 or not info.offset_data <= archive.offset <= file.size:
                    before = info.name
                    raise tarfile.ReadError(f"its header says {info.size} bytes, and the tar has {file.size}")
                archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
                before = info.name.removeprefix("./")
                yield info
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile mistakes a damaged header for the end
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except FileNotFoundError:
        raise UserError(f"corpus {uri}: there is no such tar; check the path or the bucket") from None
    except UserError:
        raise
    except (
        tarfile.TarError,
        ValueError,
        OverflowError,
    ) as error:  # the last two for malformed or too large numbers
        after = "" if before is None else f" after '{before}'"
        raise UserError(f"corpus {uri}: not a readable tar{after} ({error}); copy it again or pack it anew") from None


def read_tar_member(place: Place) -> bytes:
    """Read the bytes of a member with one ranged read.

    Raises:
        Reject: `truncated`, the tar ends inside the member.
    """
    data = storage.read_range(place.uri, start_of(place), place.bytes)
    if len(data) < place.bytes:
        where = f"{place.uri} member '{place.member}'"
        raise Reject("read", "truncated", f"{where}: {len(data)} of {place.bytes} bytes are there; copy the tar again")
    return data
