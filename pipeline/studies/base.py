"""The contract of studies: questions to one trained model that are neither samples nor a bound.

A study is one module of this folder and one block under studies: of params.yaml. The module's `Config` reads the block, refuses
what the study cannot do, measures, and says how it is shown; the stage `study` writes all of it, so that the comparison, the
page and `dvc plots` show a study whose code they never see.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.config.base import Name, StrictConfig

if TYPE_CHECKING:
    import torch

    from pipeline.config.schema import Params
    from pipeline.metrics.features import Extractor
    from pipeline.store.data import DataDirectory
    from pipeline.store.models import Saved

# Row -> its values; mappings inside are reached by dotted names, as in "optimal.bits_per_dim".
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Context:
    """What a study works with: the trained model on `device`, the data that it was trained on, and what messages begin with.

    `extractor()` opens the extractor that params.yaml names under evaluate:; a study that calls it is measured in its features.
    """

    key: str
    model: Saved
    data: DataDirectory
    device: torch.device
    extractor: Callable[[], Extractor]


@dataclass(frozen=True)
class Result:
    """rows: unrounded, each number finite; measured: what they rest on beside model, data and extractor, such as images."""

    rows: Rows
    measured: Mapping[str, Any]


@dataclass(frozen=True)
class Quantity:
    """A column of the table, and a line of the plot: the value at `key` of every row that has it.

    `name` is what is measured and `series` of what, where one quantity has several columns: the plot has a panel for each
    quantity with a line for each series. `error`: where its standard error stands; `better`: ↓ or ↑ where one of them is;
    `digits`: how many significant ones reports/studies/<study>.json keeps (2 of an error).
    """

    name: str
    key: str
    series: str = ""
    error: str | None = None
    better: str = ""
    digits: int = 5

    @property
    def heading(self) -> str:
        return f"{self.name}, {self.series}" if self.series else self.name


@dataclass(frozen=True)
class Presentation:
    """How a study is shown.

    `rows`: what the rows are, the heading of the first column; `labels`: rows that are shown otherwise than by their name, such
    as inf; `explanation`: what the numbers rest on; `caption`: what the figure shows.
    """

    title: str
    rows: str
    quantities: Sequence[Quantity]
    explanation: str
    caption: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class StudyConfig(StrictConfig):
    """A block under studies:. Its module adds `kind` as a Literal and its own values, none of them with a default."""

    kind: str
    run: Name

    def check(self, params: Params, key: str) -> None:
        """Raises ValueError with one sentence where `params` do not hold what the study at `key` needs, before any training."""

    @abstractmethod
    def measure(self, context: Context) -> Result:
        """Asks the model. Whatever is random is keyed by a seed of the block."""

    @abstractmethod
    def present(self, result: Result) -> Presentation:
        """Pure, and the same for the same result."""

    def figure(self, result: Result) -> str | None:
        """An SVG for the page, in the style of pipeline/reporting/figure.py; None: the table is enough."""
        return None


def value(row: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key of a row, or None."""
    found: Any = row
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found
