"""The papers' findings: what each compares, which way, and what is said where runs are missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import compare, report
from pipeline.config import schema
from pipeline.config.load import read_model
from pipeline.core.layout import Layout
from pipeline.reporting import findings
from pipeline.store.results import Source
from tests.support.blocks import bound, run
from tests.support.comparison_files import params, seal, write_inputs, write_json

LOGSNR = {"kind": "linear-logsnr", "gamma_min": -13.3, "gamma_max": 5.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "chain": ("ddpm", {"schedule": {"kind": "cosine-beta"}}),
    "chain-learned": ("ddpm", {"schedule": {"kind": "cosine-beta"}, "objective": "hybrid", "variance": "learned"}),
    "plain": ("vdm", {"schedule": LOGSNR}),
    "encoded": ("diffenc", {"schedule": LOGSNR, "encoder": {"widths": [16]}}),
    "shrunk": ("diffenc", {"schedule": LOGSNR, "kind": "non-trainable"}),
}
# total, prior, reconstruction, diffusion; then the standard error of each. No two differences are alike.
BITS: dict[str, tuple[float, ...]] = {
    "chain": (3.7, 1e-9, 1.2, 2.5, 0.030, 1e-12, 0.005, 0.018),
    "chain-learned": (3.66, 1e-9, 1.1, 2.56, 0.040, 1e-12, 0.004, 0.017),
    "plain": (3.4, 0.0033, 0.0078, 3.3889, 0.020, 1.4e-5, 9e-5, 0.021),
    "encoded": (3.45, 0.0012, 0.0079, 3.4409, 0.025, 1.1e-5, 8e-5, 0.022),
    "shrunk": (3.6, 1.63e-5, 0.0078, 3.592, 0.022, 1e-8, 9e-5, 0.023),
}
STATEMENTS = [claim.statement for claim in findings.CLAIMS]
TERMS = ("total", "prior", "reconstruction", "diffusion")


def run_of(name: str, **training: Any) -> schema.Run:
    family, model = MODELS[name]
    return run(family, data="data/prepared", model=model, training={"steps": 10, "learning_rate": 1e-3, **training})


def read(block: schema.Run) -> dict[str, Any]:
    """Its model block with every value, as bounds/<run>/details.json has it."""
    return read_model(block, "runs.toy").model_dump(mode="json")


def bound_of(values: tuple[float, ...]) -> dict[str, Any]:
    return {
        "bits_per_dim": {**dict(zip(TERMS, values[:4], strict=True)), "standard_error": values[4]},
        "standard_errors": {
            # Not to be taken: the parts of the error.
            term: {"total": error, "data": 7.0, "monte_carlo": 8.0}
            for term, error in zip(TERMS, values[4:], strict=True)
        },
        "measured": {"split": "test", "images": 1999, "data": "9f8e7d6c"},
    }


def bits_of(name: str, values: tuple[float, ...], images: int = 8) -> np.ndarray:
    """(8, 4) with the errors that `bound_of` states, in patterns of which no two runs' are correlated."""
    walsh = np.array([[(-1) ** bin(row & column).count("1") for column in range(8)] for row in range(1, 8)])
    pattern = walsh[list(MODELS).index(name)] * math.sqrt(7 / 8)
    return np.stack([value + error * math.sqrt(8) * pattern for value, error in zip(values[:4], values[4:], strict=True)], 1)[
        :images
    ]


def rows_of(*names: str, **changed: tuple[float, ...]) -> list[dict[str, Any]]:
    values = BITS | changed
    sources = {name: Source(Path(f"{name}.json"), f"bound@{name}", bound_of(values[name])) for name in names}
    bits = {name: bits_of(name, values[name]) for name in names}
    runs = {name: run_of(name) for name in names}
    return findings.findings(runs, sources, bits, {name: read(block) for name, block in runs.items()})


def test_errors_are_those_of_differences_image_by_image() -> None:
    """Two runs that differ by the same on every image differ by that for sure, however much images differ."""
    images = np.random.default_rng(0).normal(3, 1, (50, 4))
    moved = images + np.array([0.2, 0.1, 0.0, 0.1]) + np.random.default_rng(1).normal(0, 0.001, (50, 4))
    names = [name for name, (family, _) in MODELS.items() if family in ("ddpm", "vdm")][:2]
    ours, theirs = (
        findings.LikelihoodModel(name, run_of(name), read(run_of(name)), Source(Path("x"), "x", bound_of(BITS[name])), bits)
        for name, bits in zip(names, (images, moved), strict=True)
    )
    for column, term in enumerate(TERMS):
        expected = np.sqrt(np.var(images[:, column] - moved[:, column], ddof=1) / 50)
        assert findings.paired_error(ours, theirs, term) == pytest.approx(expected)
        assert findings.paired_error(ours, theirs, term) < 0.01 * images[:, column].std() / math.sqrt(50) * 2


