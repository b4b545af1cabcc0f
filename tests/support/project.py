"""A project in miniature, made by the commands themselves: what every stage leaves, for tests of what comes after it."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline import baselines, bound, evaluate, prepare, sample, train
from tests.support.mistakes import tiny_values

STEPS = 4


def values() -> dict[str, Any]:
    """The tiny profile with one run, trained for 4 steps, one sample, one bound, and limits that any image meets."""
    made = tiny_values()
    made["defaults"]["training"] |= {"log_every": 2, "valid_every": 4, "valid_images": 16, "warmup": 1}
    vdm = made["runs"]["vdm"]
    for block in (vdm, made["extractors"]["convnet"]):
        block["training"] |= {"steps": STEPS, "batch": 16}
    one = made["samples"]["vdm-ddim-5"]
    made |= {"codecs": {}, "composed": {}, "studies": {}, "runs": {"vdm": vdm}, "samples": {"vdm-ddim-5": one}}
    made["bounds"] = {"vdm": {"images": 6, "seed": 0}}
    return made


class Project:
    """params.yaml and all outputs in `folder`; commands run there, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path) -> Project:
        """Everything up to the evaluation of the sample and of the baselines."""
        folder.mkdir(parents=True)
        made = cls(folder)
        made.write(values())
        for main, *arguments in (
            (prepare.main,), (train.main, "--extractor", "convnet"), (train.main, "vdm"), (sample.main, "vdm-ddim-5"),
            (bound.main, "vdm"), (evaluate.main, "vdm-ddim-5"), (baselines.main,),
        ):  # fmt: skip
            assert made.run(main, *arguments) == 0, (main.__module__, arguments)
        return made

    def write(self, content: dict[str, Any]) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(copy.deepcopy(content)), encoding="utf-8")

    def run(self, main: Callable[[list[str]], int], *arguments: str) -> int:
        """The exit status of a command."""
        before = os.environ.pop("TRILEMMA_CHECKPOINTS", None)
        try:
            with contextlib.chdir(self.folder):
                return main(list(arguments))
        finally:
            if before is not None:
                os.environ["TRILEMMA_CHECKPOINTS"] = before

    def file(self, name: str) -> Path:
        return self.folder / name
