"""What every config section is made of."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline import storage

Uri = Annotated[str, Field(min_length=1), AfterValidator(storage.absolute)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]  # (height, width), pixels
Precision = Literal["fp32", "bf16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
