"""The base of every block of params.yaml: frozen and strict."""

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """A frozen block of params.yaml in which an unknown key or a value of the wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
