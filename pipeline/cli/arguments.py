"""Arguments that several commands share, and the configs that they name."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UserError

if TYPE_CHECKING:  # so that `maskmill --help` imports no configs, which take half a second
    from pipeline.config import ImageConfig, SegmentConfig, TrainConfig

Bands = Annotated[
    str | None,
    typer.Option(help="For images of more than 8 bits or three bands: the bands to use, e.g. 4,3,2. Needs --range."),
]
Config = Annotated[str, typer.Argument(help="YAML file; `maskmill init` writes one, `maskmill config` lists its keys.")]
LabelsGlob = Annotated[
    str | None, typer.Option(help="For layout pairs: which files are labels, such as labels/**/*.png")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key of the config; may be given again."),
]
ValueRange = Annotated[
    str | None, typer.Option("--range", help="With --bands: the values that become black and white, e.g. 0,4095.")
]


def declared_image(bands: str | None, value_range: str | None, command: str) -> "ImageConfig | None":
    """Parse --bands and --range, which say what the images' values mean; UserError if one is missing or no list of numbers."""
    if bands is None and value_range is None:
        return None
    if bands is None or value_range is None:
        raise UserError(
            f"{command}: --bands and --range belong together, such as --bands 4,3,2 --range 0,4095; give both"
        )
    from pipeline.config import ImageConfig, parse
    from pipeline.config.loading import value_of

    values = {"bands": value_of(f"[{bands}]"), "range": value_of(f"[{value_range}]")}
    return parse(ImageConfig, values, where=f"{command}, --bands and --range")


def train_config(path: str, overrides: list[str] | None) -> "TrainConfig":
    """Load the config of a training."""
    from pipeline.config import TrainConfig, load

    return load(TrainConfig, path, overrides)


def segment_config(path: str, overrides: list[str] | None) -> "SegmentConfig":
    """Load the config of a segmentation."""
    from pipeline.config import SegmentConfig, load

    return load(SegmentConfig, path, overrides)
