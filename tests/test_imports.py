"""Who may import whom: maths knows nothing of files, families nothing of each other, orchestration nothing of tensors."""

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

ROOTS = ("pipeline", "services", "flows")
# Modules of core that bring no torch into the process.
LIGHT = (
    "pipeline.core.artifacts", "pipeline.core.code", "pipeline.core.command", "pipeline.core.layout", "pipeline.core.progress",
)  # fmt: skip
# Rooms, and modules that need more or less than their room: what each may import of this repository beside itself. The longest
# name that fits decides; a command, at the top of pipeline/, may import all of pipeline/ but other commands.
ALLOWED: dict[str, tuple[str, ...]] = {
    "flows": (*LIGHT, "pipeline.config", "services"),
    "services": (*LIGHT, "pipeline.config"),
    "pipeline.core": (),
    "pipeline.core.code": ("pipeline.core", "pipeline.config.plugins"),
    # Types alone, in signatures.
    "pipeline.core.contracts": ("pipeline.core.pixels", "pipeline.diffusion", "pipeline.config.family"),
    "pipeline.config": ("pipeline.core.layout", "pipeline.core.contracts"),
    "pipeline.config.base": (),
    "pipeline.store": ("pipeline.core", "pipeline.config", "pipeline.metrics.features"),
    "pipeline.datasets": ("pipeline.core", "pipeline.config.base"),
    "pipeline.diffusion": ("pipeline.core.contracts", "pipeline.core.pixels", "pipeline.config.base"),
    "pipeline.networks": ("pipeline.core.contracts", "pipeline.core.pixels", "pipeline.config.base", "pipeline.config.family"),
    "pipeline.samplers": ("pipeline.diffusion", "pipeline.core.contracts", "pipeline.core.random", "pipeline.config.base"),
    # What a sample's block may say of its model.
    "pipeline.samplers.fits": ("pipeline.samplers", "pipeline.diffusion", "pipeline.core.contracts", "pipeline.config"),
    "pipeline.families": (
        "pipeline.core", "pipeline.config.base", "pipeline.config.family", "pipeline.diffusion", "pipeline.networks",
    ),
    # Lists in a refusal the families that have the part.
    "pipeline.families.daed.compose": (
        "pipeline.core", "pipeline.config.plugins", "pipeline.diffusion", "pipeline.networks", "pipeline.families.daed",
    ),
    "pipeline.training": ("pipeline.core", "pipeline.config", "pipeline.store", "pipeline.diffusion"),
    "pipeline.metrics": ("pipeline.core", "pipeline.config.base", "pipeline.store", "pipeline.diffusion", "pipeline.samplers"),
    # They read the settings of every metric of the folder.
    "pipeline.metrics.ground": ("pipeline.metrics", "pipeline.core", "pipeline.config", "pipeline.store"),
    "pipeline.metrics.measurement": ("pipeline.metrics", "pipeline.core", "pipeline.config"),
    # A study refuses what it cannot do, so that it reads the run that it asks, measures, and draws its figure.
    "pipeline.studies": (
        "pipeline.core", "pipeline.config", "pipeline.store", "pipeline.diffusion", "pipeline.samplers", "pipeline.metrics",
        "pipeline.reporting.figure",
    ),
    "pipeline.validation": ("pipeline.core", "pipeline.config", "pipeline.store"),
    "pipeline.reporting": ("pipeline.core", "pipeline.config", "pipeline.store", "pipeline.metrics"),
}  # fmt: skip
# A distribution and the only modules that may import it.
ONLY = {
    "dvc": ("flows.stages",),
    "prefect": ("flows", "services.watchdog"),
    "great_expectations": ("pipeline.validation.expectations",),
    "boto3": ("services.objects",),
    "botocore": ("services.objects",),
    "ruamel": ("pipeline.config.text",),
}
# A package and what it may never import.
NEVER = {
    "flows": ("torch", "torchvision", "safetensors"),
    "services": ("torch", "torchvision", "safetensors"),
    "pipeline.config": ("torch", "numpy"),
    "pipeline.diffusion": ("numpy", "yaml"),
    "pipeline.networks": ("numpy", "yaml"),
}
# A module and why it may spell the name of a family whose folder it is not in.
NAMES_FAMILIES = {"pipeline.reporting.findings": "what a paper found is said of its own family"}
# Not there on a machine that only trains: pipeline, storage, flows, data contracts.
NOT_FOR_TRAINING = ["dvc", "prefect", "great_expectations", "boto3", "botocore", "fastapi", "pandas"]
HEAVY = ["torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib", "great_expectations", "PIL"]


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module of pipeline/, services/ and flows/."""
    files = [file for package in ROOTS for file in (root / package).rglob("*.py")]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def at_the_top(root: Path) -> dict[str, Path]:
    """Modules directly under pipeline/."""
    files = (file for file in (root / "pipeline").glob("*.py") if file.name != "__init__.py")
    return {f"pipeline.{file.stem}": file for file in files}


def is_command(file: Path) -> bool:
    """Whether the module can be run: it has a `main`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


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


