"""A folder in which `python -m pipeline.train` can be started, killed and started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline import prepare
from pipeline.config.load import load_params
from tests.support.blocks import filled

REPOSITORY = Path(__file__).parents[2]
DEADLINE = 120.0

TRAINING = {
    "steps": 90, "batch": 16, "learning_rate": 0.002, "warmup": 5, "log_every": 7, "valid_every": 14, "valid_images": 20,
    "checkpoint_every": 9, "precision": "float32",
}  # fmt: skip
# Dropout draws from the global generator and so is what a continued run gets wrong first.
NETWORK = {"kind": "unet", "widths": [16, 32], "embedding": 8, "dropout": 0.2}
PARAMS = filled({
    "data": {"kind": "digits"},
    "extractors": {
        "convnet": {
            "family": "classifier", "data": "data/prepared",
            "model": {"network": {"kind": "convnet", "widths": [16], "features": 8}, "shift": 1}, "training": TRAINING,
        }
    },
    "runs": {
        "ddpm": {
            "family": "ddpm", "data": "data/prepared",
            "model": {"schedule": {"kind": "cosine-beta", "steps": 20}, "network": NETWORK}, "training": TRAINING,
        },
        "vdm": {
            "family": "vdm", "data": "data/prepared",
            "model": {"schedule": {"kind": "linear-logsnr"}, "network": NETWORK}, "training": TRAINING,
        },
        "ddgan": {
            "family": "ddgan", "data": "data/prepared",
            "model": {"generator": {"widths": [16], "embedding": 8}, "discriminator": {"widths": [16], "embedding": 8}},
            "training": {**TRAINING, "optimizer_groups": {"discriminator": {"learning_rate": 0.0005}}},
        },
    },
    "samples": {},
    "evaluate": {"extractor": "convnet"},
})  # fmt: skip


def params(**training: Any) -> dict[str, Any]:
    """PARAMS with other values in the `training` of every run."""
    changed = filled(PARAMS)
    for run in [*changed["runs"].values(), *changed["extractors"].values()]:
        run["training"].update(training)
    return changed


class Scratch:
    """params.yaml and data/prepared in `folder`, pipeline/ in `code`; `arguments` come after `python -m pipeline.train`."""

    def __init__(self, folder: Path, code: Path, *arguments: str) -> None:
        self.folder, self.code, self.arguments = folder, code, arguments
        extractor = "--extractor" in arguments
        self.name = arguments[-1]
        self.model = folder / ("extractors" if extractor else "runs") / self.name / "model.safetensors"
        self.curve = folder / "reports" / "curves" / f"{self.name}.csv"

    @classmethod
    def make(cls, folder: Path, *arguments: str) -> Scratch:
        folder.mkdir()
        # A copy of the code: checkpoints are of one version of it, and somebody may be editing while tests run.
        shutil.copytree(
            REPOSITORY / "pipeline", folder.parent / "code" / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
        )
        made = cls(folder, folder.parent / "code", *arguments)
        made.write(params())
        prepare.run(load_params(folder / "params.yaml").data, folder / "data" / "prepared")
        return made

    def copy(self, folder: Path, *arguments: str) -> Scratch:
        shutil.copytree(self.folder, folder)
        return Scratch(folder, self.code, *(arguments or self.arguments))

    def write(self, values: dict[str, Any]) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("TRILEMMA_CHECKPOINTS", None)
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.train", *self.arguments],
            cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def train(self) -> str:
        """Trains to the end; what was printed."""
        process = self.start()
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, err
        return out

    def results(self) -> tuple[bytes, bytes]:
        """The bytes of the weights and of the training curve."""
        return self.model.read_bytes(), self.curve.read_bytes()

    def checkpoint(self, name: str = "newest") -> Path | None:
        """The file of a checkpoint, if there is one."""
        return next(self.folder.glob(f".checkpoints/*/{name}.safetensors"), None)


def wait(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    """Returns once `until()` holds; fails if the process ends before."""
    end = time.monotonic() + DEADLINE
    while not until():
        assert process.poll() is None, f"the process ended by itself: {process.communicate()}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def wait_for_checkpoints(process: subprocess.Popen[str], scratch: Scratch, count: int) -> None:
    """Returns once `count` checkpoints have appeared since the call."""
    file = scratch.checkpoint()
    seen = file.stat().st_ino if file else 0
    for _ in range(count):

        def another(seen: int = seen) -> bool:
            file = scratch.checkpoint()
            try:
                return file is not None and file.stat().st_ino != seen
            except FileNotFoundError:  # between the two renames
                return False

        wait(process, another)
        newest = scratch.checkpoint()
        assert newest is not None
        seen = newest.stat().st_ino
