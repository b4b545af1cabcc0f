"""docs/parameters.md, written from the types that read params.yaml, so that it cannot say anything else than they do.

`make docs` writes it; a test compares the file with what is generated.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config import plugins
from pipeline.config.base import Name, StrictConfig
from pipeline.config.schema import Params
from pipeline.core import artifacts

FILE = Path(__file__).parents[2] / "docs" / "parameters.md"
NAME = next(part.pattern for field in get_args(Name)[1:] for part in field.metadata if hasattr(part, "pattern"))
# A room of plug-ins: the word in headings, and what it holds.
ROOMS = {
    "families": (
        "family",
        "`family:` of an extractor, a codec or a run names one of these; its `model:` block has these keys.",
    ),
    "samplers": ("sampler", "`sampler.kind` of a sample names one of these."),
    "datasets": ("data set", "`data.kind` names one of these; `data.source` has these keys."),
    "studies": ("study", "`kind:` of a study names one of these."),
    "metrics": ("metric", "Every one is measured; `evaluate.metrics.<metric>` holds the settings of those that have some."),
}
INTRODUCTION = """# params.yaml, key by key

Written by `make docs` from the types that read the file (`pipeline/config/schema.py` and the `Config` of every plug-in); do not
edit it by hand.

- **Strict.** An unknown key, a misspelt name or a value of another type ends in one sentence before any stage works
  (`python -m pipeline.check`). `"3"` is no number and `yes` no truth value: YAML 1.2, by the library that DVC reads with.
- **No aliases.** `dvc exp run -S` writes through them. What blocks share stands under `defaults:`, whose `training` is put
  under the training of every extractor, codec and run, and whose `bound` under every bound; a block's own values stand above.
- **Names** of entries are lower-case letters, digits and hyphens, and differ over extractors, codecs, runs and composed.
- "Required" means that the value stands in params.yaml, in the block itself or under `defaults:`.
"""


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def generate() -> str:
    """The whole file."""
    rooms = {room: plugins.names(room) for room in ROOMS if plugins.names(room)}
    heads: dict[type[BaseModel], str] = {}
    for room, names in rooms.items():
        for name in names:
            for block in _blocks(plugins.module(room, name).Config):
                heads.setdefault(block, f"{ROOMS[room][0]} `{name}`")
    waiting: list[type[BaseModel]] = [Params, *heads]
    parts: list[type[BaseModel]] = []  # what blocks hold, in the order in which they are met
    while waiting:
        for inner in _inside(waiting.pop(0)):
            if inner not in heads:
                heads[inner] = heading(inner)
                waiting.append(inner)
                parts.append(inner)
    top = [block for block in parts if block.__module__ == Params.__module__]
    lines = [INTRODUCTION, "## Blocks", "", *table(Params, heads), ""]
    for block in top:
        lines += _section(block, heads)
    for room, names in rooms.items():
        lines += [f"## {room.capitalize()}", "", ROOMS[room][1], ""]
        for name in names:
            module = plugins.module(room, name)
            summary = (inspect.getdoc(module) or "").split("\n\n")[0]
            for index, block in enumerate(_blocks(module.Config)):
                lines += _section(block, heads, summary if index == 0 else None)
    lines += ["## Parts of models", "", "Schedules, networks and objectives that the blocks above hold, chosen by `kind`.", ""]
    for block in parts:
        if block not in top:
            lines += _section(block, heads)
    return "\n".join(lines).rstrip() + "\n"


def words(block: type[BaseModel], summary: str | None = None) -> list[str]:
    """The docstrings that explain the keys of a block, after `summary`: its own, and those of bases that add keys."""
    found = [summary] if summary else []
    for kind in block.__mro__[: block.__mro__.index(StrictConfig)]:
        adds = kind is block or not set(inspect.get_annotations(kind)).isdisjoint(block.model_fields)
        if kind.__doc__ and adds:
            found.append(inspect.cleandoc(kind.__doc__))
    return found


def _section(block: type[BaseModel], heads: dict[type[BaseModel], str], summary: str | None = None) -> list[str]:
    described = [line for text in words(block, summary) for line in [*_escaped(text).splitlines(), ""]]
    return [f"### {heads[block]}", "", *described, *table(block, heads), ""]


def table(block: type[BaseModel], heads: dict[type[BaseModel], str]) -> list[str]:
    rows = []
    for name, field in block.model_fields.items():
        allowed = _said(field.annotation, field.metadata, heads).replace("|", "\\|")
        rows.append(f"| `{field.alias or name}` | {allowed} | {_default(field)} |")
    return ["| key | allowed | default |", "|---|---|---|", *rows] if rows else ["It has no keys."]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return f"`{json.dumps(value.model_dump(mode='json'))}`"
    return f"`{json.dumps(value)}`"


def _said(kind: Any, metadata: list[Any], heads: dict[type[BaseModel], str]) -> str:
    """A type of a key in words, with the range that its metadata give."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _said(inner[0], [*_constraints(inner[1:]), *metadata], heads)
    if origin in (Union, types.UnionType):
        empty = type(None) in inner
        members = [member for member in inner if member is not type(None)]
        said = " or ".join(_said(member, metadata, heads) for member in members)
        return f"{said}, or null" if empty else said
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list: {_said(inner[0], [], heads)}"
        return f"list of {len(inner)}: {_said(inner[0], [], heads)}"
    if origin is dict:
        return f"mapping of names: {_said(inner[1], [], heads)}" if inner[1] is not Any else "mapping, read by the plug-in"
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        return f"[{_kind(kind) or kind.__name__}](#{slug(heads[kind])})"
    if any(getattr(part, "pattern", None) == NAME for part in metadata):
        return "name"
    word = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", Any: "anything"}[kind]
    return " ".join([word, *_ranges(metadata)])


