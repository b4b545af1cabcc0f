"""What params.yaml may name and is found in a folder: families, data sets, samplers, metrics, studies. No list is kept by hand.

A plug-in is a module with a `Config`, the pydantic type that reads its block: pipeline/families/<name>/model.py, and
pipeline/<room>/<name>.py for datasets, samplers, metrics and studies. Modules beside them without a `Config` are their helpers.
pipeline/families/<name>/compose.py beside a model puts it together from trained runs.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.core.contracts import Composer

PIPELINE = Path(__file__).parents[1]
_HAS_CONFIG = re.compile(r"^(class Config\b|Config\b.*=)", re.MULTILINE)


def names(room: str) -> list[str]:
    """The plug-ins of pipeline/<room>, sorted. Reads their text only: nothing is imported."""
    modules = [*(PIPELINE / room).glob("*.py"), *(PIPELINE / room).glob("*/model.py")]
    found = [file for file in modules if _HAS_CONFIG.search(file.read_text(encoding="utf-8"))]
    return sorted(file.parent.name if file.name == "model.py" else file.stem for file in found)


def module_name(room: str, name: str) -> str:
    """The dotted name of the module behind `name`, one of `names(room)`."""
    return f"pipeline.{room}.{name}.model" if (PIPELINE / room / name).is_dir() else f"pipeline.{room}.{name}"


def module(room: str, name: str) -> Any:
    """The module behind `name`, imported. `name` is one of `names(room)`."""
    return importlib.import_module(module_name(room, name))


def family(name: str) -> Any:
    """pipeline/families/<name>/model.py: `Config`, `Model`, `build(cfg, spec)`."""
    return module("families", name)


def families_with(role: type) -> list[str]:
    """The families whose models have a role of core/contracts.py. Imports all of them."""
    return [name for name in names("families") if issubclass(family(name).Model, role)]


def composable() -> list[str]:
    """The families whose models can be put together from trained runs. Nothing is imported."""
    return [name for name in names("families") if (PIPELINE / "families" / name / "compose.py").is_file()]


def composer(name: str) -> Composer:
    """pipeline/families/<name>/compose.py, imported. `name` is one of `composable()`."""
    found: Composer = importlib.import_module(f"pipeline.families.{name}.compose")
    return found


def dataset(name: str) -> Any:
    """pipeline/datasets/<name>.py: `Config`, `load(cfg)`."""
    return module("datasets", name)
