"""What does not go together is refused before any stage works: samplers, runs, codecs, guidance, optimizer_groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import check
from tests.support.blocks import filled
from tests.support.mistakes import changed, refusal, tiny_values, write

GUIDED = {"run": "ddpm", "sampler": {"kind": "ddim"}, "steps": 5, "guidance": 2.0, "images": 60}

# Where, what is put there, and what the sentence must say.
MISTAKES: dict[str, tuple[str, Any, list[str]]] = {
    "more DDIM steps than T": (
        "samples.latent-guided-5.steps", 51, ["samples.latent-guided-5: steps is 51", "allowed: 1 to 50"],
    ),
    "other steps than the GAN's": (
        "samples.ddgan-posterior-4.steps", 3, ["samples.ddgan-posterior-4: steps is 3", "allowed: 4"],
    ),
    "solver for a GAN": (
        "samples.ddgan-posterior-4.sampler.kind", "heun",
        ["samples.ddgan-posterior-4.sampler.kind is 'heun'", "allowed for the family ddgan, which draws x_hat: 'posterior'"],
    ),
    "solver for DiffEnc": (
        "runs.vdm",
        {
            "family": "diffenc", "data": "data/prepared", "optimal_variance_steps": [3, 5],
            "model": {"schedule": {"kind": "linear-logsnr"}, "kind": "non-trainable"},
            "training": {"steps": 1, "learning_rate": 0.1},
        },
        ["samples.vdm-heun-3.sampler.kind is 'heun'", "allowed for the family diffenc, whose x_hat is not the mean"],
    ),
    "deterministic steps for a GAN": (
        "samples.ddgan-posterior-4.sampler.kind", "ddim", ["samples.ddgan-posterior-4.sampler.kind is 'ddim'", "'posterior'"],
    ),
    "one step for two networks": (
        "samples.daed-ancestral-6.steps", 1, ["samples.daed-ancestral-6: steps is 1", "allowed: 2 to "],
    ),
    "grid of a chain in continuous time": (
        "samples.vdm-ddim-5.sampler.spacing", "quadratic", ["sampler.spacing is 'quadratic'", "'logsnr', 'trailing'"],
    ),
    "clipped latents": (
        "samples.latent-guided-5.sampler.clip", True, ["samples.latent-guided-5.sampler.clip is true", "false"],
    ),
    "variances that nobody estimated": (
        "samples.vdm-ddim-5", {"run": "vdm", "sampler": {"kind": "ancestral", "variance": "optimal"}, "steps": 4, "images": 60},
        ["samples.vdm-ddim-5.steps is 4", "variance: optimal", "runs.vdm.optimal_variance_steps: 3, 5"],
    ),
    "negative guidance": ("samples.latent-guided-5.guidance", -1.0, ["guidance is -1.0", "greater than or equal to 0"]),
    "guidance without labels": (
        "samples.vdm-ddim-5.guidance", 2.0,
        ["samples.vdm-ddim-5.guidance is 2.0", "null, as the run is trained without labels"],
    ),
    "guidance of what always saw its class": (
        "runs.latent.model.label_dropout", 0.0, ["samples.latent-guided-5.guidance is 2.0", "1 or null", "label_dropout"],
    ),
    "latents of no codec": (
        "runs.latent.data", "data/latents/kll", ["runs.latent.data is 'data/latents/kll'", "data/latents/kl,"],
    ),
    "a codec of latents": (
        "codecs.kl.data", "data/latents/kl", ["codecs.kl.data is 'data/latents/kl'", "allowed: data/prepared"],
    ),
    "a codec that encodes nothing": (
        "codecs.kl", {"family": "classifier", "data": "data/prepared", "training": {"steps": 1, "learning_rate": 0.1}},
        ["codecs.kl.family is 'classifier', which encodes nothing", "allowed: autoencoder"],
    ),
    "a run that generates nothing": (
        "runs.latent", {"family": "autoencoder", "data": "data/prepared", "training": {"steps": 1, "learning_rate": 0.1}},
        ["runs.latent.family is 'autoencoder', which generates nothing", "allowed: daed, ddgan, ddpm, diffenc, vdm"],
    ),
    "bound as the loss on latents": (
        "runs.latent.model.objective", "vlb", ["runs.latent.model.objective is 'vlb'", "allowed for latents", "'simple'"],
    ),
    "learned schedule on latents": (
        "runs.latent",
        {
            "family": "vdm", "data": "data/latents/kl", "model": {"schedule": {"kind": "learned-linear"}},
            "training": {"steps": 1, "learning_rate": 0.1},
        },
        ["runs.latent.model.schedule.kind is 'learned-linear'", "a schedule that is not learned"],
    ),
    "bits/dim of latents": ("bounds.latent", {}, ["latent, whose data data/latents/kl are latents"]),
    "bits/dim of a GAN": ("bounds.ddgan", {}, ["bounds.ddgan asks for bits/dim of the family ddgan, which has no bound"]),
    "unknown extractor of a loss": (
        "codecs.kl.extractor", "vgg", ["codecs.kl.extractor is 'vgg'", "allowed: convnet"],
    ),
    "unknown group": (
        "runs.ddgan.training.optimizer_groups", {"critic": {"learning_rate": 0.1}},
        ["runs.ddgan.training.optimizer_groups is 'critic'", "allowed: discriminator, generator"],
    ),
    "group of a single group's family": (
        "runs.vdm.training.optimizer_groups", {"discriminator": {}},
        ["runs.vdm.training.optimizer_groups is 'discriminator'", "allowed: model"],
    ),
    "batch that minibatch deviation cannot divide": (
        "runs.ddgan.training.batch", 30, ["runs.ddgan.training.batch is 30", "multiples of 4"],
    ),
    "jumps that the GAN does not have": (
        "runs.ddgan.model.schedule.steps", 3, ["runs.ddgan.model.schedule.steps is 3", "1, 2, 4 or 8"],
    ),
    "first step given twice": (
        "runs.daed.model.schedule.first", {"beta": 0.1, "logsnr": 2.2}, ["runs.daed.model.schedule", "exactly one of both"],
    ),
    "sample of a denoiser alone": (
        "runs.daed.model.parts", "denoiser", ["daed", "trains a denoiser alone", "composed:"],
    ),
    "combination of an unknown run": (
        "composed.daed-two-stage.parts.denoiser", "dead",
        ["composed.daed-two-stage.parts.denoiser is 'dead'", "did you mean 'daed'?"],
    ),
    "combination across data": (
        "composed.daed-two-stage.parts.generator", "latent",
        ["composed.daed-two-stage joins", "data/prepared", "data/latents/kl"],
    ),
    "combination of a family that has no parts": (
        "composed.daed-two-stage.family", "vdm",
        ["composed.daed-two-stage.family is 'vdm', whose models are not put together", "allowed: daed"],
    ),
    "combination of no family": (
        "composed.daed-two-stage.family", "dead", ["composed.daed-two-stage.family is 'dead' (did you mean 'daed'?)"],
    ),
    "part that the family does not have": (
        "composed.daed-two-stage.parts.encoder", "daed",
        ["composed.daed-two-stage.parts is 'encoder'", "allowed: denoiser, generator"],
    ),
    "part that is not there": (
        "composed.daed-two-stage.parts", {"denoiser": "daed"},
        ["composed.daed-two-stage.parts.generator is missing", "put together from denoiser, generator"],
    ),
    "no part at all": ("composed.daed-two-stage.parts", {}, ["composed.daed-two-stage.parts is {}", "at least 1 item"]),
    "part without a chain of discrete steps": (
        "composed.daed-two-stage.parts.generator", "vdm", ["is 'vdm' of family vdm, which has no generator", "daed or ddpm"],
    ),
    "combination of one name with a run": (
        "composed.vdm", {"family": "daed", "parts": {"denoiser": "daed", "generator": "ddpm"}},
        ["composed.vdm has the name of"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_refused_in_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where, value, expected = MISTAKES[name]
    said = refusal(write(tmp_path, filled(changed(tiny_values(), where, value))), tmp_path / "checked", capsys)
    for part in expected:
        assert part in said, said


def test_a_generator_that_draws_cannot_be_guided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With labels it is asked for classes in turn; guidance is refused, whatever its strength."""
    values = changed(tiny_values(), "runs.ddgan.model.labels", True)
    assert check.main(["--params", str(write(tmp_path, values)), "--out", str(tmp_path / "checked")]) == 0
    (tmp_path / "checked").unlink()
    guided = write(tmp_path, changed(values, "samples.ddgan-posterior-4.guidance", 1.0))
    said = refusal(guided, tmp_path / "checked", capsys)
    assert "samples.ddgan-posterior-4.guidance is 1.0" in said
    assert "null, as x_hat of the family ddgan is no mean to guide" in said


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("samples.latent-guided-5.guidance", None),
        ("samples.latent-guided-5.guidance", 0.0),
        ("samples.vdm-heun-3.sampler.kind", "dpmpp_2m"),
        ("samples.daed-two-stage-ddim-4.sampler", {"kind": "ancestral", "variance": "large", "spacing": "quadratic"}),
        ("runs.ddgan.training.batch", 36),
        ("composed", {"daed-two-stage": {"family": "daed", "parts": {"denoiser": "daed", "generator": "daed"}}}),
    ],
)
def test_what_goes_together_is_allowed(where: str, value: Any, tmp_path: Path) -> None:
    """The neighbours of mistakes."""
    file = write(tmp_path, filled(changed(tiny_values(), where, value)))
    assert check.main(["--params", str(file), "--out", str(tmp_path / "checked")]) == 0
