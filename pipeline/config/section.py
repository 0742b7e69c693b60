"""What every config section is made of."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline import storage
from pipeline.errors import UserError


def located(uri: str) -> str:
    """What is written into the run's folder and every message, so it may not hold a secret."""
    if storage.without_secrets(uri) != uri:
        raise UserError(
            f"'{storage.without_secrets(uri)}' is given with a user, a password or a query; credentials never stand in a "
            "config: name it without, and files that need a signature in a manifest"
        )
    return storage.absolute(uri)


Uri = Annotated[str, Field(min_length=1), AfterValidator(located)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]  # (height, width), pixels
Precision = Literal["fp32", "bf16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
