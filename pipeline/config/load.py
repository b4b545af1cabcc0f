"""params.yaml -> frozen, strict types. The only reader of params.yaml.

Blocks whose meaning belongs to a module (`model:` to the family, `source:` to the data set, `sampler:` to the sampler, what a
study asks to the study) are kept as mappings by `load_params` and read by that module's own `Config`; the stage `check` reads
every one of them, so that a bad value ends before any other stage works.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.config import plugins
from pipeline.config.errors import fields_at, listed, sentence, unknown, unknown_key
from pipeline.config.family import FamilyConfig
from pipeline.config.schema import Entry, Params
from pipeline.config.text import read, tuples

# What `defaults:` may hold, and where it is put under: a role is a place in blocks of params.yaml.
ROLES: dict[str, list[tuple[str, ...]]] = {
    "training": [("extractors", "training"), ("codecs", "training"), ("runs", "training")],
    "bound": [("bounds",)],
}


def load_params(path: str | Path = "params.yaml") -> Params:
    """Reads params.yaml. Raises ValueError with one sentence: key, value, what is allowed."""
    file = Path(path).expanduser()
    if not file.exists():
        raise ValueError(f"{file} does not exist; run from the top folder of the repository, or name another file by --params")
    values = read(file)
    if not isinstance(values, dict):
        found = "nothing" if values is None else "list" if isinstance(values, tuple) else type(values).__name__
        raise ValueError(f"{file} holds {found}; allowed is a mapping with the keys {listed(fields_at(Params, ()))}")
    try:
        return Params.model_validate(with_defaults(_named(values, file)))
    except ValidationError as error:
        raise ValueError(f"{file}: {sentence(error, '', Params)}") from None


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of a parameter file with what `defaults:` says put under the blocks, whose own values stand above.

    Mappings are merged key by key. Raises ValueError for a role that there is not.
    """
    merged = {key: value for key, value in values.items() if key != "defaults"}
    defaults = values.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise ValueError(f"defaults is {defaults!r}; allowed: a mapping with the keys {listed(ROLES)}")
    for role, shared in defaults.items():
        if role not in ROLES:
            raise unknown_key(f"defaults.{role}", list(ROLES))
        for block, *below in ROLES[role]:
            entries = merged.get(block)
            if isinstance(entries, dict):
                merged[block] = {name: _below(entry, below, shared) for name, entry in entries.items()}
    return merged


def read_block(kind: Any, values: Mapping[str, Any], key: str) -> Any:
    """Reads `values`, found at `key` of params.yaml, as the pydantic type `kind`; raises a one-sentence ValueError."""
    try:
        return TypeAdapter(kind).validate_python(tuples(dict(values)))
    except ValidationError as error:
        raise ValueError(sentence(error, key, kind)) from None


def read_model(run: Entry, key: str) -> FamilyConfig:
    """The `model` block of `run`, which stands at `key` of params.yaml, as its family reads it. Imports torch.

    Raises ValueError for a block that does not read, and where `training` is null for a family that is trained or the reverse.
    """
    block: FamilyConfig = read_block(plugins.family(run.family).Config, run.model, f"{key}.model")
    if run.training is None and not block.pretrained:
        raise ValueError(f"{key}.training is null; allowed for the family {run.family}, which is trained: how to train it")
    if run.training is not None and block.pretrained:
        raise ValueError(f"{key}.training is given; allowed for the family {run.family}, whose weights come from a file: null")
    return block


def read_metrics(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By name, the settings of every metric of pipeline/metrics, from evaluate.metrics of params.yaml. Imports torch."""
    return {
        name: read_block(plugins.module("metrics", name).Config, settings.get(name, {}), f"evaluate.metrics.{name}")
        for name in plugins.names("metrics")
    }


def read_plugin(room: str, values: Mapping[str, Any], key: str) -> Any:
    """Reads a block whose `kind` names a module of pipeline/<room>, by its Config; raises a one-sentence ValueError."""
    kind, allowed = values.get("kind"), plugins.names(room)
    if kind is None:
        raise ValueError(f"{key}.kind is missing; it is required; allowed: {listed(allowed)}")
    if kind not in allowed:
        raise unknown(f"{key}.kind", str(kind), allowed)
    return read_block(plugins.module(room, kind).Config, values, key)


def _named(values: Any, file: Path, key: str = "") -> Any:
    """`values`, once every key of every mapping is found to be text: `1:` is a number in YAML."""
    if isinstance(values, dict):
        for name, inner in values.items():
            if not isinstance(name, str):
                where = f" of {key}" if key else ""
                raise ValueError(f"{file}: the key {name!r}{where} is not text; put it in quotes")
            _named(inner, file, f"{key}.{name}" if key else name)
    elif isinstance(values, tuple):
        for inner in values:
            _named(inner, file, key)
    return values


def _below(entry: Any, path: list[str], shared: Any) -> Any:
    """`entry` with `shared` under what lies at `path` in it. What is no mapping is left to the types to refuse."""
    if not path:
        if isinstance(entry, dict) and isinstance(shared, dict):
            return {**shared, **{key: _below(value, [], shared.get(key)) for key, value in entry.items()}}
        return entry
    if not isinstance(entry, dict) or path[0] not in entry:
        return entry
    return {**entry, path[0]: _below(entry[path[0]], path[1:], shared)}
