"""Reading what earlier stages wrote: a missing or incomplete file becomes one sentence that names the stage to run."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import artifacts

if TYPE_CHECKING:
    from numpy.typing import NDArray


def existing(path: Path, stage: str) -> Path:
    """`path` itself. Raises ValueError if it is not a file: `stage` is the DVC stage that writes it."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run: dvc repro {stage}")
    return path


def open_array(path: Path, stage: str) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped. Raises ValueError if it is missing, empty, cut off or no such file."""
    try:
        return artifacts.read_array(existing(path, stage))
    except (ValueError, EOFError) as error:
        if not path.is_file():
            raise
        raise ValueError(f"{path} is damaged ({error}); run: dvc repro -f {stage}") from None


def _again(stage: str) -> str:
    """The command that writes a damaged file again; a file outside of the pipeline has no stage."""
    return f"dvc repro -f {stage}" if stage else "dvc repro"


@dataclass(frozen=True)
class Source:
    """One JSON file that the DVC stage `stage` writes; dotted keys lead into nested mappings."""

    path: Path
    stage: str
    values: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, stage: str) -> Source:
        try:
            values = json.loads(existing(path, stage).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not JSON ({error}); run: {_again(stage)}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds {type(values).__name__}, not a mapping; run: {_again(stage)}")
        return cls(path, stage, values)

    def get(self, key: str) -> Any:
        """The value at the dotted `key`. Raises ValueError if there is none."""
        found: Any = self.values
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise ValueError(f"{self.path} has no {key}; run: {_again(self.stage)}")
            found = found[part]
        return found

    def number(self, key: str) -> float:
        """The finite number at `key` (an int stays an int). Raises ValueError for anything else."""
        found = self.get(key)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise ValueError(f"{self.path} has {key}: {found!r}, which is not a finite number; run: dvc repro -f {self.stage}")
        return found

    def interval(self, key: str) -> tuple[float, float]:
        """The pair [low, high] at `key`."""
        found = self.get(key)
        if not isinstance(found, list) or len(found) != 2 or not found[0] <= found[1]:
            raise ValueError(f"{self.path} has {key}: {found!r}, which is not [low, high]; run: dvc repro -f {self.stage}")
        return found[0], found[1]


def columns(path: Path, stage: str, x: str) -> dict[str, list[tuple[float, float]]]:
    """A CSV curve as name -> [(x, y), ...]; an empty cell is no point (some are measured rarely).

    Columns that are not numbers are left out. Raises ValueError if the file is missing, has no column `x` or no rows.
    """
    with existing(path, stage).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        rows = list(reader)
    if x not in names or not rows:
        raise ValueError(f"{path} has no column {x!r} with values; run: dvc repro -f {stage}")
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        try:
            curves[name] = [(float(row[x]), float(row[name])) for row in rows if row[name]]
        except ValueError:
            continue
    curves.pop(x, None)
    return curves


def training_curve(path: Path, stage: str) -> dict[str, list[tuple[float, float]]]:
    """A training curve as name -> [(step, value), ...], in the file's order; a name is <quantity>, or valid/<quantity>.

    The file has one line per step, split (train or valid) and quantity. Raises ValueError if it is missing, has other
    columns, no rows, another split, or a step or value that is not a number.
    """
    with existing(path, stage).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        rows = list(reader)
    if header != ["step", "split", "quantity", "value"]:
        raise ValueError(f"{path} begins with {header}, not with step,split,quantity,value; run: dvc repro -f {stage}")
    if not rows:
        raise ValueError(f"{path} has no rows; run: dvc repro -f {stage}")
    curve: dict[str, list[tuple[float, float]]] = {}
    for line, row in enumerate(rows, start=2):
        if row["split"] not in ("train", "valid"):
            raise ValueError(f"{path}, line {line}: split is {row['split']!r}, not train or valid; run: dvc repro -f {stage}")
        name = ("valid/" if row["split"] == "valid" else "") + row["quantity"]
        try:
            curve.setdefault(name, []).append((float(row["step"]), float(row["value"])))
        except (TypeError, ValueError):
            raise ValueError(
                f"{path}, line {line}: step is {row['step']!r} and value {row['value']!r}, which must be numbers; "
                f"run: dvc repro -f {stage}"
            ) from None
    return curve
