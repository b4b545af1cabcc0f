"""Parameter files with a mistake in them, and what the stage `check` says of one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import check

REPOSITORY = Path(__file__).parents[2]
PROFILE = REPOSITORY / "tests" / "profiles" / "tiny.yaml"
ABSENT = object()


def write(folder: Path, values: Any) -> Path:
    file = folder / "params.yaml"
    text = values if isinstance(values, str) else yaml.dump(values, Dumper=_NoAliases)
    file.write_text(text, encoding="utf-8")
    return file


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def changed(values: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """`values` with `value` at the dotted key `where`; ABSENT takes the key away."""
    made = copy.deepcopy(values)
    *way, last = where.split(".")
    node = made
    for key in way:
        node = node[key]
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    return made


def tiny_values() -> dict[str, Any]:
    """The tiny profile."""
    values: dict[str, Any] = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    return values


def refusal(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `python -m pipeline.check` says on stderr: one line, exit status 2, no output file."""
    assert check.main(["--params", str(file), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    assert "pydantic" not in said.err
    assert not out.exists()
    return said.err
