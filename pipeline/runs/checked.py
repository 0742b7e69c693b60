"""Remember the footers of a run's masks parts, so that they are not read again.

A start that resumes a run stores what it read in `<run>/attempts/checked-*`, so that the next start reads only the footers of
parts committed since. An entry is valid only for the file that it was read from: same size, and same etag or, on a disk, same
time of writing. Parts with rejects are not stored, since their whole footers are needed.
"""

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from pipeline import storage
from pipeline.runs.info import PartEntry
from pipeline.runs.parts import Footer, Part, parts_of, read_footers

CHECKED = "checked-"  # prefix of the files' names
_WORTH_KEEPING = 256  # parts; fewer are read again as fast as such a file is written


@dataclass(frozen=True, slots=True)
class Known:
    """What the footer of a part without rejects says, and of which file."""

    entry: PartEntry
    stamp: str | float | None  # of the file that was read; None: this start has committed the part

    def of(self, part: Part) -> bool:
        """Return whether it was read from this file."""
        return self.entry.bytes == part.bytes and self.stamp in (None, part.stamp)


def entry_of(size: int, footer: Footer) -> PartEntry:
    """Return the entry of a part in `_SUCCESS.json`."""
    return PartEntry(bytes=size, rows=footer.rows, footer_sha256=footer.sha256)


class CheckedParts:
    """The masks parts of a run whose footers were read and checked, by this start or earlier ones."""

    def __init__(self, run_uri: str, folder: str, fingerprint: str) -> None:
        self._run_uri, self._folder, self._fingerprint = run_uri, folder, fingerprint
        self._known: dict[str, Known] | None = None  # by name relative to the run
        self._new: dict[str, Known] = {}  # not stored yet
        self._files = 0

    def listed(self) -> list[Part]:
        """Return the masks parts that exist, in the order of their shards; read the footers that were not checked before.

        Raises:
            UserError: a part belongs to another run, or cannot be read.
        """
        known, parts = self._loaded(), parts_of(self._run_uri, "masks")
        unread = [part for part in parts if self.entry(part) is None]
        gone = {part.name for part in unread}
        for part, footer in read_footers(unread, self._fingerprint):
            gone.remove(part.name)
            if not footer.rejects:
                known[part.name] = self._new[part.name] = Known(entry_of(part.bytes, footer), part.stamp)
        return [part for part in parts if part.name not in gone]

    def committed(self, shard: int, entry: PartEntry) -> None:
        """Note that a worker of this start has committed the part of a shard, without rejects."""
        self._loaded()[Part(self._run_uri, "masks", entry.bytes, shard, shard).name] = Known(entry, None)

    def entry(self, part: Part) -> PartEntry | None:
        """Return what the footer of a part says, if it is known and has no rejects."""
        found = self._loaded().get(part.name)
        return found.entry if found is not None and found.of(part) else None

    def keep(self) -> None:
        """Store what was read, for the next start; only the run's writer may call it."""
        parts = {name: [known.stamp, *astuple(known.entry)] for name, known in self._new.items()
                 if known.stamp is not None}  # fmt: skip
        if len(parts) >= _WORTH_KEEPING:
            uri = storage.join(self._folder, f"{CHECKED}{self._files:05d}")
            storage.put(uri, json.dumps({"fingerprint": self._fingerprint, "parts": parts}).encode())
            self._new.clear()
            self._files += 1

    def _loaded(self) -> dict[str, Known]:
        if self._known is None:
            files = [file for file in storage.list_files(self._folder) if file.path.startswith(CHECKED)]
            self._known, self._files = dict(self._read(file.uri for file in files)), len(files)
        return self._known

    def _read(self, uris: Iterable[str]) -> Iterable[tuple[str, Known]]:
        """Yield the entries of the files; files that cannot be parsed are skipped, so their parts are read again."""
        for uri in uris:
            try:
                said = json.loads(storage.read(uri))
                if said["fingerprint"] == self._fingerprint:
                    for name, (stamp, size, rows, sha256) in said["parts"].items():
                        yield name, Known(PartEntry(bytes=size, rows=rows, footer_sha256=sha256), stamp)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
