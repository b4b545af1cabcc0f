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
    check(load_params(params))
    artifacts.write_text(out, "every block of the parameter file reads\n")


def check(params: schema.Params) -> None:
    """Reads every block that belongs to a module: families, data set, samplers, metrics, studies. Imports torch."""
    read_block(plugins.dataset(params.data.kind).Config, params.data.source, "data.source")
    _metrics(params)
    models = {
        name: _trainable(run, params, f"{role}.{name}")
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


def _trainable(run: schema.Run, params: schema.Params, key: str) -> Any:
    """The family's own reading of `run.model`, once everything that can be said before training has been checked."""
    module = plugins.family(run.family)
    model = read_model(run, key)
    for group in run.training.optimizer_groups:
        if group not in module.Model.optimizer_group_names:
            raise unknown(f"{key}.training.optimizer_groups", group, list(module.Model.optimizer_group_names))
    _said(f"{key}.", lambda: model.check_training(run.training))
    _said(f"{key}.model.", lambda: model.check_data(discrete=latents_of(run.data) is None))
    return model


def _roles(params: schema.Params, models: dict[str, Any]) -> None:
    """Every block asks of a family only what it can do."""
    from pipeline.core import contracts

    def model_of(run: schema.Run) -> type:
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
    key = f"samples.{name}"
    sampler = read_plugin("samplers", sample.sampler, f"{key}.sampler")
    family, data = params.family(sample.run), params.data_of(sample.run)
    model = models[sample.run]
    estimated = params.runs[sample.run].optimal_variance_steps if sample.run in params.runs else ()
    _said(f"{key}.run is {sample.run!r}: ", model.check_sampling)
    model.schedule.build().times(sample.steps, sampler.spacing)
    kind = plugins.family(family).Model
    if kind.samples_x and sampler.kind != "posterior":
        raise ValueError(
            f"{key}.sampler.kind is {sampler.kind!r}; allowed for the family {family}, which draws x_hat: 'posterior'"
        )
    if sampler.solver and not kind.has_probability_flow:
        raise ValueError(
            f"{key}.sampler.kind is {sampler.kind!r}; allowed for the family {family}, whose x_hat is not the mean of one "
            "fixed x: samplers that are no solvers of the probability flow, such as 'ancestral'"
        )
    if sampler.optimal_variance and sample.steps not in estimated:
        raise ValueError(
            f"{key}.steps is {sample.steps}; allowed with variance: optimal are numbers of steps whose variances are stored "
            f"with the model, runs.{sample.run}.optimal_variance_steps: {listed(estimated) or 'none'}"
        )
    if sampler.clip and latents_of(data) is not None:
        raise ValueError(f"{key}.sampler.clip is true; allowed for {data}, as latents have no range to clip to: false")
    if sample.guidance is None:
        return
    if not model.class_conditional:
        allowed = "null, as the run is trained without labels"
    elif model.unconditional_probability is None:
        allowed = f"null, as x_hat of the family {family} is no mean to guide"
    elif model.unconditional_probability == 0 and sample.guidance != 1:
        allowed = "1 or null, as the run's label_dropout of 0 shows it no image without a class"
    else:
        return
    raise ValueError(f"{key}.guidance is {sample.guidance}; allowed for the run {sample.run!r}: {allowed}")


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
