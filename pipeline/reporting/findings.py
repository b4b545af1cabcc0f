"""Which of the papers' qualitative findings hold on this data, by the bounds of the runs that fit them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.config import schema
from pipeline.core.likelihood_terms import TOTAL_AND_TERMS
from pipeline.core.rounding import to_digits
from pipeline.reporting.table import DASH, Column, Row, significant
from pipeline.store.results import Source

Relation = Literal["below", "above", "equal", "near"]
HOLDS, FAILS, UNDECIDED, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"
NEAR = 0.1  # of the value that a term is said to be near to
PRINTED = 0.0005  # bits/dim: half of the last decimal of the papers' tables, in which terms are said to be equal

EXPLANATION = (
    "A difference is the first value minus the second, in bits/dim, with the standard error of its mean over images: runs "
    "are measured on the same images, and differ by less noise image by image than their means do. Undecided: a difference "
    "below two standard errors; equal: that, or below 0.0005, half of the papers' last decimal; near: within a tenth. Every "
    "run is one training seed, so that the errors cover the noise of the evaluation only, not what another seed would give; "
    "python -m pipeline.replicate measures that."
)


@dataclass(frozen=True)
class LikelihoodModel:
    """A run with a measured bound; `model` is its block, as the family
    read it; `bits`: (images, 4), see pipeline/bound.py."""

    name: str
    run: schema.Run
    model: Mapping[str, Any]
    bound: Source
    bits: NDArray[np.float64]

    def term(self, term: str) -> dict[str, Any]:
        """Value and standard error of a term of the bound, in bits/dim."""
        value, error = self.bound.number(f"bits_per_dim.{term}"), self.bound.number(f"standard_errors.{term}.total")
        return {"run": self.name, "value": value, "standard_error": error}


@dataclass(frozen=True)
class Kind:
    """Runs that a finding is about. `needs` says in words what `fits` asks of family and model."""

    needs: str
    fits: Callable[[str, Any], bool]


DDPM_SIMPLE = Kind(
    "family: ddpm, objective: simple", lambda family, model: family == "ddpm" and model.get("objective") == "simple"
)
DDPM_HYBRID = Kind(
    "family: ddpm, objective: hybrid, variance: learned",
    lambda family, model: family == "ddpm" and model.get("objective") == "hybrid" and model.get("variance") == "learned",
)
VDM = Kind("family: vdm, continuous time", lambda family, model: family == "vdm" and model.get("steps") is None)
VDM_FIXED = Kind(
    "family: vdm, continuous time, schedule linear-logsnr", lambda family, model: VDM.fits(family, model) and _fixed(model)
)
DIFFENC = Kind(
    "family: diffenc, kind: trainable, schedule linear-logsnr",
    lambda family, model: family == "diffenc" and model.get("kind") == "trainable" and _fixed(model),
)
DIFFENC_NT = Kind(
    "family: diffenc, kind: non-trainable, schedule linear-logsnr",
    lambda family, model: family == "diffenc" and model.get("kind") == "non-trainable" and _fixed(model),
)


@dataclass(frozen=True)
class Claim:
    """`term` of `first` stands in `relation` to that of `second`; without `second`, to the prior's floor."""

    statement: str
    source: str
    term: str
    first: Kind
    relation: Relation
    second: Kind | None


CLAIMS = [
    Claim(
        "VDM's bound is below that of DDPM trained with L_simple",
        "VDM (Kingma et al. 2021), table 1", "total", VDM, "below", DDPM_SIMPLE,
    ),
    Claim(
        "DiffEnc's prior term is below VDM's (fixed schedule)",
        "DiffEnc (ICLR 2024), tables 2 and 3", "prior", DIFFENC, "below", VDM_FIXED,
    ),
    Claim(
        "DiffEnc's reconstruction term equals VDM's (fixed schedule)",
        "DiffEnc, tables 2 and 3", "reconstruction", DIFFENC, "equal", VDM_FIXED,
    ),
    Claim(
        "DiffEnc's diffusion term is no higher than VDM's (fixed schedule)",
        "DiffEnc, tables 2 and 3", "diffusion", DIFFENC, "below", VDM_FIXED,
    ),
    Claim(
        "The non-trainable encoder's diffusion term is above VDM's (fixed schedule)",
        "DiffEnc, table 3", "diffusion", DIFFENC_NT, "above", VDM_FIXED,
    ),
    Claim(
        "The non-trainable encoder's prior term is near the floor, that of an image of zeros (1.6e-5 at lambda_min = -5)",
        "DiffEnc, table 3, and the closed form of the term", "prior", DIFFENC_NT, "near", None,
    ),
    Claim(
        "Learned variance (hybrid) has a lower bound than fixed variance (simple)",
        "improved DDPM (Nichol and Dhariwal 2021), tables 1 and 2", "total", DDPM_HYBRID, "below", DDPM_SIMPLE,
    ),
]  # fmt: skip


