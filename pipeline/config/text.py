"""The text of a parameter file to plain values, by the library with which DVC reads it: 040, no and 10:00 mean one thing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent


def read(file: Path) -> Any:
    """What the file holds, lists as tuples. Raises ValueError with one sentence if it cannot be read or is not YAML 1.2."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}); save it in that encoding") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    try:
        _refuse_aliases(file, text)
        return tuples(YAML(typ="safe").load(text))
    except DuplicateKeyError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ValueError(f"{file} is not YAML: {str(error.problem).split(' with value')[0]}{where}; keep one") from None
    except MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ValueError(f"{file} is not YAML: {error.problem or error.context}{where}") from None
    except (YAMLError, ValueError) as error:
        if str(error).startswith(str(file)):
            raise
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply to be read; allowed: blocks as in params.yaml") from None


def _refuse_aliases(file: Path, text: str) -> None:
    """DVC writes through aliases: `dvc exp run -S` on one block would change all that share it, or nothing."""
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            line = event.start_mark.line + 1
            raise ValueError(
                f"{file} has the alias *{event.anchor} in line {line}; allowed: none, as `dvc exp run -S` changes all its "
                "places at once; write the values out, or put what is shared under defaults:"
            )


def written(values: dict[str, Any]) -> str:
    """Plain values as text, mappings block by block, in the order given."""
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(values, text)
    return text.getvalue()


def tuples(value: Any) -> Any:
    """YAML has lists only; frozen configurations hold tuples, which strict mode does not make from lists."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(tuples(inner) for inner in value) if isinstance(value, list) else value