def test_equal_is_as_the_tables_print() -> None:
    assert findings.verdict("equal", 4.7e-6, 9e-8) == "holds"
    assert findings.verdict("equal", 0.0006, 0.0001) == "does not hold"


def test_other_images_are_refused() -> None:
    name = next(iter(MODELS))
    first, second = (
        findings.LikelihoodModel(
            name,
            run_of(name),
            read(run_of(name)),
            Source(Path("x"), "x", bound_of(BITS[name])),
            bits_of(name, BITS[name], images),
        )
        for images in (8, 6)
    )
    with pytest.raises(ValueError, match=r"was measured on 8 images, .* on 6; .* same images"):
        findings.paired_error(first, second, "total")


def test_values_differences_and_verdicts() -> None:
    rows = rows_of(*MODELS)
    assert [row["statement"] for row in rows] == STATEMENTS
    # first, second, term, difference, its standard error, verdict: by hand from BITS
    expected = [
        ("plain", "chain", "total", -0.3, math.sqrt(0.02**2 + 0.03**2), "holds"),
        ("encoded", "plain", "prior", -0.0021, math.sqrt(1.4e-5**2 + 1.1e-5**2), "holds"),
        ("encoded", "plain", "reconstruction", 0.0001, math.sqrt(9e-5**2 + 8e-5**2), "holds"),
        ("encoded", "plain", "diffusion", 0.052, math.sqrt(0.021**2 + 0.022**2), "undecided"),
        ("shrunk", "plain", "diffusion", 0.2031, math.sqrt(0.021**2 + 0.023**2), "holds"),
        ("shrunk", "floor", "prior", 8e-8, 1e-8, "holds"),
        ("chain-learned", "chain", "total", -0.04, 0.05, "undecided"),
    ]
    for row, (first, second, term, difference, error, verdict) in zip(rows, expected, strict=True):
        assert (row["first"]["run"], row["second"]["run"], row["term"], row["verdict"]) == (first, second, term, verdict)
        assert row["standard_error"] == pytest.approx(error, rel=0.05), "two digits"
        if second != "floor":
            assert row["difference"] == pytest.approx(difference, rel=1e-4)
            assert row["first"]["value"] == BITS[first][TERMS.index(term)]
            assert row["second"]["standard_error"] == BITS[second][4 + TERMS.index(term)]
        assert row["missing"] is None
        assert row["unlike"] == []


def test_what_does_not_hold_is_reported_as_such() -> None:
    """Each finding the wrong way round, by far more than its errors."""
    rows = rows_of(
        *MODELS,
        **{
            "chain": (3.1, *BITS["chain"][1:]),
            "plain": (3.4, 0.0011, 0.0070, 3.3, *BITS["plain"][4:]),
            "shrunk": (3.6, 1.9e-5, 0.0078, 3.1, *BITS["shrunk"][4:]),
            "encoded": (3.45, 0.0033, 0.0078, 3.5, *BITS["encoded"][4:]),
            "chain-learned": (3.9, *BITS["chain-learned"][1:]),
        },
    )
    assert [row["verdict"] for row in rows] == ["does not hold"] * 7


@pytest.mark.parametrize(
    ("relation", "difference", "expected"),
    [
        ("below", -0.21, "holds"), ("below", -0.19, "undecided"), ("below", 0.19, "undecided"),
        ("below", 0.21, "does not hold"),
        ("above", 0.21, "holds"), ("above", 0.19, "undecided"), ("above", -0.19, "undecided"),
        ("above", -0.21, "does not hold"),
        ("equal", 0.19, "holds"), ("equal", -0.19, "holds"), ("equal", 0.21, "does not hold"),
        ("equal", -0.21, "does not hold"),
        ("near", 0.29, "holds"), ("near", -0.31, "undecided"), ("near", 0.69, "undecided"), ("near", -0.71, "does not hold"),
    ],
)  # fmt: skip
def test_two_standard_errors_decide(relation: Any, difference: float, expected: str) -> None:
    assert findings.verdict(relation, difference, 0.1, tolerance=0.5) == expected


@pytest.mark.parametrize("gamma", [5.0, 3.0, 0.0, -2.0])
def test_floor_is_the_divergence_from_a_unit_normal(gamma: float) -> None:
    sigma = torch.sigmoid(torch.tensor(gamma, dtype=torch.float64)).sqrt()
    zero = torch.zeros((), dtype=torch.float64)
    narrow, unit = torch.distributions.Normal(zero, sigma), torch.distributions.Normal(zero, zero + 1)
    nats = torch.distributions.kl_divergence(narrow, unit)
    assert findings.prior_floor(gamma) == pytest.approx(float(nats) / math.log(2), rel=1e-9)


