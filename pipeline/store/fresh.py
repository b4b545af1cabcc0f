"""What an output was made of, against what params.yaml and the files before it say now.

DVC makes again what is stale; a command given by hand would take it as it lies. The functions here raise ValueError with one
sentence: the output, what it was made of, what there is now, and the command that mends it. What an output was made of may be
away (outputs can be pulled one by one): then there is nothing to hold it against.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import schema
from pipeline.config.schema import Params
from pipeline.core import artifacts
from pipeline.core.layout import Layout
from pipeline.store.results import Source, existing

STAGES = {"runs": "train", "composed": "compose", "codecs": "codec", "extractors": "extractor", "latents": "encode"}
SHOWN = 3  # differences in one sentence
# What a key that may be left out stands for: an output of before there was such a key is not stale.
EMPTY: tuple[Any, ...] = ([], {})


def stage_of(folder: Path) -> str:
    """The stage that writes a model's folder, such as train@vdm; nothing for a folder outside of the pipeline."""
    role = folder.parent.name
    if folder.name == "codec" and folder.parent.parent.name == "latents":  # a codec beside its latents
        return stage_of(folder.parent)
    if role == "runs" and _is_composed(folder / "config.json"):
        role = "composed"
    return f"{STAGES[role]}@{folder.name}" if role in STAGES else ""


def mend(folder: Path) -> str:
    """The command that makes a model's folder again; for one outside of the pipeline, the whole pipeline."""
    return f"dvc repro {stage_of(folder)}".rstrip()


