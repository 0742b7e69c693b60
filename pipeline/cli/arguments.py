"""Arguments that several commands share, and the configs that they name."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # so that `maskmill --help` imports no configs, which take half a second
    from pipeline.config import SegmentConfig, TrainConfig

Config = Annotated[str, typer.Argument(help="YAML file; `maskmill init` writes one, `maskmill config` lists its keys.")]
LabelsGlob = Annotated[
    str | None, typer.Option(help="For layout pairs: which files are labels, such as labels/**/*.png")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key of the config; may be given again."),
]


def train_config(path: str, overrides: list[str] | None) -> "TrainConfig":
    """Load the config of a training."""
    from pipeline.config import TrainConfig, load

    return load(TrainConfig, path, overrides)


def segment_config(path: str, overrides: list[str] | None) -> "SegmentConfig":
    """Load the config of a segmentation."""
    from pipeline.config import SegmentConfig, load

    return load(SegmentConfig, path, overrides)
