"""Tars read in place: the offset of each member once, then one ranged read a member. WebDataset shards are tars."""

import tarfile

from pipeline import storage
from pipeline.corpus.item import BadBytes, Place
from pipeline.corpus.ranges import RangeFile

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_tar(uri: str) -> bool:
    """True for a plain tar.

    Raises:
        ValueError: a compressed one, whose members cannot be read without everything before them.
    """
    if uri.lower().endswith(_COMPRESSED):
        raise ValueError(f"corpus {uri}: a compressed tar cannot be read in place; store it as a plain .tar or a .zip")
    return uri.lower().endswith(".tar")


def list_tar(uri: str) -> list[tuple[str, Place]]:
    """(path, place) of every file in a tar, sorted by path; reads the headers and skips the images.

    Raises:
        ValueError: no tar there, a damaged or truncated one, or one with members that lead out of it or appear twice.
    """
    members: dict[str, Place] = {}
    try:
        file = RangeFile(uri)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                if not info.isreg():
                    continue
                name = info.name.removeprefix("./")
                if name.startswith("/") or ".." in name.split("/"):
                    raise ValueError(
                        f"corpus {uri}: member '{name}' leads out of the archive; pack the corpus without it"
                    )
                if name in members:
                    raise ValueError(f"corpus {uri}: member '{name}' appears twice; pack the corpus with one of them")
                members[name] = Place(uri, name, info.offset_data, info.size)
                archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except FileNotFoundError:
        raise ValueError(f"corpus {uri}: there is no such tar; check the path or the bucket") from None
    except tarfile.TarError as error:
        after = f" after '{next(reversed(members))}'" if members else ""
        raise ValueError(f"corpus {uri}: not a readable tar{after} ({error}); copy it again or pack it anew") from None
    return sorted(members.items())


def read_tar_member(place: Place) -> bytes:
    """The bytes of a member; one ranged read.

    Raises:
        BadBytes: `truncated`, the tar ends inside it.
    """
    assert place.offset is not None
    data = storage.read_range(place.uri, place.offset, place.bytes)
    if len(data) < place.bytes:
        where = f"{place.uri} member '{place.member}'"
        raise BadBytes("truncated", f"{where}: {len(data)} of {place.bytes} bytes are there; copy the tar again")
    return data
