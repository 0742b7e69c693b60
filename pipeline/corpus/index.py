"""Images and labels of a corpus of any size, matched and sorted: SQLite sorts and joins them on disk.

An unnamed SQLite database is kept in the page cache while it is small and in a temporary file otherwise, so memory stays below
twice `_CACHE_KB`. 10 million images take about 3 GB below `TMPDIR` while they are listed.
"""

import sqlite3
from collections.abc import Iterator

import pyarrow as pa

from pipeline.corpus.groups import GROUP_FIELDS, GROUPS, PLAN_COLUMNS, Group, added_field
from pipeline.corpus.item import Item, Place
from pipeline.errors import UserError

_CACHE_KB = 1 << 16  # of the page cache; rows that are being sorted take as much again
_BATCH = 1000  # rows per insert
_SPLIT = f"g{GROUPS.index('split')}"
_PLACE = "uri text, member text, offset integer, bytes integer, crc32 integer, etag text"
_PLACE_NAMES = ("uri", "member", "offset", "bytes", "crc32", "etag")


class Catalogue:
    """Index of a listing: add images and labels in any order, then read the items."""

    def __init__(self, uri: str, rows: bool = False) -> None:
        """Create an empty index. For messages, `uri` is the corpus and `rows` says that its images are rows of a table."""
        self._uri, self._rows = uri, rows
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in (f"cache_size = -{_CACHE_KB}", "journal_mode = off", "temp_store = file"):
            self._db.execute(f"pragma {pragma}")
        self._db.execute(f"create table images (number integer primary key, id text, {_PLACE})")
        self._db.execute(f"create table labels (id text, {_PLACE})")
        self._waiting: dict[str, list[tuple[object, ...]]] = {"images": [], "labels": []}
        self._groups: dict[str, type | None] = {}  # name -> type of its values; the n-th group is in column g<n>
        for name in GROUPS:
            self._add_group(name)

    @property
    def group_fields(self) -> tuple[pa.Field, ...]:
        """The columns of all groups of the added images, first those that every run has."""
        added = list(self._groups.items())[len(GROUPS) :]
        return *GROUP_FIELDS, *(added_field(name, kind) for name, kind in added)

    def add_image(self, item: Item) -> None:
        """Add an image, with its label if it has one."""
        for name, value in item.groups.items():
            if name not in GROUPS:
                self._check_added(name, value)
        self._add("images", (None, item.image_id, *item.image.values, *map(item.groups.get, self._groups)))
        if item.label is not None:
            self.add_label(item.image_id, item.label)

    def add_label(self, image_id: str, place: Place) -> None:
        self._add("labels", (image_id, *place.values))

    def forget_labels(self) -> None:
        """Remove all labels."""
        self._waiting["labels"].clear()
        self._db.execute("delete from labels")

    def put_into_split(self, split: str, names: list[str]) -> None:
        """Put images into a split by the last parts of their ids; names that match no image are ignored."""
        self._flush()
        self._db.execute("create temporary table if not exists listed (name text primary key)")
        self._db.execute("delete from listed")
        self._db.executemany("insert or ignore into listed values (?)", ((name,) for name in names))
        last_part = "replace(id, rtrim(id, replace(id, '/', '')), '')"  # SQLite has no function for the last part
        self._db.execute(f"update images set {_SPLIT} = ? where {last_part} in (select name from listed)", (split,))

    def splits(self) -> list[str]:
        """Return the names of all splits, sorted."""
        self._flush()
        query = f"select distinct {_SPLIT} from images where {_SPLIT} is not null order by {_SPLIT}"
        return [split for (split,) in self._db.execute(query)]

    def items(self, split: str | None, as_added: bool = False) -> Iterator[Item]:
        """Yield every image (of a split) with its label, sorted by image id or in the order in which they were added.

        Raises:
            UserError: two files have the same image id, or are labels of the same image.
        """
        self._flush()
        self._refuse_doubles("images")
        self._db.execute("create index if not exists labels_by_id on labels (id)")
        columns = ", ".join(f"images.{name}" for name in ("id", *_PLACE_NAMES))
        columns += ", " + ", ".join(f"labels.{name}" for name in _PLACE_NAMES)
        columns += ", " + ", ".join(f"images.g{number}" for number in range(len(self._groups)))
        rows = self._db.execute(
            f"select {columns} from images left join labels on labels.id = images.id "
            f"{'' if split is None else f'where {_SPLIT} = ?'} order by images.{'number' if as_added else 'id'}",
            () if split is None else (split,),
        )
        before = None
        for row in rows:
            if row[0] == before:
                self._refuse_doubles("labels", before)
            before = row[0]
            image_id, image, label = row[0], row[1:7], row[7:13]
            groups = {name: value for name, value in zip(self._groups, row[13:], strict=True) if value is not None}
            yield Item(image_id, Place(*image), None if label[0] is None else Place(*label), groups)

    def has_pair(self) -> bool:
        """Whether at least one image has a label."""
        self._flush()
        self._db.execute("create index if not exists labels_by_id on labels (id)")
        query = "select 1 from images join labels on labels.id = images.id limit 1"
        return self._db.execute(query).fetchone() is not None

    def labels_without_image(self) -> Iterator[Place]:
        """Yield the labels that have no image, sorted by id."""
        self._flush()
        query = f"select {', '.join(_PLACE_NAMES)} from labels where id not in (select id from images) order by id"
        yield from (Place(*row) for row in self._db.execute(query))

    def _add(self, table: str, row: tuple[object, ...]) -> None:
        self._waiting[table].append(row)
        if len(self._waiting[table]) == _BATCH:
            self._flush()

    def _check_added(self, name: str, value: Group) -> None:
        """Add a column for a further group if needed; UserError if its name is taken, or its values have two types."""
        if name not in self._groups:
            if name in PLAN_COLUMNS:
                raise UserError(
                    f"corpus {self._uri}: '{name}' cannot be a group, every plan has a column of that name; rename it"
                )
            self._add_group(name)
        if value is None:
            return
        known = self._groups[name]
        if known not in (None, type(value)):
            raise UserError(
                f"corpus {self._uri}: group '{name}' has text in one file and whole numbers in another; write it as one of them"
            )
        self._groups[name] = type(value)

    def _add_group(self, name: str) -> None:
        self._flush()
        self._db.execute(f"alter table images add column g{len(self._groups)}")
        self._groups[name] = None

    def _flush(self) -> None:
        for table, rows in self._waiting.items():
            if rows:
                self._db.execute("begin")
                self._db.executemany(f"insert into {table} values ({','.join('?' * len(rows[0]))})", rows)
                self._db.execute("commit")
                rows.clear()

    def _refuse_doubles(self, table: str, image_id: str | None = None) -> None:
        """Raise UserError with both names if two rows of a table have the same id (the given one, or any)."""
        if image_id is None:
            query = f"select id from {table} group by id having count(*) > 1 order by id limit 1"
            found = self._db.execute(query).fetchone()
            if found is None:
                return
            (image_id,) = found
        if self._rows:
            raise UserError(f"corpus {self._uri}: two rows have the image id '{image_id}'; give each its own image_id")
        query = f"select coalesce(member, uri) from {table} where id = ? limit 2"
        (one,), (other,) = self._db.execute(query, (image_id,))
        if one == other:
            raise UserError(f"corpus {self._uri}: '{one}' appears twice; keep one of them")
        what = "image" if table == "images" else "the label of image"
        raise UserError(f"'{one}' and '{other}' are both {what} '{image_id}'; remove or rename one of them")
