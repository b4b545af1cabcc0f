"""The members of a union of blocks that is told apart by `kind`, so that tests cover a new member without being edited."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin


def members(union: Any) -> list[Any]:
    """The classes of `Annotated[A | B, ...]`, of `A | B`, or of a lone `A`."""
    inner = get_args(union)[0] if get_origin(union) is Annotated else union
    return list(get_args(inner)) or [inner]


def kind(block: Any) -> str:
    """What `kind` must be for this class."""
    return str(get_args(block.model_fields["kind"].annotation)[0])


def default(block: Any, **values: Any) -> Any:
    """The block with its defaults but for `values`."""
    return block(kind=kind(block), **values)
