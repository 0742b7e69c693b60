"""One image of a corpus: where its bytes and its label's bytes are, and its groups."""

from dataclasses import dataclass, field, replace

from pipeline.corpus.groups import Groups

# Marks the URI of a label that is made from a picture or a JSON (readers/coco.py). No file of a corpus may have it in its name.
MADE = "#coco_"


@dataclass(frozen=True)
class Place:
    """Where the bytes of one file are: a whole object, a member of a zip or a tar, or a cell of a Parquet file.

    For web addresses that contain a secret see pipeline/corpus/signed.py.
    """

    uri: str
    member: str | None = None  # path inside the archive; the column of a Parquet file
    # In a zip the offset of the member's local header, in a tar that of its bytes, in a Parquet file the row. None for a member
    # of an archive: its headers place it outside the archive.
    offset: int | None = None
    bytes: int = 0  # size as stored (compressed, in a zip); 0 = unknown until it is read
    crc32: int | None = None  # of the member's uncompressed bytes
    etag: str | None = None  # of the whole object (not a zip, whose members have checksums), if the store has ETags

    @property
    def values(self) -> tuple[str, str | None, int | None, int, int | None, str | None]:
        """All fields, in the order of their declaration."""
        return self.uri, self.member, self.offset, self.bytes, self.crc32, self.etag

    def as_it_is(self) -> "Place":
        """Return the place without size and ETag, so that any current file is accepted; a member of an archive is kept."""
        return Place(self.uri) if self.member is None else self


@dataclass(frozen=True)
class Item:
    """One image with its label, if it has one."""

    image_id: str  # the path inside the corpus without its suffix
    image: Place
    label: Place | None = None
    groups: Groups = field(default_factory=dict, hash=False)  # without those that have no value

    def as_it_is(self) -> "Item":
        """Return the item with places that also accept files which were repaired after they were listed."""
        return replace(self, image=self.image.as_it_is(), label=self.label and self.label.as_it_is())
