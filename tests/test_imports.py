"""Who may import whom: a breach of the rules of the README's architecture section fails here."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.store.data import SPLITS, write_data

REPOSITORY = Path(__file__).parents[1]

# A package and what it may import of this repository; the longest name that fits decides. What is not listed may import
# everything but stages.
ALLOWED = {
    "flows": ("flows", "pipeline.config", "pipeline.core.artifacts", "pipeline.storage", "pipeline.core.command"),
    "pipeline.families": ("pipeline.core.contracts", "pipeline.diffusion", "pipeline.networks", "pipeline.config.base"),
    "pipeline.metrics": ("pipeline.metrics", "pipeline.core.contracts", "pipeline.diffusion", "pipeline.config"),
    "pipeline.networks": ("pipeline.networks", "pipeline.core.contracts", "pipeline.config.base"),
    "pipeline.diffusion": ("pipeline.diffusion", "pipeline.core.contracts", "pipeline.config.base"),
    "pipeline.storage": ("pipeline.storage", "pipeline.core.command"),
    "pipeline.config.base": (),
}
# A distribution and the only modules that may import it.
ONLY = {
    "dvc": ("flows.stages",),
    "prefect": ("flows",),
    "great_expectations": ("pipeline.validation.expectations",),
    "boto3": ("pipeline.storage",),
    "botocore": ("pipeline.storage",),
}
# A package and what it may never import.
NEVER = {
    "flows": ("torch", "torchvision", "safetensors"),
    "pipeline.storage": ("torch",),
    "pipeline.diffusion": ("numpy", "yaml"),
    "pipeline.networks": ("numpy", "yaml"),
}
# Not there on a machine that only trains: pipeline, storage, flows, data contracts.
NOT_FOR_TRAINING = ["dvc", "prefect", "great_expectations", "boto3", "botocore", "fastapi", "pandas"]
HEAVY = ["torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib", "great_expectations", "PIL"]


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module of pipeline/ and flows/."""
    files = [file for package in ("pipeline", "flows") for file in (root / package).rglob("*.py")]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def stages(root: Path) -> set[str]:
    """Modules directly under pipeline/ that are run: those with a `main`."""
    found = set()
    for file in (root / "pipeline").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found.add(f"pipeline.{file.stem}")
    return found


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """What a module imports anywhere, inside functions and for type checkers too, as dotted names of modules."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known else base


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def breaches(root: Path) -> list[str]:
    """One line per import that the rules do not allow."""
    known, runnable = modules(root), stages(root)
    found = []
    for name, file in known.items():
        for imported in imports(name, file, known):
            ours = within(imported, "pipeline") or within(imported, "flows")
            allowed = next((packages for package, packages in ALLOWED.items() if within(name, package)), None)
            if imported in runnable:
                found.append(f"{name} imports the stage {imported}")
            elif ours:
                upwards = within(imported, "flows") and not within(name, "flows")
                if upwards or (allowed is not None and not any(within(imported, package) for package in allowed)):
                    found.append(f"{name} imports {imported}")
            for other, importers in ONLY.items():
                if within(imported, other) and not any(within(name, importer) for importer in importers):
                    found.append(f"{name} imports {imported}")
            for package, others in NEVER.items():
                if within(name, package) and any(within(imported, other) for other in others):
                    found.append(f"{name} imports {imported}")
    return found


def test_nobody_imports_what_he_may_not() -> None:
    assert breaches(REPOSITORY) == []


def test_there_is_something_to_check() -> None:
    """The walk sees imports at the top, inside functions and for type checkers, and it sees every stage."""
    known = modules(REPOSITORY)
    found = {(name, imported) for name, file in known.items() for imported in imports(name, file, known)}
    assert ("pipeline.families.vdm.model", "pipeline.networks.unet") in found
    assert ("pipeline.sample", "pipeline.store.models") in found
    assert ("pipeline.core.artifacts", "pipeline.core.contracts") in found
    commanded = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    commands = {stage.get("do", stage)["cmd"].split()[2] for stage in commanded}
    assert commands <= stages(REPOSITORY)


BREACHES = {
    "family of a family": ("pipeline/families/a.py", "from pipeline.families.b import Model", "pipeline.families.a imports"),
    "family of a stage": (
        "pipeline/families/a.py",
        "def f():\n    from pipeline import train",
        "imports the stage pipeline.train",
    ),
    "relative": ("pipeline/families/a.py", "from . import b", "imports pipeline.families.b"),
    "relative, upwards": ("pipeline/families/a.py", "from ..training import loop", "imports pipeline.training.loop"),
    "flows of torch": ("flows/f.py", "def f():\n    import torch.nn", "imports torch.nn"),
    "pipeline of flows": ("pipeline/training/t.py", "from flows import f", "imports flows"),
    "training of DVC": ("pipeline/training/t.py", "import dvc.api", "imports dvc.api"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_breach_is_found(breach: str, tmp_path: Path) -> None:
    where, code, expected = BREACHES[breach]
    sound = {
        "pipeline/__init__.py": "",
        "pipeline/config.py": "",
        "pipeline/train.py": "from pipeline import config\nfrom pipeline.training import loop\n\ndef main(): ...",
        "pipeline/sample.py": "def main(): ...",
        "pipeline/training/loop.py": "import torch",
        "pipeline/training/t.py": "",
        "pipeline/families/a.py": "from pipeline.networks import n",
        "pipeline/families/b.py": "",
        "pipeline/networks/n.py": "",
        "pipeline/diffusion/d.py": "",
        "pipeline/metrics/m.py": "from pipeline.diffusion import d",
        "flows/f.py": "from pipeline import config",
    }
    for name, text in sound.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert breaches(tmp_path) == []
    (tmp_path / where).write_text(f"{code}\n{sound[where]}", encoding="utf-8")
    found = breaches(tmp_path)
    assert len(found) == 1, found
    assert expected in found[0]


def asks_by_spelling(code: str) -> list[str]:
    """What is asked of an object by the name of an attribute that it need not have: by hasattr, or getattr with a default."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and (node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) > 2))
    ]