def heading(block: type[BaseModel]) -> str:
    """The class, its kind, and the family where a family has it for itself."""
    tag, place = _kind(block), block.__module__.split(".")
    kind = f": `kind: {tag}`" if tag else ""
    return f"{block.__name__}{kind}{f' ({place[2]})' if place[1] == 'families' else ''}"


def _kind(block: type[BaseModel]) -> str | None:
    """What `kind` says of this member of a union; None for a block that is no member of one."""
    field = block.model_fields.get("kind")
    tags = get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()
    return str(tags[0]) if len(tags) == 1 else None


def _escaped(text: str) -> str:
    """A docstring as Markdown shows it letter by letter: what stands between backticks is left alone."""
    parts = text.split("`")
    return "`".join(
        part.replace("*", r"\*").replace("<", r"\<") if index % 2 == 0 else part for index, part in enumerate(parts)
    )


def _constraints(metadata: tuple[Any, ...]) -> list[Any]:
    return [part for held in metadata for part in (held.metadata if isinstance(held, FieldInfo) else [held])]


def _ranges(metadata: list[Any]) -> Iterator[str]:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [f"{signs[key]} {_number(getattr(part, key))}" for part in metadata for key in signs if hasattr(part, key)]
    if found:
        yield " and ".join(found)
    for part in metadata:
        if getattr(part, "pattern", None):
            yield f"matching `{part.pattern}`"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _blocks(kind: Any) -> list[type[BaseModel]]:
    """The classes of a Config, which may be a union."""
    if inspect.isclass(kind):
        return [kind] if issubclass(kind, BaseModel) else []
    return [block for inner in get_args(kind) if not isinstance(inner, FieldInfo) for block in _blocks(inner)]


def _inside(block: type[BaseModel]) -> list[type[BaseModel]]:
    return [inner for field in block.model_fields.values() for inner in _nested(field.annotation)]


def _nested(kind: Any) -> list[type[BaseModel]]:
    if inspect.isclass(kind) and not get_args(kind):
        return [kind] if issubclass(kind, BaseModel) else []
    return [block for inner in get_args(kind) for block in _nested(inner)]


if __name__ == "__main__":
    artifacts.write_text(FILE, generate())
