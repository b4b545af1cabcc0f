"""The base of every block of params.yaml: frozen and strict, and the types of values that many of them have."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Files are named after it, with words and endings added, and a file name may have 255 bytes.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class StrictConfig(BaseModel):
    """A frozen block of params.yaml in which an unknown key or a value of the wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