def own(name: str) -> str:
    """The package whose modules are at home with `name`: its room, or within families/ its family."""
    parts = name.split(".")
    if parts[0] != "pipeline":
        return parts[0]
    return ".".join(parts[: 3 if parts[1:2] == ["families"] else 2])


def rule(name: str) -> tuple[str, ...] | None:
    """What a module that is no command may import beside its own; None: there is no rule for its room."""
    fitting = [package for package in ALLOWED if within(name, package)]
    if not fitting:
        return None
    longest = max(fitting, key=len)
    # A rule for one module says all that it may import; a rule for a room leaves its modules to each other.
    return ALLOWED[longest] if longest == name else (*ALLOWED[longest], own(name))


def breaches(root: Path) -> list[str]:
    """One line per import that the rules do not allow, and per module in a place that has no rule."""
    known, top = modules(root), at_the_top(root)
    found = [f"{name} stands among the commands and is none" for name, file in top.items() if not is_command(file)]
    for name, file in known.items():
        allowed = ("pipeline",) if name in top or name == "pipeline" else rule(name)
        if allowed is None:
            found.append(f"{name} stands in a room without a rule")
            continue
        for imported in imports(name, file, known):
            if imported in top:
                found.append(f"{name} imports the command {imported}")
            elif imported.split(".")[0] in ROOTS and not any(within(imported, package) for package in allowed):
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
    """The walk sees imports at the top, inside functions and for type checkers; rules have modules, stages commands."""
    known = modules(REPOSITORY)
    found = {(name, imported) for name, file in known.items() for imported in imports(name, file, known)}
    assert ("pipeline.families.vdm.model", "pipeline.networks.choice") in found
    assert ("pipeline.sample", "pipeline.store.models") in found
    assert ("pipeline.core.artifacts", "torch") in found
    assert [package for package in (*ALLOWED, *NEVER) if not any(within(name, package) for name in known)] == []
    assert set(LIGHT) <= set(known)
    commanded = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    commands = {stage.get("do", stage)["cmd"].split()[2] for stage in commanded}
    assert len(commands) > 8
    assert commands <= set(at_the_top(REPOSITORY))


BREACHES = {
    "family of a family": ("pipeline/families/a/model.py", "from pipeline.families.b.model import Model", "families.b.model"),
    "relative, to a family": ("pipeline/families/a/model.py", "from ..b import model", "imports pipeline.families.b.model"),
    "family of a command": (
        "pipeline/families/a/model.py", "def f():\n    from pipeline import train", "imports the command pipeline.train",
    ),
    "relative, upwards": ("pipeline/families/a/model.py", "from ...training import loop", "imports pipeline.training.loop"),
    "family of params.yaml": ("pipeline/families/a/model.py", "from pipeline.config import load", "pipeline.config.load"),
    "command of a command": ("pipeline/sample.py", "from pipeline import train", "imports the command pipeline.train"),
    "sampler of a network": ("pipeline/samplers/s.py", "import pipeline.networks.n", "imports pipeline.networks.n"),
    "metric of a family": ("pipeline/metrics/m.py", "from pipeline.families.a import model", "families.a.model"),
    "study of a family": ("pipeline/studies/s.py", "from pipeline.families.a import model", "families.a.model"),
    "maths of files": ("pipeline/diffusion/d.py", "from pipeline.store import data", "imports pipeline.store.data"),
    "network of a sampler": ("pipeline/networks/n.py", "from pipeline.samplers import s", "imports pipeline.samplers.s"),
    "flows of torch": ("flows/f.py", "def f():\n    import torch.nn", "imports torch.nn"),
    "flows of core with torch": ("flows/f.py", "from pipeline.core import random", "imports pipeline.core.random"),
    "flows of a family": ("flows/f.py", "from pipeline.families.a import model", "imports pipeline.families.a.model"),
    "services of flows": ("services/s.py", "from flows import f", "imports flows.f"),
    "configuration of torch": ("pipeline/config/base.py", "import torch", "imports torch"),
    "pipeline of flows": ("pipeline/training/loop.py", "from flows import f", "imports flows.f"),
    "command of flows": ("pipeline/train.py", "from flows import f", "imports flows.f"),
    "training of DVC": ("pipeline/training/loop.py", "import dvc.api", "imports dvc.api"),
    "helper among the commands": ("pipeline/helper.py", "", "pipeline.helper stands among the commands and is none"),
    "room without a rule": ("pipeline/attic/a.py", "", "pipeline.attic.a stands in a room without a rule"),
}  # fmt: skip


