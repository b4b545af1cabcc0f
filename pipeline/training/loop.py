"""The one training loop: every family, any number of optimizer_groups, one optimizer each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import schema
from pipeline.core.contracts import Trainable
from pipeline.core.device import autocast, choose_precision
from pipeline.core.random import KeyedRandom, derive_seed
from pipeline.store.splits import Split, training_rows
from pipeline.training import ema


class TrainingFailed(RuntimeError):
    """Training ended by itself, with the reason as its message; the last good checkpoint stays."""


@dataclass(frozen=True)
class Report:
    """After optimizer and average have moved: step counts from 1; `parts` are means over the batch, named group/part.

    gradient_norm, learning_rate: by group, the norm before clipping.
    """

    step: int
    parts: Mapping[str, float]
    gradient_norm: Mapping[str, float]
    learning_rate: Mapping[str, float]


class State:
    """All that training changes: weights, optimizers, average, step, counters. Randomness is keyed, so none is stored."""

    def __init__(self, model: Trainable, settings: schema.Training) -> None:
        self.model, self.step = model, 0
        self.average = ema.Average(model)
        self.clipped = dict.fromkeys(model.optimizer_groups(), 0)
        self.symptom: tuple[str, int] | None = None  # a symptom, and for how many steps on end
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        self.optimizers = {
            group: torch.optim.AdamW(
                parameter_groups(owned, settings.weight_decay),
                lr=base_rate(group, settings),
                betas=settings.betas,
                fused=True if not on_gpu or torch.cuda.is_available() else None,
            )
            for group, owned in model.optimizer_groups().items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, for a checkpoint."""
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        named |= {f"average.{name}": value for name, value in self.average.state().items()}
        for group, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                named |= {f"optimizer.{group}.{index}.{name}": value for name, value in state.items()}
        return named

    def record(self) -> dict[str, Any]:
        """The rest of it, as JSON has it."""
        return {"step": self.step, "clipped": self.clipped, "symptom": self.symptom}

    def load(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """From `tensors()` and `record()`."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(under("model."))
        self.average.load(under("average."))
        for group, optimizer in self.optimizers.items():
            held: dict[int, dict[str, Tensor]] = {}
            for name, value in under(f"optimizer.{group}.").items():
                index, field = name.split(".", 1)
                held.setdefault(int(index), {})[field] = value
            optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})
            # A checkpoint has no strides, and the fused step takes it for granted that weights and moments lie alike in memory.
            for parameter, moments in optimizer.state.items():
                for name, value in moments.items():
                    if value.shape == parameter.shape:
                        moments[name] = torch.empty_like(parameter).copy_(value)
        self.step, self.clipped = record["step"], dict(record["clipped"])
        self.symptom = None if record["symptom"] is None else (record["symptom"][0], record["symptom"][1])


def parameter_groups(owned: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels; none for biases, norms and scalars."""
    parameters = [parameter for parameter in owned.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    plain = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": plain, "weight_decay": 0.0}] if plain else groups


def base_rate(group: str, settings: schema.Training) -> float:
    """The learning rate that `group` has between warm-up and decay."""
    own = settings.optimizer_groups.get(group)
    return settings.learning_rate if own is None or own.learning_rate is None else own.learning_rate


def clip_norm(group: str, settings: schema.Training) -> float | None:
    """The norm that the gradient of `group` is clipped to; None: it is not."""
    own = settings.optimizer_groups.get(group)
    return settings.clip_norm if own is None or own.clip_norm is None else own.clip_norm


def rate_factor(step: int, settings: schema.Training) -> float:
    """At step 1..steps: linear warm-up to 1, constant, then linear decay to zero over the last `lr_cooldown_fraction`."""
    warm = min(1.0, step / settings.warmup) if settings.warmup else 1.0
    decay_steps = settings.lr_cooldown_fraction * settings.steps
    cool = min(1.0, (settings.steps - step + 1) / decay_steps) if decay_steps >= 1 else 1.0
    return min(warm, cool)


@contextlib.contextmanager
def only(model: nn.Module, owned: nn.Module) -> Iterator[None]:
    """Within it only the parameters of `owned` require gradients: what a group plays against costs no backward pass."""
    mine = set(owned.parameters())
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in mine]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def fit(data: Split, state: State, settings: schema.Training, seed: int, device: torch.device) -> Iterator[Report]:
    """Trains from state.step to settings.steps; yields after every step.

    Raises TrainingFailed on a gradient that is not finite, before it moves anything, and on a model that has shown one
    symptom for `settings.patience` steps on end.
    """
    model = state.model
    cast = choose_precision(settings.precision, device)
    model.train()
    while state.step < settings.steps:
        step = state.step + 1
        factor = rate_factor(step, settings)
        batch = data.rows(training_rows(len(data), settings.batch, state.step, seed), device)
        parts: dict[str, float] = {}
        norms: dict[str, float] = {}
        rates: dict[str, float] = {}
        for group, owned in model.optimizer_groups().items():
            optimizer = state.optimizers[group]
            rates[group] = factor * base_rate(group, settings)
            for parameters in optimizer.param_groups:
                parameters["lr"] = rates[group]
            torch.manual_seed(derive_seed(seed, step, group, "dropout"))  # layers draw from the global generator
            limit = clip_norm(group, settings)
            with only(model, owned):
                with autocast(cast, device):
                    loss = model.loss(group, batch, step, KeyedRandom(seed, step, device))
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss.total.mean())
            norm = float(nn.utils.clip_grad_norm_(owned.parameters(), limit or math.inf))
            if not math.isfinite(norm):
                raise TrainingFailed(
                    f"the gradient of {group} is not finite at step {step}; try a lower training.learning_rate"
                )
            state.clipped[group] += limit is not None and norm > limit
            optimizer.step()
            norms[group] = norm
            parts |= {f"{group}/{name}": float(value.detach().mean()) for name, value in loss.parts.items()}
        state.average.update(model, ema.decay(step, settings.ema_fraction, settings.ema_longest))
        state.step = step
        symptom = model.failure_symptom(parts)
        lasted = 1 + (state.symptom[1] if state.symptom is not None and state.symptom[0] == symptom else 0)
        state.symptom = None if symptom is None else (symptom, lasted)
        if symptom is not None and lasted >= settings.patience:
            raise TrainingFailed(f"at step {step}, for {lasted} steps on end: {symptom}")
        yield Report(step, parts, norms, rates)


@torch.no_grad()
def validate(data: Split, state: State, settings: schema.Training, seed: int, device: torch.device) -> dict[str, float]:
    """Mean of each part over the first images of the validation split, with averaged weights and the same noise each time."""
    model = state.model
    cast = choose_precision(settings.precision, device)
    count = min(settings.valid_images, len(data))
    sums: dict[str, float] = {}
    state.average.swap(model)
    model.eval()
    try:
        for first in range(0, count, settings.batch):
            rows = np.arange(first, min(first + settings.batch, count))
            batch = data.rows(rows, device)
            for group in model.optimizer_groups():
                with autocast(cast, device):
                    loss = model.loss(group, batch, first, KeyedRandom(seed, first, device))
                for name, value in loss.parts.items():
                    sums[f"{group}/{name}"] = sums.get(f"{group}/{name}", 0.0) + float(value.double().sum())
    finally:
        model.train()
        state.average.swap(model)
    return {name: value / count for name, value in sums.items()}
