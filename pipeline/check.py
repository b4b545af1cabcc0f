"""Reads params.yaml whole, with every block of every family: the first stage, so that a mistake ends before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import plugins, schema
from pipeline.config.composed import composed_run
from pipeline.config.errors import listed, unknown
from pipeline.config.load import load_params, read_block, read_metrics, read_model, read_plugin
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout, latents_of


def run(params: Path, out: Path) -> None:
    """Raises ValueError with one sentence, or writes `out`, which never changes: no stage runs again because of it."""
    found = load_params(params)
    check(found)
    if not found.samples:
        raise ValueError("samples is empty; the pipeline ends in a comparison of samples: add one, or train runs by hand")
    # DVC stops at a dependency that is not there: without an entry of a kind, say no study, nobody else makes its folder.
    for folder in Layout(out.parent.parent).made:
        folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(out, "every block of the parameter file reads\n")


def check(params: schema.Params) -> None:
    """Reads every block that belongs to a module: families, data set, samplers, metrics, studies. Imports torch."""
    read_block(plugins.dataset(params.data.kind).Config, params.data.source, "data.source")
    _metrics(params)
    models = {
        name: _model(run, params, f"{role}.{name}")
        for role, block in (("extractors", params.extractors), ("codecs", params.codecs), ("runs", params.runs))
        for name, run in block.items()
    }
    _roles(params, models)
    for name, composed in params.composed.items():
        key = f"composed.{name}"
        models[name] = read_model(composed_run(composed, params.runs, key)[0], key)
    for name, sample in params.samples.items():
        try:
            _sample(params, name, sample, models)
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith("samples.") else f"samples.{name}: {message}") from None
    for name, study in params.studies.items():
        read_plugin("studies", study.values, f"studies.{name}").check(params, f"studies.{name}")


def _metrics(params: schema.Params) -> None:
    """Every set of images that is measured is large enough for the settings of every metric."""
    sizes = {f"samples.{name}.images": sample.images for name, sample in params.samples.items()}
    least = 4 if params.evaluate.interval_resamples else 2  # with fewer, no setting of a metric would be allowed
    for key, images in {**sizes, "evaluate.baseline_images": params.evaluate.baseline_images}.items():
        if images < least:
            raise ValueError(
                f"{key} is {images}; allowed: {least} or more with evaluate.interval_resamples: "
                f"{params.evaluate.interval_resamples}, as distances are taken between images"
            )
    for name, config in read_metrics(params.evaluate.metrics).items():
        for key, images in {**sizes, "evaluate.baseline_images": params.evaluate.baseline_images}.items():
            # Intervals are taken from halves of the images.
            half = images // 2 if params.evaluate.interval_resamples else images
            for field, most in config.largest(images, half).items():
                if getattr(config, field) > most:
                    raise ValueError(
                        f"evaluate.metrics.{name}.{field} is {getattr(config, field)}; allowed: up to {most} with {key}, "
                        f"which is {images}"
                    )


def _model(run: schema.Entry, params: schema.Params, key: str) -> Any:
    """The family's own reading of `run.model`, once everything that can be said before training has been checked."""
    module = plugins.family(run.family)
    model = read_model(run, key)
    training = run.training
    if training is not None:
        for group in training.optimizer_groups:
            if group not in module.Model.optimizer_group_names:
                raise unknown(f"{key}.training.optimizer_groups", group, list(module.Model.optimizer_group_names))
        _said(f"{key}.", lambda: model.check_training(training))
    _said(f"{key}.model.", lambda: model.check_data(discrete=latents_of(run.data) is None))
    return model


def _roles(params: schema.Params, models: dict[str, Any]) -> None:
    """Every block asks of a family only what it can do."""
    from pipeline.core import contracts

    def model_of(run: schema.Entry) -> type:
        found: type = plugins.family(run.family).Model
        return found

    for name, extractor in params.extractors.items():
        if not issubclass(model_of(extractor), contracts.FeatureExtractor):
            raise ValueError(
                f"extractors.{name}.family is {extractor.family!r}, which has no features; allowed: "
                f"{listed(plugins.families_with(contracts.FeatureExtractor))}"
            )
    for name, codec in params.codecs.items():
        if not issubclass(model_of(codec), contracts.Codec):
            raise ValueError(
                f"codecs.{name}.family is {codec.family!r}, which encodes nothing; allowed: "
                f"{listed(plugins.families_with(contracts.Codec))}"
            )
    for name, run in params.runs.items():
        if issubclass(model_of(run), contracts.Codec | contracts.FeatureExtractor):
            raise ValueError(
                f"runs.{name}.family is {run.family!r}, which generates nothing; allowed: "
                f"{listed(plugins.families_with(contracts.Generative))}"
            )
        if run.optimal_variance_steps and not issubclass(model_of(run), contracts.FiniteStepModel):
            raise ValueError(
                f"runs.{name}.optimal_variance_steps is given, but the family {run.family} has a fixed number of steps; "
                "remove it"
            )
        if latents_of(run.data) is not None and name in params.bounds:
            raise ValueError(f"bounds may not name {name}, whose data {run.data} are latents: bits/dim needs discrete data")
    for name in params.bounds:
        family = params.family(name)
        if not issubclass(plugins.family(params.runs[name].family).Model, contracts.LikelihoodModel):
            raise ValueError(f"bounds.{name} asks for bits/dim of the family {family}, which has no bound; remove it")
        _said(f"bounds.{name} ", models[name].check_sampling)


def _sample(params: schema.Params, name: str, sample: schema.Sample, models: dict[str, Any]) -> None:
    """The sampler fits the run: its grid of steps, its needs, guidance and clipping."""
    from pipeline.samplers.fits import Sampled, check_sample

    key = f"samples.{name}"
    sampler = read_plugin("samplers", sample.sampler, f"{key}.sampler")
    family, block = params.family(sample.run), models[sample.run]
    estimated = params.runs[sample.run].optimal_variance_steps if sample.run in params.runs else ()
    latent = latents_of(params.data_of(sample.run)) is not None
    kind = plugins.family(family).Model
    check_sample(sample, sampler, Sampled(family, kind, block, block.schedule.build(), estimated, latent), key)


def _said(prefix: str, refuse: Callable[[], None]) -> None:
    """Puts `prefix` before what `refuse` says."""
    try:
        refuse()
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument(
        "--out",
        type=command.path,
        help="where to leave the mark that DVC waits for (default: %(default)s)",
        default=Layout().checked,
    )
    args = parser.parse_args(argv)
    return command.run_command(lambda: run(args.params, args.out))


if __name__ == "__main__":
    sys.exit(main())
