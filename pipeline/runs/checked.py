"""What is known of the masks parts of a run without reading their footers again.

A start that resumes a run keeps what it read in `<run>/attempts/checked-*`, so that the next reads the footers of those parts
alone that were committed since. An entry counts for the file that it was read from: same size, and same etag or, on a disk, the
same moment of writing. Parts with rejects are not kept, their footers are needed whole.
"""

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from pipeline import storage
from pipeline.runs.info import PartEntry
from pipeline.runs.parts import Footer, Part, parts_of, read_footers

CHECKED = "checked-"  # the files' names begin so
_WORTH_KEEPING = 256  # parts; fewer are read again as fast as a file of them is written


@dataclass(frozen=True, slots=True)
class Known:
    """What the footer of a part without rejects says."""

    entry: PartEntry
    stamp: str | float | None  # of the file that was read; None: it is of a part that this start has committed

    def of(self, part: Part) -> bool:
        """Whether it is this file."""
        return self.entry.bytes == part.bytes and self.stamp in (None, part.stamp)


def entry_of(size: int, footer: Footer) -> PartEntry:
    """What `_SUCCESS.json` says of a part."""
    return PartEntry(bytes=size, rows=footer.rows, footer_sha256=footer.sha256)


class CheckedParts:
    """The masks parts of a run whose footers somebody has read and checked."""

    def __init__(self, run_uri: str, folder: str, fingerprint: str) -> None:
        self._run_uri, self._folder, self._fingerprint = run_uri, folder, fingerprint
        self._known: dict[str, Known] | None = None  # by name below the run
        self._new: dict[str, Known] = {}  # in no file yet
        self._files = 0

    def listed(self) -> list[Part]:
        """The masks parts that are there, in the order of their shards; footers are read of those that nobody has checked.

        Raises:
            UserError: a part is another run's, or cannot be read.
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
        """A worker of this start has committed the part of a shard, without rejects."""
        self._loaded()[Part(self._run_uri, "masks", entry.bytes, shard, shard).name] = Known(entry, None)

    def entry(self, part: Part) -> PartEntry | None:
        """What the footer of a part says, if it is known and has no rejects."""
        found = self._loaded().get(part.name)
        return found.entry if found is not None and found.of(part) else None

    def keep(self) -> None:
        """Write down what was read, for the next start; only for the run's writer."""
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
        """A file that cannot be read says nothing: its parts are read again."""
        for uri in uris:
            try:
                said = json.loads(storage.read(uri))
                if said["fingerprint"] == self._fingerprint:
                    for name, (stamp, size, rows, sha256) in said["parts"].items():
                        yield name, Known(PartEntry(bytes=size, rows=rows, footer_sha256=sha256), stamp)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