def _is_composed(config: Path) -> bool:
    """Whether config.json, if it reads, is of a model put together of others: it lies beside those that were trained."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    parts = found.values() if isinstance(found, dict) else ()
    return any(isinstance(part, dict) and set(part) == {"run", "weights"} for part in parts)


def role_of(params: Params, run: str) -> str:
    """The block in which a run stands: runs, or composed."""
    return "composed" if run in params.composed else "runs"


def check_trained_on(config: Mapping[str, Any], folder: Path, data: str, path: str | Path) -> None:
    """The model of `config`, which lies in `folder`, was trained on the data at `path`, whose hash is `data`."""
    trained_on = str(config["data"]["hash"])
    if trained_on != data:
        raise ValueError(f"{folder} was trained on data {trained_on[:8]}, {path} is {data[:8]}; run: {mend(folder)}")


def check_model(params: Params, role: str, name: str, root: Path) -> None:
    """The model of an entry of `role` (runs, composed, codecs, extractors) is there and was trained with that entry."""
    place, stage = Layout(root), f"{STAGES[role]}@{name}"
    folder = place.model(role, name)
    existing(folder / "model.safetensors", stage)
    config = Source.open(folder / "config.json", stage)
    if role == "composed":
        composed = params.composed[name]
        made_of = {"family": config.get("run.family"), "parts": {part: config.get(f"{part}.run") for part in composed.parts}}
        _check_same(folder, made_of, composed.model_dump(mode="json"), f"composed.{name}", stage)
        for part, run in composed.parts.items():
            _check_weights(folder, config.get(f"{part}.weights"), place.run(run), stage)
        return
    cfg: schema.Run = getattr(params, role)[name]
    _check_same(folder, config.get("run"), cfg.model_dump(mode="json"), f"{role}.{name}", stage)


def check_sample(params: Params, name: str, root: Path) -> Source:
    """samples/<name> is whole, of its block in params.yaml and of the model that its run has now; returns sample.json."""
    place, stage = Layout(root), f"sample@{name}"
    folder, sample = place.sample(name), params.samples[name]
    images = existing(folder / "images.npy", stage)
    described = Source.open(folder / "sample.json", stage)
    _check_same(folder, described.get("block"), sample.model_dump(mode="json"), f"samples.{name}", stage)
    if artifacts.hash_file(images) != described.get("sha256"):
        raise ValueError(
            f"{images} is not what {folder / 'sample.json'} describes: it was changed, or sampling broke off; "
            f"run: dvc repro {stage}"
        )
    run = place.run(sample.run)
    _check_weights(folder, described.get("weights"), run, stage)
    if (run / "config.json").is_file():
        code = artifacts.read_json(run / "config.json").get("code")
        if code != described.get("code"):
            raise ValueError(f"{folder} was made before the code of {run} changed; run: dvc repro {stage}")
    return described


def evaluation(params: Params, extractor: str, root: Path, sample: str | None = None) -> dict[str, Any]:
    """What an evaluation is made of, as details.json keeps it. extractor: hash of its weights; sample: None for baselines."""
    made: dict[str, Any] = {
        "evaluate": params.evaluate.model_dump(mode="json"),
        "near_duplicate_grey_levels": params.data.near_duplicate_grey_levels,
        "extractor": extractor,
    }
    if sample is not None:
        made["sample"] = artifacts.hash_file(Layout(root).sample(sample) / "sample.json")
    return made


def check_evaluation(params: Params, name: str, root: Path) -> Source:
    """evaluations/<name> was measured with the settings of params.yaml, on the sample and by the extractor that there are.

    `name`: a sample, which is checked too, or `baselines`. Returns details.json.
    """
    place, baselines = Layout(root), name == "baselines"
    stage = name if baselines else f"evaluate@{name}"
    folder = place.evaluation(name)
    if not baselines:
        check_sample(params, name, root)
    details = Source.open(folder / "details.json", stage)
    made, now = details.get("made_of"), evaluation(params, str(details.get("made_of.extractor")), root)
    for key in ("evaluate", "near_duplicate_grey_levels"):
        _check_same(folder, {key: made.get(key)}, {key: now[key]}, "", stage, "measured")
    if not baselines and details.get("made_of.sample") != artifacts.hash_file(place.sample(name) / "sample.json"):
        raise ValueError(f"{folder} was measured on another sample than {place.sample(name)} is now; run: dvc repro {stage}")
    if params.evaluate.extractor in params.extractors:
        _check_weights(folder, made["extractor"], place.extractor(params.evaluate.extractor), stage, "measured")
    return details


def check_bound(params: Params, name: str, root: Path) -> Source:
    """bounds/<name> is whole, of its block in params.yaml and of the weights that its run has now; returns details.json."""
    place, stage = Layout(root), f"bound@{name}"
    folder = place.bound(name)
    bits = existing(folder / "bits.npy", stage)
    details = Source.open(folder / "details.json", stage)
    now = params.bounds[name].model_dump(mode="json")
    _check_same(folder, details.get("block"), now, f"bounds.{name}", stage, "measured")
    if artifacts.hash_file(bits) != details.get("sha256"):
        raise ValueError(f"{bits} is not what {details.path} describes; run: dvc repro {stage}")
    _check_weights(folder, details.get("weights"), place.run(name), stage, "measured")
    return details


def check_study(params: Params, name: str, root: Path) -> None:
    """studies/<name> is of its block in params.yaml and of the weights that its run has now."""
    place, stage = Layout(root), f"study@{name}"
    details = Source.open(place.study(name) / "details.json", stage)
    made, study = details.get("measured.study"), params.studies[name]
    _check_same(place.study(name), made, study.model_dump(mode="json"), f"studies.{name}", stage, "measured")
    _check_weights(place.study(name), details.get("measured.weights"), place.run(study.run), stage, "measured")


def _check_weights(folder: Path, made_with: str, model: Path, stage: str, made: str = "made") -> None:
    weights = model / "model.safetensors"
    if weights.is_file() and (now := artifacts.hash_file(weights)) != made_with:
        raise ValueError(
            f"{folder} was {made} with the weights {str(made_with)[:8]} of {model}, which has {now[:8]} now; "
            f"run: dvc repro {stage}"
        )


def _check_same(
    folder: Path, made: Mapping[str, Any], now: Mapping[str, Any], prefix: str, stage: str, verb: str = "made"
) -> None:
    different = list(differences(made, now, prefix))
    if different:
        more = f" (and {len(different) - SHOWN} more)" if len(different) > SHOWN else ""
        before, after = (
            " and ".join(f"{key} {_short(values[which])}" for key, *values in different[:SHOWN]) for which in (0, 1)
        )
        raise ValueError(f"{folder} was {verb} with {before}{more}, params.yaml says {after}; run: dvc repro {stage}")


def differences(made: Any, now: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, value then, value now, of every leaf that differs; what one side lacks is as null, or empty."""
    if isinstance(made, Mapping) and isinstance(now, Mapping):
        for name in {**now, **made}:
            yield from differences(made.get(name), now.get(name), f"{key}.{name}" if key else str(name))
    elif (None if made in EMPTY else made) != (None if now in EMPTY else now):
        yield key, made, now


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