def test_published_floor() -> None:
    assert findings.prior_floor(5.0) == pytest.approx(1.63e-5, rel=0.01)


@pytest.mark.parametrize(
    ("names", "measured", "said"),
    [
        ((), [], "no bound of a run of family: vdm, continuous time; nor of family: ddpm, objective: simple"),
        (("plain",), [], "no bound of a run of family: ddpm, objective: simple"),
        (("plain", "chain"), [0], None),
        (("plain", "encoded"), [1, 2, 3], None),
        (("shrunk",), [5], None),
        (("plain", "shrunk"), [4, 5], None),
        (("chain-learned", "chain"), [6], None),
    ],
)
def test_missing_runs_are_said(names: tuple[str, ...], measured: list[int], said: str | None) -> None:
    rows = rows_of(*names)
    assert [row["statement"] for row in rows] == STATEMENTS
    for index, row in enumerate(rows):
        assert (row["verdict"] != "not measured") == (index in measured)
        assert (row["missing"] is None) == (index in measured)
        assert (row["first"] is None) == (index not in measured)
    if said is not None:
        assert rows[0]["missing"] == said


def test_other_schedules_and_settings() -> None:
    """A learned schedule is not the fixed one, a narrower one compares with itself only; other settings are named."""
    runs = {name: run_of(name) for name in ("plain", "encoded", "chain")}
    learned, small = {**LOGSNR, "kind": "learned-linear"}, {"kind": "unet", "widths": [16]}
    runs["learned"] = runs["plain"].model_copy(update={"model": {"schedule": learned, "network": small}})
    runs["narrow"] = runs["plain"].model_copy(update={"model": {"schedule": {**LOGSNR, "gamma_max": 4.0}}})
    runs["encoded"] = run_of("encoded", steps=20, batch=3)
    sources = {name: Source(Path(name), name, bound_of(BITS.get(name, BITS["plain"]))) for name in runs}
    bits = {name: np.random.default_rng(index).normal(size=(9, 4)) for index, name in enumerate(runs)}
    rows = findings.findings(runs, sources, bits, {name: read(block) for name, block in runs.items()})
    pairs = {(row["statement"], row["first"]["run"], row["second"]["run"]): row for row in rows if row["first"] is not None}
    assert {(first, second) for statement, first, second in pairs if statement == STATEMENTS[0]} == {
        ("plain", "chain"), ("learned", "chain"), ("narrow", "chain"),
    }  # fmt: skip
    assert {(first, second) for statement, first, second in pairs if statement == STATEMENTS[1]} == {("encoded", "plain")}
    assert pairs[STATEMENTS[1], "encoded", "plain"]["unlike"] == ["training.steps 20 and 10", "training.batch 3 and 64"]
    assert pairs[STATEMENTS[0], "learned", "chain"]["unlike"] == ["network"]
    del runs["plain"], sources["plain"]
    alone = findings.findings(runs, sources, bits, {name: read(block) for name, block in runs.items()})
    assert alone[3]["missing"] == "no two runs on the same schedule"


def test_findings_stand_in_every_report(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    reports = tmp_path / "reports"
    for measured, name in (("vdm-wide", "plain"), ("ddpm", "chain")):
        write_json(reports / "bounds" / f"{measured}.json", bound_of(BITS[name]))
        place = Layout(tmp_path).bound(measured)
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / "bits.npy", bits_of(name, BITS[name]))
        write_json(place / "details.json", {"model": read(run_of(name))})
    (reports / "bounds" / "ddpm.csv").write_bytes((reports / "bounds" / "vdm-wide.csv").read_bytes())
    cfg = params().model_copy(update={"bounds": {"ddpm": bound(), "vdm-wide": bound()}})
    seal(tmp_path, cfg)
    rows = compare.run(cfg, tmp_path)["findings"]
    assert [row["verdict"] for row in rows] == ["holds", *["not measured"] * 6]
    text = (reports / "compare.md").read_text(encoding="utf-8")
    page = report.run(cfg, tmp_path).read_text(encoding="utf-8")
    cells = ["holds", "total", "vdm-wide 3.4000 ± 0.020", "ddpm 3.7000 ± 0.030", "-0.300 ± 0.036"]
    assert all(f" {cell} " in text for cell in cells)
    assert all(f">{cell}</td>" in page for cell in cells)
    for words in ("one training seed", "not measured: no bound of a run of family: diffenc"):
        assert words in text
        assert words in page