@pytest.mark.parametrize("breach", BREACHES)
def test_breach_is_found(breach: str, tmp_path: Path) -> None:
    where, code, expected = BREACHES[breach]
    sound = {
        "pipeline/__init__.py": "",
        "pipeline/train.py": "from pipeline.config import load\nfrom pipeline.training import loop\n\ndef main(): ...",
        "pipeline/sample.py": "from pipeline.families.a import model\n\ndef main(): ...",
        "pipeline/core/artifacts.py": "",
        "pipeline/core/random.py": "import torch",
        "pipeline/config/base.py": "",
        "pipeline/config/load.py": "from pipeline.config import base",
        "pipeline/store/data.py": "from pipeline.core import artifacts",
        "pipeline/training/loop.py": "import torch",
        "pipeline/families/a/model.py": "from pipeline.networks import n\nfrom pipeline.families.a import part",
        "pipeline/families/a/part.py": "",
        "pipeline/families/b/model.py": "",
        "pipeline/networks/n.py": "",
        "pipeline/diffusion/d.py": "from pipeline.config import base",
        "pipeline/samplers/s.py": "from pipeline.diffusion import d",
        "pipeline/metrics/m.py": "from pipeline.diffusion import d",
        "pipeline/studies/s.py": "from pipeline.samplers import s",
        "services/s.py": "from pipeline.core import artifacts",
        "flows/f.py": "from pipeline.config import load\nfrom services import s",
    }
    for name, text in sound.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert breaches(tmp_path) == []
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text(f"{code}\n{sound.get(where, '')}", encoding="utf-8")
    found = breaches(tmp_path)
    assert len(found) == 1, found
    assert expected in found[0]


def test_what_may_be_imported_without_torch_brings_none(tmp_path: Path) -> None:
    known = modules(REPOSITORY)
    names = [name for name in known if name in LIGHT or within(name, "pipeline.config") or within(name, "services")]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = python(code, *names, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"


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


def families_named(root: Path) -> list[str]:
    """Where code outside a family's folder spells the family's name, or imports from the folder, one line each."""
    known = modules(root)
    families = {file.parent.name for file in (root / "pipeline" / "families").glob("*/model.py")}
    found = []
    for name, file in known.items():
        texts = {node.value for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Constant)}
        imported = set(imports(name, file, known))
        for family in families:
            package = f"pipeline.families.{family}"
            if not within(name, package) and name not in NAMES_FAMILIES:
                found += [f"{name} says {family}"] if family in texts else []
                found += [f"{name} imports {other}" for other in sorted(imported) if within(other, package)]
    return found


def test_families_are_found_by_the_name_in_the_parameter_file(tmp_path: Path) -> None:
    """What one family alone can do, it offers by a role or a module that every family may have."""
    assert families_named(REPOSITORY) == []
    (tmp_path / "pipeline/families/a").mkdir(parents=True)
    (tmp_path / "pipeline/families/a/model.py").write_text('NAME = "a"\n', encoding="utf-8")
    (tmp_path / "pipeline/b.py").write_text("from pipeline.families.a import model\n", encoding="utf-8")
    (tmp_path / "pipeline/c.py").write_text('def is_a(run):\n    return run.family == "a"\n', encoding="utf-8")
    assert sorted(families_named(tmp_path)) == ["pipeline.b imports pipeline.families.a.model", "pipeline.c says a"]


TRAINS = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # importing it is an ImportError from now on
import importlib, pkgutil
import pipeline.families, pipeline.training
for package in (pipeline.families, pipeline.training):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
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
        run["training"] = {"steps": 2, "warmup": 0, "batch": 4, "learning_rate": 0.001, "precision": "float32"}
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


@pytest.mark.parametrize("stage", sorted(at_the_top(REPOSITORY)))
def test_help_imports_nothing_heavy(stage: str, tmp_path: Path) -> None:
    done = python(HELPS, stage, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert json.loads(done.stderr) == []
