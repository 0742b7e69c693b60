"""A search over keys of a training config."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.config.base import Section
from pipeline.config.loading import parse
from pipeline.config.train import TrainConfig, open_tree
from pipeline.errors import UserError

Range = tuple[float, float]


class AxisConfig(Section):
    """The values that one key may take: set exactly one of the four."""

    grid: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Values that are all tried."""
    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Values from which each trial draws one at random."""
    uniform: Range | None = None
    """Lowest and highest number; each trial draws one between them at random."""
    loguniform: Range | None = None
    """Like `uniform`, but the logarithm is drawn uniformly, as is usual for learning rates."""

    @model_validator(mode="after")
    def _one_is_given(self) -> "AxisConfig":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(f"give one of grid, choice, uniform and loguniform, found {', '.join(given) or 'none'}")
        low, high = self.uniform or self.loguniform or (1, 2)
        if not low < high or (self.loguniform and low <= 0):
            raise UserError(
                f"found the range {low}..{high}; the first number must be below the second, and above 0 for loguniform"
            )
        return self

    def first(self) -> Any:
        """Return one value of the axis."""
        values = self.grid or self.choice or self.uniform or self.loguniform
        assert values is not None
        return values[0]


class TuneConfig(Section):
    """A search: the keys to vary and the number of random draws."""

    space: Annotated[dict[str, AxisConfig], Field(min_length=1)]
    """Key of the training config, such as `optimizer.lr` -> the values that it may take."""
    num_samples: int = Field(1, ge=1)
    """[trials] Random draws at each point of the grid."""
    at_once: int | None = Field(None, ge=1)
    """[trials] Trials that run in parallel. Absent: as many as the cluster can hold."""
    seed: int = Field(0, ge=0)
    """Seed of the random draws: the same seed and space give the same trials."""

    @property
    def num_trials(self) -> int:
        grids = [len(axis.grid) for axis in self.space.values() if axis.grid is not None]
        total = self.num_samples
        for size in grids:
            total *= size
        return total


def with_values(cfg: TrainConfig, values: dict[str, Any], where: str) -> TrainConfig:
    """Return the config with new values for keys such as `optimizer.lr`.

    Raises:
        UserError: a key does not exist, or its value is not allowed.
    """
    tree = open_tree(cfg)
    for key, value in values.items():
        *parents, leaf = key.split(".")
        branch: Any = tree
        for parent in parents:
            branch = branch.get(parent) if isinstance(branch, dict) else None
        if not isinstance(branch, dict):
            raise UserError(f"{where}: {key}: {'.'.join(parents)} is not a section of the config; use keys as in --set")
        branch[leaf] = value
    return parse(TrainConfig, tree, where=where)