def findings(
    runs: Mapping[str, schema.Run],
    bounds: Mapping[str, Source],
    bits: Mapping[str, NDArray[np.float64]],
    blocks: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One row per claim and pair of runs that fit it, in bits/dim; one that says what is missing where none does.

    Only runs in `bounds` are looked at. DiffEnc and VDM are a pair where their schedules are the same. `unlike` names settings
    in which two runs differ though the claim is not about them. `bits`: run -> (images, 4) bits/dim of every image;
    `blocks`: run -> its model block with every value, as bounds/<run>/details.json has it.
    """
    known = [LikelihoodModel(name, runs[name], blocks[name], source, bits[name]) for name, source in bounds.items()]
    rows: list[dict[str, Any]] = []
    for claim in CLAIMS:
        firsts, seconds = (
            [run for run in known if kind is not None and kind.fits(run.run.family, run.model)]
            for kind in (claim.first, claim.second)
        )
        if claim.second is None:
            found = [_row(claim, first, None) for first in firsts]
        else:
            found = [_row(claim, first, second) for first in firsts for second in seconds if _comparable(first, second)]
        rows += found or [_missing(claim, firsts, seconds)]
    return rows


def verdict(relation: Relation, difference: float, error: float, tolerance: float = 0.0) -> str:
    """What `difference`, of standard error `error`, says: "below" holds for a negative one beyond two standard errors."""
    clear = 2 * error
    if relation == "equal":
        return HOLDS if abs(difference) <= max(clear, PRINTED) else FAILS
    if relation == "near":
        if abs(difference) + clear <= tolerance:
            return HOLDS
        return FAILS if abs(difference) - clear > tolerance else UNDECIDED
    if abs(difference) <= clear:
        return UNDECIDED
    return HOLDS if (difference < 0) == (relation == "below") else FAILS


def prior_floor(gamma_1: float) -> float:
    """The prior term of an image of zeros, in bits/dim: (sigma^2 - 1 - log sigma^2) / (2 ln 2), sigma^2 = sigmoid(gamma_1)."""
    alpha2 = 1 / (1 + math.exp(gamma_1))
    return (-math.log1p(-alpha2) - alpha2) / (2 * math.log(2))


def finding_columns() -> list[Column]:
    return [
        Column("finding", lambda row: str(row["statement"]), numeric=False),
        Column("on this data", _outcome, numeric=False),
        Column("term", lambda row: str(row["term"]), numeric=False),
        Column("first", lambda row: _measured(row["first"])),
        Column("second", lambda row: _measured(row["second"])),
        Column("difference", _difference),
        Column("other differences", lambda row: ", ".join(row["unlike"]) or DASH, numeric=False),
        Column("source", lambda row: str(row["source"]), numeric=False),
    ]


def paired_error(first: LikelihoodModel, second: LikelihoodModel, term: str) -> float:
    """Standard error of the mean difference over images. ValueError if the two were not measured on the same images."""
    if first.bits.shape != second.bits.shape:
        raise ValueError(
            f"bounds.{first.name} was measured on {len(first.bits)} images, bounds.{second.name} on {len(second.bits)}; "
            "their terms compare on the same images only: give both the same images"
        )
    column = TOTAL_AND_TERMS.index(term)
    return float((first.bits[:, column] - second.bits[:, column]).std(ddof=1) / len(first.bits) ** 0.5)


def _fixed(model: Any) -> bool:
    return bool(model["schedule"]["kind"] == "linear-logsnr")


def _comparable(first: LikelihoodModel, second: LikelihoodModel) -> bool:
    """Between continuous-time models on a fixed schedule, terms compare on the same schedule only."""
    if "diffenc" not in (first.run.family, second.run.family):
        return True
    return bool(first.model["schedule"] == second.model["schedule"])


def _row(claim: Claim, first: LikelihoodModel, second: LikelihoodModel | None) -> dict[str, Any]:
    ours = first.term(claim.term)
    if second is None:
        floor = prior_floor(first.model["schedule"]["gamma_max"])
        theirs: dict[str, Any] = {"run": "floor", "value": floor, "standard_error": 0.0}
    else:
        theirs = second.term(claim.term)
    difference = ours["value"] - theirs["value"]
    error = ours["standard_error"] if second is None else paired_error(first, second, claim.term)
    return {
        "statement": claim.statement,
        "source": claim.source,
        "term": claim.term,
        "verdict": verdict(claim.relation, difference, error, NEAR * theirs["value"]),
        "first": ours,
        "second": theirs,
        "difference": to_digits(difference, 5),
        "standard_error": to_digits(error, 2),
        "unlike": [] if second is None else _unlike(first, second),
        "missing": None,
    }


def _missing(claim: Claim, firsts: list[LikelihoodModel], seconds: list[LikelihoodModel]) -> dict[str, Any]:
    needed = [kind.needs for kind, there in ((claim.first, firsts), (claim.second, seconds)) if kind is not None and not there]
    return {
        "statement": claim.statement,
        "source": claim.source,
        "term": claim.term,
        "verdict": NOT_MEASURED,
        "first": None,
        "second": None,
        "difference": None,
        "standard_error": None,
        "unlike": [],
        "missing": "no bound of a run of " + "; nor of ".join(needed) if needed else "no two runs on the same schedule",
    }


def _unlike(first: LikelihoodModel, second: LikelihoodModel) -> list[str]:
    """Settings of training, network and labels in which two runs differ."""
    ours, theirs = first.run.training.model_dump(), second.run.training.model_dump()
    unlike = [f"training.{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    return unlike + [name for name in ("network", "labels") if first.model.get(name) != second.model.get(name)]


def _outcome(row: Row) -> str:
    return str(row["verdict"]) if row["missing"] is None else f"{row['verdict']}: {row['missing']}"


def _measured(side: Row | None) -> str:
    if side is None:
        return DASH
    value = f"{side['run']} {significant(side['value'], 5)}"
    return value if side["standard_error"] == 0 else f"{value} ± {significant(side['standard_error'], 2)}"


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return DASH
    return f"{significant(row['difference'])} ± {significant(row['standard_error'], 2)}"
