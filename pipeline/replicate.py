"""Trains several seeds of two runs and says whether the first has the lower bits/dim (DiffEnc, section 5).

A seed that is trained is kept as long as its configuration, data and code stay what they are; a command that was ended goes on
where it stood. Bounds are measured with the same noise for every seed.

Writes  replicates/<run>-seed-<n>/{model.safetensors, config.json, timing.json, curve.csv, bound.json, bound.csv}
        replicates/<A>-against-<B>.json and .md
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.likelihood_terms import TOTAL_AND_TERMS
from pipeline.store.data import DataDirectory

# timing.json comes last: a folder without it is of a training that did not end.
TRAINED = ("model.safetensors", "config.json", "curve.csv", "timing.json")


def run(params_file: Path, names: tuple[str, str], seeds: range, out: Path) -> dict[str, Any]:
    """Trains and bounds what is missing, one seed of both runs after the other; returns what the JSON file holds."""
    params = load_params(params_file)
    _refuse(params, names, seeds)
    values: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in seeds:
        for name in names:
            folder = out / f"{name}-seed-{seed}"
            _train(params, params_file, name, seed, folder)
            found = _bound(params, params_file, name, folder)
            values[name].append({"seed": seed, **{term: found["bits_per_dim"][term] for term in TOTAL_AND_TERMS}})
    measured = {key: found["measured"][key] for key in ("split", "images", "seed", "data")}
    compared = comparison(names, values, measured)
    target = out / "-against-".join(names)
    artifacts.write_json(target.with_suffix(".json"), compared)
    artifacts.write_text(target.with_suffix(".md"), markdown(compared))
    return compared


def comparison(names: tuple[str, str], values: dict[str, list[dict[str, float]]], measured: dict[str, Any]) -> dict[str, Any]:
    """values: run -> one row per seed, in bits/dim. The test and the interval are on the totals."""
    import numpy as np

    from pipeline.reporting.welch import LEVEL, welch

    columns = {name: {term: [row[term] for row in values[name]] for term in TOTAL_AND_TERMS} for name in names}
    means = {name: {term: float(np.mean(columns[name][term])) for term in TOTAL_AND_TERMS} for name in names}
    a, b = names
    found = welch(columns[a]["total"], columns[b]["total"])
    return {
        "runs": [
            {
                "run": name,
                "seeds": values[name],
                "mean": means[name],
                "standard_deviation": {term: float(np.std(columns[name][term], ddof=1)) for term in TOTAL_AND_TERMS},
            }
            for name in names
        ],
        "mean_difference": {term: means[a][term] - means[b][term] for term in TOTAL_AND_TERMS},
        "welch": {
            "seeds": len(values[a]),
            "alternative": f"the mean total of {a} is lower than that of {b}",
            "level": LEVEL,
            **asdict(found),
        },
        "measured": measured,
    }


def markdown(compared: dict[str, Any]) -> str:
    """The comparison for a reader: one row per seed, means and difference, and what they say."""
    (a, b), found, measured = compared["runs"], compared["welch"], compared["measured"]
    rows = [
        (side["run"], row["seed"], *(row[term] for term in TOTAL_AND_TERMS)) for side in (a, b) for row in side["seeds"]
    ]  # fmt: skip
    rows += [(side["run"], "mean", *(side["mean"][term] for term in TOTAL_AND_TERMS)) for side in (a, b)]
    rows.append((f"{a['run']} - {b['run']}", "mean", *(compared["mean_difference"][term] for term in TOTAL_AND_TERMS)))
    lines = [f"| {name} | {seed} | {' | '.join(f'{value:.5g}' for value in numbers)} |" for name, seed, *numbers in rows]
    interval = f"{found['low']:.4g} to {found['high']:.4g}"
    return "\n".join(
        [
            f"# {a['run']} against {b['run']}", "",
            f"Bits/dim (lower is better) of {found['seeds']} seeds of each run, on {measured['images']} images of the "
            f"{measured['split']} split of data {measured['data']}, with the same noise for all.", "",
            f"| run | seed | {' | '.join(TOTAL_AND_TERMS)} |", "|---|---:|---:|---:|---:|---:|", *lines, "",
            f"- Mean difference of totals: {found['difference']:.4g} bits/dim ({found['level']:.0%} interval {interval}).",
            f"- One-sided Welch t-test that {found['alternative']}: p = {found['p_lower']:.3g} (t = {found['t']:.3g}, "
            f"{found['degrees_of_freedom']:.3g} degrees of freedom).",
            f"- Effect size (Hedges' g): {found['hedges_g']:.3g}.", "",
        ]
    )  # fmt: skip


def _refuse(params: schema.Params, names: tuple[str, str], seeds: range) -> None:
    """Raises ValueError for two runs whose bounds cannot be compared, or too few seeds."""
    if len(seeds) < 2:
        count = seeds.stop - seeds.start
        raise ValueError(f"--seeds is {count}; allowed: 2 or more, as a difference is held against the spread between seeds")
    if seeds.start < 0:
        raise ValueError(f"--first-seed is {seeds.start}; allowed: 0 or more")
    a, b = names
    if a == b:
        raise ValueError(f"both runs are {a!r}; name two different runs")
    for name in names:
        command.choose(params.runs, name, "runs")
        if name not in params.bounds:
            raise ValueError(f"bounds has no {name!r}, which says how to measure bits/dim of a run; add bounds.{name}")
    if params.runs[a].data != params.runs[b].data:
        ours, theirs = params.runs[a].data, params.runs[b].data
        raise ValueError(f"runs.{a}.data is {ours}, runs.{b}.data is {theirs}; name two runs on the same data")
    for key in ("split", "images", "seed"):
        ours, theirs = (getattr(params.bounds[name], key) for name in names)
        if ours != theirs:
            raise ValueError(f"bounds.{a}.{key} is {ours}, bounds.{b}.{key} is {theirs}; give both the same, to compare them")


def _train(params: schema.Params, params_file: Path, name: str, seed: int, folder: Path) -> None:
    cfg = params.runs[name].model_copy(update={"seed": seed})
    if trained(cfg, folder):
        print(f"{folder}: kept, trained before", flush=True)
        return
    shutil.rmtree(folder, ignore_errors=True)  # of another configuration; the checkpoints of this one lie elsewhere
    _call("pipeline.train", name, "--seed", str(seed), "--out", str(folder), "--params", str(params_file))
    if not trained(cfg, folder):
        raise ValueError(f"{folder} is not what runs.{name} asks for: parameters, data or code changed meanwhile; start again")


def trained(cfg: schema.Run, folder: Path) -> bool:
    """Whether `folder` holds the whole result of training `cfg` on the data and with the code of now."""
    from pipeline.core.code import trained_by

    if not all((folder / name).is_file() for name in TRAINED):
        return False
    found = artifacts.read_json(folder / "config.json")
    data = DataDirectory.open(cfg.data).hash
    asked = (cfg.model_dump(mode="json"), data, trained_by(cfg.family))
    return (found["run"], found["data"]["hash"], found["code"]) == asked


def _bound(params: schema.Params, params_file: Path, name: str, folder: Path) -> dict[str, Any]:
    """bound.json of a trained seed; measured.json says of which weights, settings and code, and comes last."""
    record, target = folder / "measured.json", folder / "bound.json"
    of = {
        "weights": artifacts.hash_file(folder / "model.safetensors"),
        "settings": params.bounds[name].model_dump(mode="json"),
        "code": artifacts.hash_file(Path(__file__).with_name("bound.py")),
    }
    if not (target.is_file() and record.is_file() and artifacts.read_json(record) == of):
        _call("pipeline.bound", name, "--model", str(folder), "--out", str(target), "--params", str(params_file))
        artifacts.write_json(record, of)
    return dict(artifacts.read_json(target))


def _call(module: str, *arguments: str) -> None:
    """Runs a stage to its end. SIGTERM goes on to it, so that it saves a checkpoint; a status other than 0 ends us with it."""
    with subprocess.Popen([sys.executable, "-m", module, *arguments]) as child:
        before = signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
        try:
            status = child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if status:
        sys.exit(status if status > 0 else 128 - status)  # a child that a signal ended has its negative number


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("a", metavar="A", help="a name under runs: and bounds:, the one that may be lower")
    parser.add_argument("b", metavar="B", help="another one, the baseline")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds of each run (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seeds count from this one (default: %(default)s)")
    parser.add_argument(
        "--out", type=command.path, default=Path("replicates"), help="the folder to write (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    def work() -> None:
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        compared = run(args.params, (args.a, args.b), seeds, args.out)
        print("\n" + markdown(compared))

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
