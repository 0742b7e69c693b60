"""Compare an archive with the plan of a run: which images are new, replaced or gone.

The plan is held in an unnamed SQLite database, which spills to disk if it is large, so memory does not grow with it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline import storage
from pipeline.corpus import Item
from pipeline.corpus.item import Place
from pipeline.corpus.readers.coco import sources_of
from pipeline.runs.generations import CHANGES, GONE, NEW, REPLACED, generation_with
from pipeline.runs.plan import Plan

_CACHE_KB = 1 << 16
_PLACES = ("uri", "member", "bytes", "crc32", "etag")  # columns by which two files are told apart
_COLUMNS = ["image_id", "shard", *_PLACES, *(f"label_{name}" for name in _PLACES)]  # of the plan
_WITH_ETAGS = ("s3://", "s3a://", "http://", "https://")  # or without a listing
_NAMED = 3  # most images that a message names for each kind of change


@dataclass
class Changes:
    """The images that differ from the plan, in the order in which they were found."""

    rows: list[tuple[str, str, int | None, int | None]] = field(default_factory=list)  # columns of CHANGES
    images: int = 0  # in the archive now

    def count(self, change: str) -> int:
        return sum(1 for row in self.rows if row[1] == change)

    def words(self) -> str:
        """Return a summary such as `2 new (a, b), 1 replaced (c)`."""
        return ", ".join(self._words())

    def _words(self) -> Iterator[str]:
        for change in (NEW, REPLACED, GONE):
            if ids := [row[0] for row in self.rows if row[1] == change]:
                more = ", ..." if len(ids) > _NAMED else ""
                yield f"{len(ids)} {change} ({', '.join(ids[:_NAMED])}{more})"

    def table(self) -> pa.Table:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(CHANGES)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, CHANGES, strict=True)]
        return pa.Table.from_arrays(arrays, schema=CHANGES)


class Planned:
    """The plan of a run, to be compared with a new listing of its archive."""

    def __init__(
        self,
        plan: Plan,
        starts: list[int],
        moments: list[float],
        again: Iterable[str] = (),
        written: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            starts: for each generation, the number of shards in the generations before it.
            moments: for each generation, when it was planned, in seconds since 1970.
            again: ids of images that count as replaced, whatever their files are.
            written: URI -> when the file was last written, in seconds since 1970. An image without checksum and etag counts as
                replaced if its file was written after it was planned.
        """
        self._again, self._written, self._starts, self._moments = frozenset(again), written or {}, starts, moments
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in (f"cache_size = -{_CACHE_KB}", "journal_mode = off", "temp_store = file"):
            self._db.execute(f"pragma {pragma}")
        self._db.execute(f"create table planned (number integer primary key, {', '.join(_COLUMNS)})")
        number = 0
        self._db.execute("begin")
        for table in plan.tables(_COLUMNS):
            rows = _rows(table, number)
            self._db.executemany(f"insert into planned values ({', '.join('?' * (1 + len(_COLUMNS)))})", rows)
            number += table.num_rows
        self._db.execute("commit")
        self._db.execute("create index by_id on planned (image_id)")
        self._seen = bytearray(number)

    def to_answer(self, items: Iterable[Item], changes: Changes) -> Iterator[Item]:
        """Yield the new and replaced items; record them in `changes` and, after the last item, the images that are gone."""
        for item in items:
            changes.images += 1
            found = self._db.execute("select * from planned where image_id = ?", (item.image_id,)).fetchone()
            if found is None:
                changes.rows.append((item.image_id, NEW, None, None))
                yield item
                continue
            self._seen[found[0]] = 1
            generation, shard = self._place(found[2])
            if item.image_id in self._again or not self._is_same(item, found[3:], self._moments[generation - 1]):
                changes.rows.append((item.image_id, REPLACED, generation, shard))
                yield item
        for number, image_id, shard in self._db.execute("select number, image_id, shard from planned order by number"):
            if not self._seen[number]:
                changes.rows.append((image_id, GONE, *self._place(shard)))

    def _place(self, shard: int) -> tuple[int, int]:
        """Return the generation of a shard of the run, and the shard's number in that generation's plan."""
        generation = generation_with(self._starts, shard)
        return generation, shard - self._starts[generation - 1]

    def _is_same(self, item: Item, known: tuple[object, ...], since: float) -> bool:
        image, label = known[: len(_PLACES)], known[len(_PLACES) :]
        if (item.label is None) != (label[0] is None):
            return False
        if not self._is_place(item.image, image, since):
            return False
        return item.label is None or self._is_place(item.label, label, since)

    def _is_place(self, place: Place, known: tuple[object, ...], since: float) -> bool:
        """Return whether a file is the one that was planned, as far as listings tell."""
        uri, member, *figures = known
        if (place.uri, place.member) != (uri, member):
            return False
        now = (place.bytes, place.crc32, place.etag)
        if any(one != other for one, other in zip(now, figures, strict=True) if one and other):
            return False
        if place.crc32 or place.etag:
            return True
        return all(self._written.get(source, 0.0) < since for source in sources_of(place.uri))


def _rows(table: pa.Table, number: int) -> Iterator[tuple[object, ...]]:
    nothing = [None] * table.num_rows  # plans of early versions have no etags
    known = table.column_names
    columns = [table[name].to_pylist() if name in known else nothing for name in _COLUMNS]
    return ((number + row, *values) for row, values in enumerate(zip(*columns, strict=True)))


def times_written(images: str, labels: str | None) -> dict[str, float]:
    """Return URI -> when each file of a corpus without etags was last written, in seconds since 1970.

    Listings of disks, of Google's and of Azure's stores have no etags, so a file of the same size could not be told from the
    planned one.
    """
    found = dict[str, float]()
    for root in {images, labels or images}:
        if root.startswith(_WITH_ETAGS):
            continue
        if storage.is_dir(root):
            found |= {file.uri: file.modified or 0.0 for file in storage.scan(root)}
        elif storage.is_file(root):  # an archive or a table; what lies beside it is not listed
            found[root] = storage.modified(root) or 0.0
    return found
