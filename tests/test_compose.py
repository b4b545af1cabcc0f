"""Combining a denoiser with a generator: by a walk by hand, and what is refused with both numbers."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import compose
from pipeline.config import plugins, schema
from pipeline.config.composed import composed_run
from pipeline.config.load import load_params, read_block
from pipeline.core import artifacts
from pipeline.core.contracts import DataSpec
from pipeline.core.layout import Layout
from pipeline.core.random import RowRandom
from pipeline.diffusion.gaussian import alpha_sigma
from pipeline.samplers.ancestral import Ancestral
from pipeline.samplers.trajectory import trajectory
from pipeline.store import models
from tests.support.blocks import filled

SPEC = DataSpec((1, 8, 8), 256, 10)
NETWORK = {"kind": "unet", "widths": [16], "embedding": 8}
WIDER = {"kind": "unet", "widths": [32], "embedding": 8}
TRAINING = {"steps": 10, "learning_rate": 0.001}
CHAIN = {"kind": "cosine-beta", "steps": 200}
COMBINED = {"kind": "linear-combine", "steps": 300, "first": {"beta": 0.1}}


def run(family: str, **model: Any) -> dict[str, Any]:
    return {"family": family, "data": "data/prepared", "model": {"network": NETWORK, **model}, "training": TRAINING}


PARAMS = filled({
    "data": {"kind": "digits"},
    "extractors": {
        "convnet": {
            "family": "classifier", "data": "data/prepared", "training": TRAINING,
            "model": {"network": {"kind": "convnet", "widths": [16], "features": 8}},
        }
    },
    "runs": {
        "ddpm": run("ddpm", schedule=CHAIN, prediction="v"),
        "hybrid": run("ddpm", schedule=CHAIN, prediction="eps", variance="learned", objective="hybrid"),
        "denoiser": run("daed", schedule=COMBINED, parts="denoiser", prediction="x", network=WIDER),
        "generator": run("daed", schedule={"kind": "merged", "of": CHAIN, "first": {"beta": 0.1}}, parts="generator"),
        "both": run("daed", schedule=COMBINED, prediction="eps"),
        "noisy": run("daed", schedule={**COMBINED, "first": {"beta": 0.3}}, parts="denoiser"),
        "clean": run("daed", schedule={**COMBINED, "first": {"logsnr": 12.0}}, parts="denoiser"),
        "labelled": run("daed", schedule=COMBINED, labels=True),
        "vdm": run("vdm", schedule={"kind": "linear-logsnr"}),
    },
    "samples": {},
    "evaluate": {"extractor": "convnet"},
})  # fmt: skip


def halves(denoiser: str, generator: str) -> schema.Composed:
    return schema.Composed(family="daed", parts={"denoiser": denoiser, "generator": generator})


def made_run(denoiser: dict[str, Any], generator: dict[str, Any]) -> schema.Run:
    """What two run blocks come to."""
    blocks = filled({"runs": {"d": denoiser, "g": generator}})["runs"]
    return composed_run(
        halves("d", "g"), {name: read_block(schema.Run, block, name) for name, block in blocks.items()}, "composed.x"
    )[0]


def checked(folder: Path, denoiser: str, generator: str) -> schema.Run:
    """What params.yaml says that two runs come to, before anything is trained."""
    read = params(folder, denoiser, generator)
    return composed_run(read.composed["both-halves"], read.runs, "composed.both-halves")[0]


def params(folder: Path, denoiser: str, generator: str) -> schema.Params:
    values = {**copy.deepcopy(PARAMS), "composed": {"both-halves": halves(denoiser, generator).model_dump()}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_params(folder / "params.yaml")


def train(folder: Path, name: str, data: str = "a" * 64) -> models.Saved:
    """As the train stage leaves a run, with random weights."""
    block = read_block(schema.Run, PARAMS["runs"][name], name)
    torch.manual_seed(hash_of(name))
    model = models.build(block, SPEC, name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    out = Layout(folder).run(name)
    artifacts.write_tensors(out / "model.safetensors", model.state_dict())
    artifacts.write_json(
        out / "config.json",
        {
            "run": block.model_dump(mode="json"),
            "data": {"shape": list(SPEC.shape), "levels": SPEC.levels, "classes": SPEC.classes, "hash": data},
            "parameters": 1, "code": "c", "precision": "float32",
            "clipped": {group: 3 + len(group) for group in model.optimizer_groups()},
            "valid": {f"valid/{group}/simple": 0.5 for group in model.optimizer_groups()},
        },
    )  # fmt: skip
    return models.load(out)


def hash_of(name: str) -> int:
    return int(artifacts.hash_json(name)[:8], 16)


def paths(folder: Path, denoiser: str, generator: str) -> compose.Paths:
    parts = {part: Layout(folder).run(name) for part, name in halves(denoiser, generator).parts.items()}
    return compose.Paths(parts, folder / "out")


def composed(folder: Path, denoiser: str, generator: str) -> tuple[models.Saved, models.Saved, models.Saved]:
    """The denoiser's run, the generator's, and what comes of them."""
    ours, theirs = train(folder, denoiser), train(folder, generator)
    compose.run(halves(denoiser, generator), paths(folder, denoiser, generator), "composed.x")
    return ours, theirs, models.load(folder / "out")


@torch.no_grad()
def test_a_ddpm_and_a_denoiser_walk_as_by_hand(tmp_path: Path) -> None:
    """The DDPM's own steps down to the level nearest to beta_1 = 0.1, then the denoiser's x_hat, told its own level."""
    ours, theirs, made = composed(tmp_path, "denoiser", "ddpm")
    model, chain = made.model, theirs.model.schedule
    alpha_bar = alpha_sigma(chain.table)[0] ** 2
    stop = int((alpha_bar - 0.9).abs().argmin())
    assert 10 < stop < 100
    assert model.schedule.steps == 200 - stop + 1

    found = list(
        trajectory(
            model, Ancestral(kind="ancestral", clip=False), (2, *SPEC.shape), 201 - stop, partial(RowRandom, 0, range(2))
        )
    )
    z = RowRandom(0, range(2), 0).normal((2, *SPEC.shape), "start")
    for step, level in enumerate(range(200, stop, -1)):
        s, t = (torch.full((2,), index / 200, dtype=torch.float64) for index in (level - 1, level))
        rng = RowRandom(0, range(2), step + 1)
        made_step = theirs.model.reverse(z, s, t, None, rng)
        z = made_step.mean + made_step.std * rng.normal((2, *SPEC.shape), "noise")
        torch.testing.assert_close(found[step + 1][0], z, rtol=1e-4, atol=1e-4)
    own = ours.model.schedule
    x = ours.model.denoiser(z, own.input(own.table[1:2]).expand(2))  # it predicts x
    torch.testing.assert_close(found[-1][0], x, rtol=1e-4, atol=1e-4)
    assert float(own.input(own.table[1:2])) == 0.0
    assert float(model.schedule.input(model.schedule.table[1:2])) > 0.2


def test_what_is_written(tmp_path: Path) -> None:
    ours, theirs, made = composed(tmp_path, "denoiser", "ddpm")
    assert set(theirs.config) < set(made.config)
    assert made.config["run"]["family"] == "daed"
    assert made.config["run"]["model"]["denoiser_network"]["widths"] == [32]
    assert made.config["data"] == theirs.config["data"]
    assert made.config["denoiser"] == {"run": "denoiser", "weights": ours.hash}
    assert made.config["generator"] == {"run": "ddpm", "weights": theirs.hash}
    assert made.config["clipped"] == {"denoiser": 11, "generator": 8}
    assert made.config["valid"] == {"valid/denoiser/simple": 0.5, "valid/generator/simple": 0.5}
    assert made.config["parameters"] == sum(p.numel() for half in (ours, theirs) for p in half.model.parameters())
    for half, name, network in ((ours, "denoiser", ours.model.denoiser), (theirs, "generator", theirs.model.network)):
        for key, value in network.state_dict().items():
            assert made.model.state_dict()[f"{name}.{key}"].equal(value), (half, key)


@pytest.mark.parametrize(
    ("denoiser", "generator", "kind"),
    [("denoiser", "generator", "merged"), ("both", "both", "linear-combine"), ("both", "hybrid", "merged"),
     ("noisy", "both", "merged"), ("denoiser", "both", "linear-combine")],
)  # fmt: skip
def test_other_pairs(denoiser: str, generator: str, kind: str, tmp_path: Path) -> None:
    """The chain is the generator's own where its first level is the denoiser's, or what is left of it above."""
    _, theirs, made = composed(tmp_path, denoiser, generator)
    assert checked(tmp_path, denoiser, generator).model_dump(mode="json") == made.config["run"]
    assert made.config["run"]["model"]["schedule"]["kind"] == kind
    table, whole = made.model.schedule.table, theirs.model.schedule.table
    assert table[1:].equal(whole[-len(table) + 1 :])
    level = whole[-len(table) + 1 :]
    assert made.model.schedule.input(level).equal(theirs.model.schedule.input(level))
    beta_1 = 0.3 if denoiser == "noisy" else 0.1
    assert made.model.schedule.beta_1 == pytest.approx(beta_1, rel=0.06)


REFUSED = {
    ("clean", "ddpm"): "joins a denoiser (runs.clean) of log-SNR 12 and a generator (runs.ddpm) whose nearest level has 8.",
    ("denoiser", "noisy"): "generator is 'noisy', which trains a denoiser alone; allowed: a run with parts: both or generator",
    (
        "generator",
        "ddpm",
    ): "denoiser is 'generator', which trains a generator alone; allowed: a run with parts: both or denoiser",
    ("ddpm", "ddpm"): "denoiser is 'ddpm' of family ddpm, which has no denoiser; allowed: a run of family daed",
    ("both", "vdm"): "generator is 'vdm' of family vdm, which has no generator; allowed: a run of family daed or ddpm",
    ("labelled", "ddpm"): "joins runs.labelled, whose labels is True, and runs.ddpm, whose labels is False",
}


@pytest.mark.parametrize("pair", REFUSED)
def test_pairs_that_do_not_fit_are_refused_before_and_after_training(pair: tuple[str, str], tmp_path: Path) -> None:
    said = []
    with pytest.raises(ValueError) as error:
        checked(tmp_path, *pair)
    said.append(str(error.value).replace("both-halves", "x"))
    with pytest.raises(ValueError) as error:
        composed(tmp_path, *pair)
    said.append(str(error.value))
    assert REFUSED[pair] in said[0]
    assert said[0] == said[1]
    assert said[0].startswith("composed.x")
    assert not (tmp_path / "out").exists()


def test_a_generator_never_makes_levels_that_it_was_not_trained_for(tmp_path: Path) -> None:
    """A denoiser of less noise than the generator's lowest level: refused, though a DDPM of that chain would do."""
    low = run("daed", schedule={**COMBINED, "first": {"logsnr": 4.0}}, parts="denoiser")
    with pytest.raises(ValueError, match=r"log-SNR 4 and .* nearest level has 2.1"):
        made_run(low, PARAMS["runs"]["generator"])
    made = made_run(low, PARAMS["runs"]["ddpm"])
    assert made.model["schedule"]["first"]["logsnr"] == pytest.approx(4.0, abs=0.1)