def test_abilities_are_asked_of_types_and_members() -> None:
    """What an object can do is its base class or a member of it: a word that is misspelt would be a no without a word."""
    found = {name: asks_by_spelling(file.read_text(encoding="utf-8")) for name, file in modules(REPOSITORY).items()}
    assert {name: asked for name, asked in found.items() if asked} == {}
    mistake = 'if hasattr(model, "guide") or getattr(model, "labels", False): print(getattr(model, name))'
    assert asks_by_spelling(mistake) == ["hasattr(model, 'guide')", "getattr(model, 'labels', False)"]


TRAINS = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # importing it is an ImportError from now on
import importlib, pkgutil
import pipeline.families, pipeline.training
for package in (pipeline.families, pipeline.training):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
from pipeline import encode, train
for stage, arguments in json.loads(sys.argv[2]):
    assert {"train": train, "encode": encode}[stage].main(arguments) == 0
"""


def python(code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )


def test_training_needs_the_numerical_packages_only(tmp_path: Path) -> None:
    """Every family imports, and those of the tiny profile train two steps, where DVC, Prefect and so on cannot be had."""
    values = yaml.safe_load((REPOSITORY / "tests" / "profiles" / "tiny.yaml").read_text(encoding="utf-8"))
    for run in [*values["extractors"].values(), *values["codecs"].values(), *values["runs"].values()]:
        run["training"] = {"steps": 2, "batch": 4, "learning_rate": 0.001, "precision": "float32"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 17, (12, 1, 8, 8), dtype=np.uint8)
    splits = {split: (images, np.arange(12) % 10) for split in SPLITS}
    write_data(tmp_path / "data" / "prepared", splits, levels=17, classes=10, extra={})
    arguments = [
        *(("train", ["--extractor", name]) for name in values["extractors"]),
        *(("train", ["--codec", name]) for name in values["codecs"]),
        *(("encode", [name]) for name in values["codecs"]),
        *(("train", [name]) for name in values["runs"]),
    ]
    done = python(TRAINS, json.dumps(NOT_FOR_TRAINING), json.dumps(arguments), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("model.safetensors"))) == len(arguments)


HELPS = """
import json, runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert ended.code in (0, None), ended.code
print(json.dumps([name for name in json.loads('HEAVY') if name in sys.modules]), file=sys.stderr)
""".replace("HEAVY", json.dumps(HEAVY))


@pytest.mark.parametrize("stage", sorted(stages(REPOSITORY)))
def test_help_imports_nothing_heavy(stage: str, tmp_path: Path) -> None:
    done = python(HELPS, stage, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert json.loads(done.stderr) == []
