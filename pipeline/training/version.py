"""Which version of the code a model comes from."""

from __future__ import annotations

from pathlib import Path

from pipeline import artifacts


def code_hash(family: str) -> str:
    """A hash of the code behind a model of `family`: its module, training, networks and maths.

    It stands in config.json, so that what is made from a model is made again after a change of code that left the weights as
    they were.
    """
    here = Path(__file__).parents[1]
    files = [here / "train.py", here / "roles.py", here / "block.py", here / "families" / f"{family}.py"]
    files += sorted(file for folder in ("diffusion", "networks", "training") for file in (here / folder).glob("*.py"))
    return artifacts.hash_json([artifacts.hash_file(file) for file in files])
