"""Any value in any place of a parameter file is accepted, and then trains, or is refused in one sentence: never a traceback."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import check
from pipeline.config.load import load_params
from pipeline.config.schema import Params, Run
from pipeline.core.code import ROOT
from pipeline.core.contracts import DataSpec, FeatureExtractor, UsesPerceptualLoss
from pipeline.store import models
from pipeline.store.data import write_data
from pipeline.store.splits import Split
from pipeline.training import loop
from tests.support.blocks import another_key

TINY = ROOT / "tests" / "profiles" / "tiny.yaml"
SPEC = DataSpec((1, 8, 8), 17, 10)

# Small enough to build and train with, large enough to be wrong in every way that a number can be.
NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 4, 7, 8, 16, 17, 50, 51, 64, 2**31, 2**32, 10**12]),
    st.sampled_from([-1.0, -0.0, 0.0, 1e-300, 0.1, 0.5, 1.0, 1.5, 2.0, 1e6, 1e300]),
    st.floats(allow_nan=True, allow_infinity=True),
)
WORDS = st.one_of(
    st.sampled_from(
        ["", "auto", "none", "vdm", "ddpm", "daed", "kl", "linear-beta", "uniform", "data/prepared", "data/latents/kl"]
    ),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("abkinds", max_size=5), inner, max_size=2)),
    max_leaves=4,
)


def places(values: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of every mapping, as a path."""
    found = [path] if path else []
    if isinstance(values, dict):
        for key, inner in values.items():
            found += places(inner, (*path, key))
    return found


PLAIN: dict[str, Any] = YAML(typ="safe").load(TINY.read_text(encoding="utf-8"))
PLACES = places(PLAIN)


def changed(place: tuple[str, ...], how: str, value: Any) -> dict[str, Any]:
    """The tiny profile with one key set, left out, or another one beside it."""
    values = copy.deepcopy(PLAIN)
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    if how == "set":
        inner[place[-1]] = value
    elif how == "left out":
        del inner[place[-1]]
    else:
        inner[another_key(place[-1])] = value
    return values


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (64, 1, 8, 8), dtype=np.uint8), np.arange(64) % 10
    folder = tmp_path_factory.mktemp("data")
    return Split(write_data(folder, {"train": (images, labels)}, levels=17, classes=10, extra={}), "train")


def one_step(params: Params, role: str, name: str, split: Split) -> None:
    """Trains one step of one entry; what may go wrong there is said in one sentence too."""
    run: Run = getattr(params, role)[name]
    if run.training is None or run.data != "data/prepared":
        return
    torch.manual_seed(0)
    model = models.build(run, SPEC, f"{role}.{name}")
    if isinstance(model, UsesPerceptualLoss) and model.perceives:
        extractor = models.build(params.extractors["convnet"], SPEC, "extractors.convnet")
        assert isinstance(extractor, FeatureExtractor)
        model.perceive(extractor)
    short = run.training.model_copy(update={"batch": min(run.training.batch, 32)})
    state = loop.State(model, short)
    report = next(iter(loop.fit(split, state, short, run.seed, torch.device("cpu"))))
    assert all(math.isfinite(value) for value in report.parts.values()), report.parts


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(PLACES), how=st.sampled_from(["set", "set", "set", "left out", "beside"]), value=VALUES)
def test_a_value_is_accepted_and_trains_or_is_refused(
    split: Split, tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], how: str, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    file = folder / "params.yaml"
    with file.open("w", encoding="utf-8") as out:
        YAML(typ="safe", pure=True).dump(changed(place, how, value), out)
    status, said = checked(file)
    assert status in (0, 2), said
    if status == 2:
        assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n"), said
        assert "Traceback" not in said and len(said) < 1000
        return
    assert said == ""
    if place[0] in ("runs", "codecs", "extractors") and len(place) > 1:
        params = load_params(file)
        for role in ("runs", "codecs", "extractors"):
            if place[0] == role and place[1] in getattr(params, role):
                assert "\n" not in refusal(params, role, place[1], split)


def refusal(params: Params, role: str, name: str, split: Split) -> str:
    """What a step of training is ended with in words: a rate that is absurd, latents of no size; nothing where it trains."""
    try:
        one_step(params, role, name, split)
    except (loop.TrainingFailed, ValueError) as error:
        return str(error)
    return ""


def checked(file: Path) -> tuple[int, str]:
    """The status of `pipeline.check` and what it says on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = check.main(["--params", str(file), "--out", str(file.with_name("mark"))])
    return status, said.getvalue()
