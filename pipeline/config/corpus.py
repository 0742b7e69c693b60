"""The location of a corpus, its layout and its splits."""

from typing import Any

from pydantic import Field, model_validator

from pipeline.config.base import Section, Uri
from pipeline.errors import UserError

_SPLIT_KEYS = ("lists", "fractions", "groups", "seed", "by")


class SplitsConfig(Section):
    """The split of each image, if the layout does not give one or you want another: by lists, fractions or groups."""

    lists: dict[str, Uri] | None = None
    """Split -> a text file with one image per line: its id, or its path with or without suffix. An image in no list is in no
    split. `splits: {train: train.txt, val: val.txt}` is the short form."""
    fractions: dict[str, float] | None = None
    """Split -> its share of the images, 0 to 1. The shares sum to at most 1; the remaining images are in no split."""
    groups: dict[str, tuple[str | int, ...]] | None = Field(None, exclude_if=lambda value: value is None)
    """Split -> values of the group column `by`, such as `{by: sequence, groups: {train: [0006R0, 0016E5], val: [0001TP]}}`, to
    test a network in places that it has never seen. An image of another group is in no split."""
    seed: int = 0
    """Seed of the hash that assigns images to `fractions`. An image keeps its split when others are added."""
    by: str | None = None
    """The group column of `groups`. With `fractions`, a column whose groups are kept together, such as `sequence`; absent =
    each image is assigned separately."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, values: Any) -> Any:
        if isinstance(values, dict) and values and not values.keys() & set(_SPLIT_KEYS):
            return {"lists": values}
        return values

    @model_validator(mode="after")
    def _one_way(self) -> "SplitsConfig":
        if sum(way is not None for way in (self.lists, self.fractions, self.groups)) != 1:
            raise UserError(
                "splits are given by lists, e.g. {train: train.txt, val: val.txt}, or by fractions, e.g. "
                "{fractions: {train: 0.8, val: 0.2}}, or by groups, e.g. {by: city, groups: {train: [ulm], val: [bonn]}}: "
                "give one of the three"
            )
        if self.groups is not None:
            self._check_groups(self.groups)
        if self.lists is not None and (self.by is not None or self.seed):
            raise UserError("splits by lists have no `by` and no `seed`: leave them out, or give fractions")
        shares = (self.fractions or {"all": 1.0}).values()
        if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
            raise UserError(
                f"splits.fractions: found {', '.join(f'{share:g}' for share in shares)}; each must be above 0, and together "
                "they are at most 1"
            )
        return self

    def _check_groups(self, groups: dict[str, tuple[str | int, ...]]) -> None:
        if self.by is None or self.seed:
            raise UserError("splits.groups needs `by`, the group column of its values, and must not have `seed`")
        values = [str(value) for of_split in groups.values() for value in of_split]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise UserError(f"splits.groups: '{twice[0]}' is listed twice; a group can be in only one split")


class CorpusConfig(Section):
    """Where images and labels are: each a prefix of files or one archive, read in place."""

    images: Uri
    """URI of the images: a folder, a prefix in an object store, a zip, a tar, or a table (CSV or Parquet); read in place."""
    labels: Uri | None = None
    """URI of the labels: a folder, a prefix, a zip, a tar, or a JSON file in COCO's form. Absent: they are in the same place as
    the images, or there are none."""
    layout: str | None = None
    """How images, labels and groups follow from the paths: a name that `maskmill check` prints, such as `cityscapes`,
    `folder`, `pairs`, `manifest`. Absent = detected from the files, and stored with the run. Naming it saves a pass over the
    listing, about 20 s of processor time per million files."""
    image_glob: str | None = None
    """Layout `pairs`: paths of the images, e.g. `images/**/*.jpg`. `*` matches within a folder, `**` across folders, and
    `{name}` matches a part of the path that becomes the group column `name`: `{split}/images/*.jpg`."""
    label_glob: str | None = None
    """Layout `pairs`: paths of the labels; the wildcards match the same parts as those of `image_glob`."""
    splits: SplitsConfig | None = Field(None, exclude_if=lambda value: value is None)
    """Which images are for training and which for validation, if the layout does not say; absent = as the layout says."""

    inventory: Uri | None = Field(None, exclude_if=lambda value: value is None)
    """URI of the `manifest.json` of an S3 Inventory report (CSV, Parquet or ORC, with size and ETag) that lists the bucket of
    images and labels; absent = the prefix itself is listed. For archives whose listing takes long: last night's report is read
    in seconds. Set `layout` too, since detecting it lists the prefix."""

    @model_validator(mode="after")
    def _globs_belong_to_pairs(self) -> "CorpusConfig":
        if (self.layout == "pairs" or self.label_glob) and self.image_glob is None:
            raise UserError(
                "layout 'pairs' needs image_glob, e.g. 'images/**/*.jpg' (and label_glob where there are labels)"
            )
        if self.layout not in (None, "pairs") and (self.image_glob or self.label_glob):
            raise UserError(f"image_glob and label_glob belong to layout 'pairs', found layout '{self.layout}'")
        return self
