"""The run that an entry of composed: comes to.

All of it follows from params.yaml, so that parts that do not fit are refused before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.config import plugins, schema
from pipeline.config.errors import listed, unknown
from pipeline.config.load import read_model

if TYPE_CHECKING:
    from pipeline.core.contracts import Composition


def composed_run(composed: schema.Composed, runs: Mapping[str, schema.Run], key: str) -> tuple[schema.Run, Composition]:
    """The run, and where its weights come from. `runs`: by name; `key`: where `composed` stands in params.yaml.

    Raises ValueError in one sentence where the family knows no such part, where one is missing, and where parts do not fit.
    Imports torch.
    """
    from pipeline.core.contracts import Part

    composer = plugins.composer(composed.family)
    for name in composed.parts:
        if name not in composer.PARTS:
            raise unknown(f"{key}.parts", name, list(composer.PARTS))
    for name in composer.PARTS:
        if name not in composed.parts:
            raise ValueError(
                f"{key}.parts.{name} is missing; it is required, as a model of family {composed.family} is put together from "
                f"{listed(composer.PARTS)}"
            )
    parts = {part: Part(run, runs[run].family, read_model(runs[run], f"runs.{run}")) for part, run in composed.parts.items()}
    found = composer.compose(parts, key)
    like = runs[composed.parts[found.trained_as]]
    made = schema.Run(family=composed.family, data=like.data, seed=like.seed, model=dict(found.model), training=like.training)
    read_model(made, key)
    return made, found
