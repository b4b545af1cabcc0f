"""What the comparison says in plain words, computed from its rows."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reporting.pareto import Row
from pipeline.reporting.table import significant

HOW = (
    "A sample is dominated by another that is no worse in images/s, {distance} and recall and better in one of them; on the "
    "front is who is dominated by nobody. Clearly: beyond the 95 % intervals of all three; otherwise the axes are named on "
    "which the intervals meet, so that other images or another run of the clock might turn the order round. The interval of "
    "images/s is that of the median over the repeats."
)


def conclusion(samples: Sequence[Row], baselines: Sequence[Row], distance: str) -> list[str]:
    """Sentences on the best of each axis, the front, who is dominated, speeds by family, and the baselines."""
    fastest = max(samples, key=lambda row: row["images_per_second"])
    closest = min(samples, key=lambda row: row[distance])
    widest = max(samples, key=lambda row: row["recall"])
    front = [row["sample"] for row in samples if row["front"]]
    found = [
        f"Fastest: {fastest['sample']}, {significant(fastest['images_per_second'])} images/s with "
        f"{_evaluations(fastest)}. Best quality: {closest['sample']}, {distance.upper()} "
        f"{significant(closest[distance])}{_interval(closest, distance)}. Most diverse: {widest['sample']}, recall "
        f"{significant(widest['recall'])}{_interval(widest, 'recall')}.",
        f"On the front, beaten by no other in speed, quality and diversity at once: {enumerated(front)} "
        f"({len(front)} of {len(samples)}).",
    ]
    for words, clear in (("Clearly dominated", True), ("Dominated within the intervals", False)):
        names = [row["sample"] for row in samples if not row["front"] and _clearly(row) is clear]
        if names:
            found.append(f"{words}: {enumerated(names)}.")
    return [*found, *_speeds(samples, distance), *_fewer(samples, distance), *_above(samples, baselines, distance)]


def enumerated(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _clearly(row: Row) -> bool:
    return any(other["clear"] for other in row["dominated_by"])


def _speeds(samples: Sequence[Row], distance: str) -> list[str]:
    """The fastest sample of every family against the slowest of all."""
    slowest = min(samples, key=lambda row: row["images_per_second"])
    parts = []
    for family in dict.fromkeys(row["family"] for row in samples):
        best = max((row for row in samples if row["family"] == family), key=lambda row: row["images_per_second"])
        if best is not slowest:
            speed, quality = (best[key] / slowest[key] for key in ("images_per_second", distance))
            much = f"{significant(speed)} times as fast, at {significant(quality)} times its {distance.upper()}"
            parts.append(f"{best['sample']} ({family}) is {much}")
    if not parts:
        return []
    return [f"Against the slowest sample, {slowest['sample']} with {_evaluations(slowest)}: " + "; ".join(parts) + "."]


def _fewer(samples: Sequence[Row], distance: str) -> list[str]:
    """Every sample of a model against that of the same model, guided alike, with the most network evaluations."""
    found = []
    for run, guidance in dict.fromkeys((row["run"], row["guidance"]) for row in samples):
        same = [row for row in samples if (row["run"], row["guidance"]) == (run, guidance)]
        most = max(same, key=lambda row: row["network_evaluations"])
        parts = [
            f"{row['sample']} has {significant(row[distance] / most[distance])} times the {distance.upper()} at "
            f"{significant(row['images_per_second'] / most['images_per_second'])} times the speed"
            for row in same
            if row["network_evaluations"] < most["network_evaluations"]
        ]
        if parts:
            found.append(f"The same model in fewer steps: against {most['sample']}, {'; '.join(parts)}.")
    return found


def _above(samples: Sequence[Row], baselines: Sequence[Row], distance: str) -> list[str]:
    """How far the worst sample lies below the baselines that a model must beat."""
    worst = max(samples, key=lambda row: row[distance])
    beaten = [row for row in baselines if row["sample"] != "training-images"]
    if not beaten:
        return []
    nearest = min(beaten, key=lambda row: row[distance])
    times = significant(nearest[distance] / worst[distance])
    return [
        f"The highest {distance.upper()} of a sample is {significant(worst[distance])}, of {worst['sample']}; the baseline "
        f"{nearest['sample']} has {significant(nearest[distance])}, {times} times that."
    ]


def _evaluations(row: Row) -> str:
    count = row["network_evaluations"]
    return f"{count} network evaluation{'s' if count > 1 else ''} per image"


def _interval(row: Row, key: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return "" if low is None else f" ({significant(low)} to {significant(high)})"
