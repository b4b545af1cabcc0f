"""params.yaml and the profiles: every value that changes a number stands there, and `-S` changes it and nothing else."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline.config import plugins
from pipeline.config.load import load_params, read_block, read_model, read_plugin, with_defaults
from pipeline.config.text import read, tuples
from pipeline.core.code import ROOT

FILES = ("params.yaml", "profiles/gpu.yaml", "tests/profiles/tiny.yaml")
Leaf = tuple[str, ...]


def plain(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    return values


def leaves(values: Any, path: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Every value that is no mapping, lists as one."""
    if isinstance(values, dict):
        for key, inner in values.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, values


def stated(values: Any) -> Any:
    """Mappings without what is null or empty: it says that there is none of it, and leaving it out says the same."""
    if isinstance(values, dict):
        return {key: found for key, inner in values.items() if (found := stated(inner)) not in (None, {}, [])}
    return [stated(inner) for inner in values] if isinstance(values, list | tuple) else values


def parsed(name: str) -> dict[str, Any]:
    """All that the types make of a file, the blocks of families, samplers, studies and the data set included."""
    params = load_params(ROOT / name)
    values: dict[str, Any] = params.model_dump(mode="json", by_alias=True)
    values["data"]["source"] = read_block(
        plugins.dataset(params.data.kind).Config, params.data.source, "data.source"
    ).model_dump(mode="json")
    for role in ("extractors", "codecs", "runs"):
        for entry, run in getattr(params, role).items():
            values[role][entry]["model"] = read_model(run, f"{role}.{entry}").model_dump(mode="json")
    for entry, sample in params.samples.items():
        values["samples"][entry]["sampler"] = read_plugin("samplers", sample.sampler, entry).model_dump(mode="json")
    return values


@pytest.mark.parametrize("name", FILES)
def test_no_value_comes_from_the_code(name: str) -> None:
    """What the types say of a block is what the file says, defaults: merged in. A default in code would be seen here."""
    written = with_defaults(plain(ROOT / name))
    assert stated(parsed(name)) == stated(written)


@pytest.mark.parametrize(
    ("name", "every"), [(FILES[0], 16), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in FILES)]
)
def test_an_override_changes_one_value(name: str, every: int, tmp_path: Path) -> None:
    """DVC writes `-S` through aliases: with one, this fails for every leaf that shares it. Half a second a leaf."""
    file = tmp_path / "params.yaml"
    before = plain(ROOT / name)
    for path, value in list(leaves(before))[::every]:
        text = (ROOT / name).read_text(encoding="utf-8")
        file.write_text(text, encoding="utf-8")
        new = another(value)
        apply_overrides(file, [f"{'.'.join(path)}={written(new)}"])
        expected = copy.deepcopy(before)
        inner = expected
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = new
        assert plain(file) == expected, path
        # The file is in the layout that DVC writes: a reviewer sees the one line that was changed (a list gets one more).
        changed = [line for line in difflib.ndiff(text.splitlines(), file.read_text("utf-8").splitlines()) if line[0] in "+-"]
        shown = ["-+"] if not isinstance(value, list) else ["-+", "+" if value else "-++"]
        assert "".join(line[0] for line in changed) in shown, changed
        assert tuples(expected) == read(file)


def another(value: Any) -> Any:
    """A value of the same type that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 7]
    assert value is None or isinstance(value, str), value
    return "another"


def written(value: Any) -> str:
    """As the command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return str(value)


# The first two words of a path -> the stages that read it. {} is the entry's name.
READERS: dict[str, list[str]] = {
    "data": ["prepare"],
    "validate.data": ["validate"],
    "validate.samples": ["evaluate@*"],
    "extractors": ["extractor@{}"],
    "codecs": ["codec@{}", "encode@{}"],
    "runs": ["train@{}"],
    "composed": ["compose@{}"],
    "samples": ["sample@{}"],
    "bounds": ["bound@{}"],
    "studies": ["study@{}"],
    "evaluate": ["evaluate@*", "baselines"],
    "defaults.training": ["extractor@*", "codec@*", "train@*"],
    "defaults.bound": ["bound@*"],
}
# What reads more than its own blocks: the comparison and the page name entries and say what they are.
SUMMARIES = {"check", "compare", "report"}
ALSO = {
    "data.near_duplicate_grey_levels": ["evaluate@*", "baselines"],
    "evaluate.extractor": ["study@*"],
}


def test_a_value_runs_the_stages_that_read_it() -> None:
    """Every leaf of params.yaml against the stages whose `params:` hold it, by DVC's own reading of dvc.yaml."""
    with Repo(ROOT) as repo:
        reads = {stage.name: [key for dep in stage.deps for key in getattr(dep, "params", [])] for stage in repo.index.stages}
    for path, _ in leaves(plain(ROOT / "params.yaml")):
        dotted = ".".join(path)
        found = {
            stage
            for stage, keys in reads.items()
            if any(dotted == key or dotted.startswith(f"{key}.") for key in keys) and stage not in SUMMARIES
        }
        key = path[0] if path[0] in READERS else ".".join(path[:2])
        names = [name.format(path[1]) for name in READERS[key] + ALSO.get(dotted, [])]
        expected = {
            stage for stage in reads for name in names if stage == name or (name.endswith("*") and stage.startswith(name[:-1]))
        }
        assert found == expected, dotted
