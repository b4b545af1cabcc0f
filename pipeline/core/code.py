"""Which code a result depends on: the list behind the code hash in config.json and behind the dependencies in dvc.yaml.

Found in the text of the modules, so that nothing is imported: every `import` that can run, at the top of a module or inside a
function. What is chosen by a name in params.yaml (a family, a sampler) is no import; whoever asks names it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import plugins
from pipeline.core import artifacts

ROOT = Path(__file__).parents[2]

# Modules that cannot change a number, and why: they are in no code hash and no stage depends on them.
INERT = {
    "pipeline.core.code": "says which code counts; what it says is tested against dvc.yaml",
    "pipeline.core.command": "arguments, exit status and messages of commands",
    "pipeline.core.layout": "where files lie, not what is in them",
    "pipeline.core.progress": "what is shown while work is done",
    "pipeline.config": "reads params.yaml, which DVC tracks value by value; no value has a default there",
    "pipeline.store.fresh": "refuses what is stale; computes nothing that a number is made of",
    "pipeline.store.results": "opens what stages wrote, and refuses what is stale; changes nothing that it reads",
}


def closure(*modules: str, inert: bool = False) -> set[str]:
    """Dotted names of the modules of pipeline/ that `modules` import, themselves included, without those of INERT."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or (not inert and is_inert(name)):
            continue
        found.add(name)
        waiting += imports(name)
    return found


def is_inert(name: str) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in INERT)


def file_of(name: str) -> Path:
    """The file of a module of this repository, relative to its top."""
    path = Path(*name.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


@functools.cache
def imports(name: str) -> tuple[str, ...]:
    """What a module imports of pipeline/ when it runs, in the order of the text. An empty package is none."""
    file = ROOT / file_of(name)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: dict[str, None] = {}
    for node in _running(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [inner if _is_module(inner := f"{base}.{alias.name}") else base for alias in node.names]
        for imported in names:
            parts = imported.split(".")
            if parts[0] == "pipeline":
                # A package runs before what is in it.
                found |= {
                    other: None
                    for length in range(1, len(parts) + 1)
                    if _is_module(other := ".".join(parts[:length])) and (ROOT / file_of(other)).read_bytes().strip()
                }
    return tuple(found)


def code_hash(command: str, *chosen: str) -> str:
    """A hash of the code of `command`, such as pipeline.train, with the modules that params.yaml chose for it.

    It stands in what the command writes, so that what is made of that is made again after a change of code that left the
    numbers as they were.
    """
    files = sorted(str(file_of(name)) for name in closure(command, *chosen))
    return artifacts.hash_json([[file, artifacts.hash_file(ROOT / file)] for file in files])


def trained_by(family: str) -> str:
    """The code hash of a model of `family`."""
    return code_hash("pipeline.train", plugins.module_name("families", family))


def _is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _running(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements of a tree, without those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield from _running(node)
