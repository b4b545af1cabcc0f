"""Puts a denoiser and a generator of two trained runs together to one DAED model, which samples like any other run.

The denoiser comes from a `daed` run, the generator from a `daed` or a `ddpm` run on the same data. The generator's chain is cut
off at its level nearest to the noise that the denoiser was trained on; nothing is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import schema
from pipeline.config.load import load_params, read_block
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.families.daed.compose import compose


@dataclass(frozen=True)
class Paths:
    """denoiser, generator: folders with model.safetensors; out: gets model.safetensors and config.json."""

    denoiser: Path
    generator: Path
    out: Path


def run(parts: schema.Composed, paths: Paths, key: str) -> None:
    """Writes the model of `parts`. `key`: where it stands in params.yaml, for messages."""
    from pipeline.core.code import trained_by
    from pipeline.store import models

    denoiser, generator = models.load(paths.denoiser), models.load(paths.generator)
    versions = [half.config["data"]["hash"] for half in (denoiser, generator)]
    if versions[0] != versions[1]:
        raise ValueError(
            f"{key} joins runs.{parts.denoiser}, trained on data {versions[0][:8]}, and runs.{parts.generator}, trained on "
            f"data {versions[1][:8]}; allowed: one version of the data; run: dvc repro"
        )
    ours, theirs = (read_block(schema.Run, half.config["run"], key) for half in (denoiser, generator))
    made_of_both = compose(parts, ours, theirs, key)
    group, network = ("model", "network") if theirs.family == "ddpm" else ("generator", "generator")
    first: Any = denoiser.model
    model: Any = models.build(made_of_both, first.spec, key)
    model.denoiser.load_state_dict(first.denoiser.state_dict())
    model.generator.load_state_dict(getattr(generator.model, network).state_dict())
    artifacts.write_tensors(paths.out / "model.safetensors", model.state_dict())
    artifacts.write_json(
        paths.out / "config.json",
        {
            "run": made_of_both.model_dump(mode="json"),
            "data": generator.config["data"],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "code": trained_by("daed"),
            "precision": generator.config["precision"],
            "clipped": {
                "denoiser": denoiser.config["clipped"]["denoiser"],
                "generator": generator.config["clipped"][group],
            },
            "valid": _valid(denoiser.config, "denoiser", "denoiser") | _valid(generator.config, group, "generator"),
            "denoiser": {"run": parts.denoiser, "weights": denoiser.hash},
            "generator": {"run": parts.generator, "weights": generator.hash},
        },
    )
    print(f"{key}: {model.schedule.steps} steps, of which the first is the denoiser's", flush=True)


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
        parts = command.choose(load_params(args.params).composed, args.name, "composed")
        folders = [Layout().run(name) for name in (parts.denoiser, parts.generator, args.name)]
        run(parts, Paths(*folders), f"composed.{args.name}")

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
