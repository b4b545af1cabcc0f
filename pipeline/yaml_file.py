"""YAML as DVC reads it (version 1.2): duplicate keys are errors, 1e-3 is a number, and lists become tuples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


def read(file: Path) -> Any:
    """What the file holds. Raises ValueError with one sentence if it is not YAML."""
    try:
        return tuples(yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader))  # a SafeLoader, see below
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.1, which PyYAML reads, takes 1e-3 for text, and the last of two equal keys without a word."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    own = [loader.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # type: ignore[no-untyped-call]
    for key in own:
        if own.count(key) > 1:
            raise yaml.YAMLError(f"the key {key!r} stands twice in line {node.start_mark.line + 1} and after; keep one")
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def tuples(value: Any) -> Any:
    """YAML has lists only; frozen configurations hold tuples, which strict mode does not make from lists."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(tuples(inner) for inner in value) if isinstance(value, list) else value
