"""What dvc.yaml must name as the code of each stage, from the imports. `python -m tests.support.dependencies` writes it.

A stage that reads a trained model need not name code that the model's training names: config.json holds the hash of that code,
so that a change of it changes what the stage reads.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.config import plugins
from pipeline.core import contracts
from pipeline.core.code import ROOT, closure, file_of

# The place in dvc.yaml where a stage says which plug-in it runs: room and template.
CHOSEN = {
    "prepare": ("datasets", "${data.kind}"),
    "extractor": ("families", "${item.family}"),
    "codec": ("families", "${item.family}"),
    "train": ("families", "${item.family}"),
    "compose": ("families", "${item.family}"),
    "sample": ("samplers", "${item.sampler.kind}"),
    "study": ("studies", "${item.kind}"),
}
# Stages that run every plug-in of a room: check reads every block, an evaluation measures everything.
ALL = {
    "check": ("datasets", "families", "samplers", "studies", "metrics"),
    "evaluate": ("metrics",),
    "baselines": ("metrics",),
}
# The role that a family must have to stand in a stage's place.
ROLES = {
    "extractor": contracts.FeatureExtractor,
    "codec": contracts.Codec,
    "train": contracts.Generative,
}
# What a stage reads that was trained, and by which stage: the first folder of a dependency.
TRAINED = {"extractors": "extractor", "codecs": "codec", "runs": "train"}


@dataclass(frozen=True)
class Code:
    """The code of a stage. `templated`: with a template in it; `plain`: the same for every kind; `some`: of these, those that
    not every kind uses."""

    templated: list[str]
    plain: list[str]
    some: list[str]


def stages() -> dict[str, dict[str, Any]]:
    """Name -> the stage as dvc.yaml has it (what stands under `do:` for one with foreach)."""
    values = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in values.items()}


def command(stage: dict[str, Any]) -> str:
    """The module that a stage runs."""
    found = re.search(r"python -m ([\w.]+)", stage["cmd"])
    assert found is not None, stage["cmd"]
    return found[1]


def kinds(name: str) -> list[str]:
    """The plug-ins that may stand in the place of stage `name`."""
    room, _ = CHOSEN[name]
    found = plugins.names(room)
    if name == "compose":
        return [kind for kind in found if (ROOT / "pipeline" / "families" / kind / "compose.py").is_file()]
    if name in ROLES:
        return [kind for kind in found if issubclass(plugins.family(kind).Model, ROLES[name])]
    return found


def modules_of(room: str, kind: str, stage: str) -> list[str]:
    """The modules that `kind` is run by."""
    extra = [f"pipeline.families.{kind}.compose"] if stage in ("compose", "check") and room == "families" else []
    return [plugins.module_name(room, kind), *(name for name in extra if (ROOT / file_of(name)).is_file())]


def used(name: str, stage: dict[str, Any]) -> dict[str, set[str]]:
    """Kind -> the files that the stage uses with it ("" for a stage without kinds), data files of packages included."""
    if name in ALL:
        chosen = [module for room in ALL[name] for kind in plugins.names(room) for module in modules_of(room, kind, name)]
        return {"": _files(closure(command(stage), *chosen))}
    if name not in CHOSEN:
        return {"": _files(closure(command(stage)))}
    room = CHOSEN[name][0]
    return {kind: _files(closure(command(stage), *modules_of(room, kind, name))) for kind in kinds(name)}


def covered(stage: dict[str, Any]) -> set[str]:
    """Files whose hash stands in a model that the stage reads, whatever the model's family. Trainings name all they use."""
    if command(stage) == "pipeline.train":
        return set()
    trained = {TRAINED[dep.split("/")[0]] for dep in stage["deps"] if dep.split("/")[0] in TRAINED and "/" in dep}
    every = stages()
    sets = [files for role in trained for files in used(role, every[role]).values()]
    if not sets:
        return set()
    # A stage may read models of several roles; what all families of one role use is covered by it.
    by_role = [set.intersection(*used(role, every[role]).values()) for role in trained]
    return set.union(*by_role)


def code(name: str) -> Code:
    """The code that stage `name` must name."""
    stage = stages()[name]
    found, known = used(name, stage), covered(stage)
    templated, own = [], set[str]()
    if name in CHOSEN:
        room, template = CHOSEN[name]
        folder = room == "families"
        templated = [f"pipeline/{room}/{template}{'' if folder else '.py'}"]
        own = {file for kind in plugins.names(room) for file in _plugin_files(room, kind)}
    plain = set.union(*found.values()) - own - known
    some = {file for file in plain if any(file not in files for files in found.values())}
    return Code(templated, collapsed(plain), sorted(some))


def collapsed(files: set[str]) -> list[str]:
    """Files as DVC gets them: a folder in the place of all that is in it."""
    left, found = set(files), []
    for folder in sorted({str(parent) for file in files for parent in Path(file).parents}, key=lambda name: name.count("/")):
        inside = _everything(folder) if folder.count("/") >= 1 else set()
        if len(inside) > 1 and inside <= left:
            found.append(folder)
            left -= inside
    return sorted([*found, *left])


def _everything(folder: str) -> set[str]:
    """All files under a folder that count: not empty, no bytecode."""
    return {
        str(file.relative_to(ROOT))
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.read_bytes().strip()
    }


def _plugin_files(room: str, kind: str) -> set[str]:
    folder = ROOT / "pipeline" / room / kind
    if folder.is_dir():
        return _everything(str(folder.relative_to(ROOT)))
    return {f"pipeline/{room}/{kind}.py"}


def _files(modules: set[str]) -> set[str]:
    """The files of modules, and the data files beside them that a module of theirs names."""
    found = {str(file_of(name)) for name in modules}
    for folder in {Path(file).parent for file in found}:
        data = [file for file in (ROOT / folder).rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
        text = "".join((ROOT / file).read_text(encoding="utf-8") for file in found if Path(file).parent == folder)
        for file in data:
            names = {file.name, *(part.name for part in file.relative_to(ROOT / folder).parents if part.name)}
            if any(f'"{name}"' in text for name in names):
                found.add(str(file.relative_to(ROOT)))
    return found


def main() -> None:
    """Writes the code of every stage into dvc.yaml, before what else it depends on; comments stay."""
    importlib.invalidate_caches()
    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    file = ROOT / "dvc.yaml"
    document = yaml.load(file.read_text(encoding="utf-8"))
    for name, stage in document["stages"].items():
        inner = stage.get("do", stage)
        needed = code(name)
        others = [dep for dep in inner["deps"] if not str(dep).startswith("pipeline/")]
        wanted = [*needed.plain, *needed.templated, *others]
        if list(inner["deps"]) != wanted:
            deps = inner["deps"]
            deps.clear()
            deps.extend(wanted)
            deps.fa.set_block_style()
    with file.open("w", encoding="utf-8") as out:
        yaml.dump(document, out)


if __name__ == "__main__":
    main()