def test_any_level_but_the_last_is_one_to_stop_at() -> None:
    """A step must be left to the generator; the first and the second level differ by one step."""
    ddpm = read_block(schema.Run, PARAMS["runs"]["ddpm"], "ddpm")
    table = models.build(ddpm, SPEC, "ddpm").schedule.table
    for level, steps in ((1, 200), (2, 199), (199, 2)):
        first = {"logsnr": -float(table[level])}
        denoiser = run("daed", schedule={**COMBINED, "first": first}, parts="denoiser")
        made = made_run(denoiser, PARAMS["runs"]["ddpm"])
        assert models.build(made, SPEC, "x").schedule.table[1:].equal(table[level:]), level
        assert models.build(made, SPEC, "x").schedule.steps == steps
    denoiser = run("daed", schedule={**COMBINED, "first": {"logsnr": -float(table[200])}}, parts="denoiser")
    with pytest.raises(ValueError, match=r"log-SNR -16.62 and .* nearest level has -9.709"):
        made_run(denoiser, PARAMS["runs"]["ddpm"])


def test_other_data_are_refused(tmp_path: Path) -> None:
    train(tmp_path, "denoiser"), train(tmp_path, "ddpm", "b" * 64)
    with pytest.raises(ValueError, match=r"trained on data aaaaaaaa, and runs.ddpm, trained on data bbbbbbbb"):
        compose.run(halves("denoiser", "ddpm"), paths(tmp_path, "denoiser", "ddpm"), "composed.x")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    params(tmp_path, "denoiser", "ddpm")
    monkeypatch.chdir(tmp_path)
    assert compose.main(["both-halves"]) == 2
    assert "runs/denoiser/model.safetensors does not exist" in capsys.readouterr().err
    train(tmp_path, "denoiser"), train(tmp_path, "ddpm")
    assert compose.main(["both-halves"]) == 0
    first = (tmp_path / "runs/both-halves/model.safetensors").read_bytes()
    assert compose.main(["both-halves"]) == 0
    assert (tmp_path / "runs/both-halves/model.safetensors").read_bytes() == first
    assert compose.main(["neither-half"]) == 2
    assert "composed has no 'neither-half'; allowed: both-halves" in capsys.readouterr().err


@pytest.mark.parametrize("family", plugins.composable())
def test_dvc_trains_every_part_first(family: str) -> None:
    """dvc.yaml spells the parts, and runs one stage for every family."""
    stage = yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["compose"]["do"]
    found = {dependency for dependency in stage["deps"] if dependency.startswith("runs/")}
    assert found == {f"runs/${{item.parts.{part}}}" for part in plugins.composer(family).PARTS}
