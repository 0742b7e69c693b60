"""Where a corpus lies."""

from typing import Literal

from pydantic import model_validator

from pipeline.config.base import Section, Uri
from pipeline.errors import UserError


class CorpusConfig(Section):
    """Where images and labels lie: each a prefix of files or one zip, read in place."""

    images: Uri
    """URI of the images: a folder, a prefix in an object store, a zip, a tar, or a table; read in place."""
    labels: Uri | None = None
    """URI of the labels. Absent: they lie in the same place as the images, or there are none."""
    layout: Literal["cityscapes", "camvid", "pairs", "manifest", "parquet"]
    """How the files are named and which label belongs to which image. `pairs`: two globs; `manifest`: a CSV or Parquet
    file of URIs; `parquet`: files that hold the image bytes."""
    image_glob: str | None = None
    """Pattern of the images' paths, such as images/**/*.jpg; layout `pairs` only."""
    label_glob: str | None = None
    """Pattern of the labels' paths, such as labels/**/*.png; layout `pairs` only."""

    @model_validator(mode="after")
    def _globs_belong_to_pairs(self) -> "CorpusConfig":
        if self.layout == "pairs" and self.image_glob is None:
            raise UserError(
                "layout 'pairs' needs image_glob, e.g. 'images/**/*.jpg' (and label_glob where there are labels)"
            )
        if self.layout != "pairs" and (self.image_glob or self.label_glob):
            raise UserError(f"image_glob and label_glob belong to layout 'pairs', found layout '{self.layout}'")
        return self
