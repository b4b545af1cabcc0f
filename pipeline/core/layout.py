"""Every path of the project: where a stage writes, and where others find it. Nobody else spells one.

Names are unique in params.yaml, so that folders are flat: samples/<sample>, not runs/<run>/samples/<sample>.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PREPARED = "data/prepared"
LATENTS = "data/latents/"


def latents_of(data: str) -> str | None:
    """The codec whose latents `data` holds, or None for a directory of images."""
    return data.removeprefix(LATENTS).strip("/") if data.startswith(LATENTS) else None


@dataclass(frozen=True)
class Layout:
    """The paths under `root`, the top of a checkout. `reports/` is in git, the rest is in the cache of DVC."""

    root: Path = Path(".")

    @property
    def checked(self) -> Path:
        """The mark that params.yaml reads well: an empty output that every stage waits for."""
        return self.root / "reports" / ".checked"

    @property
    def prepared(self) -> Path:
        """The data directory of images."""
        return self.root / PREPARED

    @property
    def validation_report(self) -> Path:
        return self.root / "reports" / "validation.json"

    @property
    def data_docs(self) -> Path:
        """Great Expectations' site."""
        return self.root / "validation_docs"

    @property
    def made(self) -> list[Path]:
        """The folders of what is made of models, on which comparison and page depend as a whole."""
        return [self.root / name for name in ("samples", "evaluations", "bounds", "studies")]

    def data(self, directory: str) -> Path:
        """A data directory as params.yaml spells it: data/prepared or data/latents/<codec>."""
        return self.root / directory

    def extractor(self, name: str) -> Path:
        return self.root / "extractors" / name

    def codec(self, name: str) -> Path:
        return self.root / "codecs" / name

    def latents(self, codec: str) -> Path:
        """The data directory of a codec's latents."""
        return self.root / f"{LATENTS}{codec}"

    def run(self, name: str) -> Path:
        """The trained model of an entry of runs: or composed:."""
        return self.root / "runs" / name

    def model(self, role: str, name: str) -> Path:
        """The trained model of an entry of `role`: extractors, codecs, runs or composed."""
        return {"extractors": self.extractor, "codecs": self.codec}.get(role, self.run)(name)

    def sample(self, name: str) -> Path:
        """images.npy, grid.png, trajectory.png, sample.json, timing.json."""
        return self.root / "samples" / name

    def evaluation(self, name: str) -> Path:
        """details.json and neighbours.png of a sample; of the baselines, by the name `baselines`."""
        return self.root / "evaluations" / name

    def bound(self, run: str) -> Path:
        """bits.npy: bits/dim image by image."""
        return self.root / "bounds" / run

    def study(self, name: str) -> Path:
        """details.json: what a study found, unrounded."""
        return self.root / "studies" / name

    def interpolation(self, run: str) -> Path:
        """The picture of `pipeline.interpolate`."""
        return self.root / "interpolations" / f"{run}.png"

    def curve(self, name: str) -> Path:
        """The training curve of an entry of extractors:, codecs: or runs:."""
        return self.root / "reports" / "curves" / f"{name}.csv"

    def report(self, kind: str, name: str, suffix: str = ".json") -> Path:
        """A small file for git, such as reports/metrics/<sample>.json; kinds: metrics, bounds, studies, codecs."""
        return self.root / "reports" / kind / f"{name}{suffix}"

    @property
    def reports(self) -> Path:
        """The comparison and the page."""
        return self.root / "reports"
