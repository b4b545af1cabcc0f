"""Puts parts of trained runs together to one model, which samples like any other run; nothing is trained.

Which parts there are, and whether they fit, is the family's own business: pipeline/families/<family>/compose.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import plugins, schema
from pipeline.config.composed import composed_run
from pipeline.config.load import load_params, read_block
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.store.fresh import check_model


@dataclass(frozen=True)
class Paths:
    """parts: part -> folder with model.safetensors; out: gets model.safetensors and config.json."""

    parts: Mapping[str, Path]
    out: Path


def run(composed: schema.Composed, paths: Paths, key: str) -> None:
    """Writes the model of `composed`, which stands at `key` of params.yaml."""
    from pipeline.core.code import trained_by
    from pipeline.core.contracts import Trainable
    from pipeline.store import models

    saved = {part: models.load(folder) for part, folder in paths.parts.items()}
    described = {part: found.config for part, found in saved.items()}
    _on_one_version(described, composed, key)
    runs = {composed.parts[part]: read_block(schema.Run, config["run"], key) for part, config in described.items()}
    made, composition = composed_run(composed, runs, key)
    like = described[composition.trained_as]
    model = models.build(made, models.data_spec(like), key)
    assert isinstance(model, Trainable), "what runs are put together to is a model like them"
    trained = {part: found.model for part, found in saved.items() if isinstance(found.model, Trainable)}
    assert len(trained) == len(saved), "parts are runs, and runs are trained"
    plugins.composer(composed.family).put_together(model, trained)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    artifacts.write_tensors(paths.out / "model.safetensors", model.state_dict())
    artifacts.write_json(
        paths.out / "config.json",
        {
            "run": made.model_dump(mode="json"),
            "data": like["data"],
            "parameters": parameters,
            "code": trained_by(composed.family),
            "precision": like["precision"],
            "clipped": {group: described[part]["clipped"][there] for group, (part, there) in composition.origins.items()},
            "valid": {
                name: value
                for group, (part, there) in composition.origins.items()
                for name, value in _valid(described[part], there, group).items()
            },
            **{part: {"run": composed.parts[part], "weights": found.hash} for part, found in saved.items()},
        },
    )
    origins = ", ".join(f"{part} of runs.{name}" for part, name in composed.parts.items())
    print(f"{key}: a model of family {composed.family} with {parameters} parameters, {origins}", flush=True)


def _on_one_version(described: Mapping[str, Mapping[str, Any]], composed: schema.Composed, key: str) -> None:
    """Raises ValueError where parts were trained on different versions of the data."""
    versions = {composed.parts[part]: config["data"]["hash"] for part, config in described.items()}
    first, *others = versions
    for other in others:
        if versions[other] != versions[first]:
            raise ValueError(
                f"{key} joins runs.{first}, trained on data {versions[first][:8]}, and runs.{other}, trained on data "
                f"{versions[other][:8]}; allowed: one version of the data; run: dvc repro"
            )


def _valid(described: Mapping[str, Any], group: str, name: str) -> dict[str, float]:
    """A group's validation losses under the name that it has here."""
    prefix = f"valid/{group}/"
    return {
        f"valid/{name}/{part.removeprefix(prefix)}": value
        for part, value in described["valid"].items()
        if part.startswith(prefix)
    }


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("name", help="a name under composed:")
    args = parser.parse_args(argv)

    def work() -> None:
        params = load_params(args.params)
        composed = command.choose(params.composed, args.name, "composed")
        for name in composed.parts.values():
            check_model(params, "runs", name, Layout().root)
        parts = {part: Layout().run(name) for part, name in composed.parts.items()}
        command.writable(Layout().run(args.name))
        run(composed, Paths(parts, Layout().run(args.name)), f"composed.{args.name}")

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
