"""One image of a corpus: where its bytes and its label's bytes lie, and which groups it belongs to."""

from dataclasses import dataclass, field, replace

from pipeline.corpus.groups import Groups

# In the URI of a label that is made of a picture or a JSON (readers/coco.py); in the name of no file of a corpus.
MADE = "#coco_"


@dataclass(frozen=True)
class Place:
    """Where the bytes of one file lie: a whole object, a member of a zip or a tar, or a cell of a Parquet file.

    For web addresses that hold a secret see pipeline/corpus/signed.py.
    """

    uri: str
    member: str | None = None  # path inside the archive; the column of a Parquet file
    # zip: of the member's local header; tar: of its bytes; Parquet: the row. None in an archive: its own headers place the
    # member where the archive has no bytes.
    offset: int | None = None
    bytes: int = 0  # of the file as stored (compressed, inside a zip); 0 = not known before it is read
    crc32: int | None = None  # of the member's uncompressed bytes
    etag: str | None = None  # of a whole object, in a store that has them

    @property
    def values(self) -> tuple[str, str | None, int | None, int, int | None, str | None]:
        """The fields, in their order."""
        return self.uri, self.member, self.offset, self.bytes, self.crc32, self.etag

    def as_it_is(self) -> "Place":
        """The same place whatever file lies there now; a member of an archive stays the one that was listed."""
        return Place(self.uri) if self.member is None else self


@dataclass(frozen=True)
class Item:
    """One image and, where there is one, its label."""

    image_id: str  # the path inside the corpus without its suffix
    image: Place
    label: Place | None = None
    groups: Groups = field(default_factory=dict, hash=False)  # without those that have no value

    def as_it_is(self) -> "Item":
        """The same image, and label, though their files may have been mended since they were listed."""
        return replace(self, image=self.image.as_it_is(), label=self.label and self.label.as_it_is())
