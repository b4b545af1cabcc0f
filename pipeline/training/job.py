"""One training from its block of params.yaml to its files: built, continued where there is a checkpoint, fitted, written."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from pipeline.config import schema
from pipeline.core import artifacts
from pipeline.core.contracts import FeatureExtractor, Generative, Pretrained, Trainable, UsesPerceptualLoss
from pipeline.core.device import choose_precision, pick_device
from pipeline.core.progress import Progress
from pipeline.core.random import derive_seed
from pipeline.store import models
from pipeline.store.data import DataDirectory
from pipeline.store.fresh import check_trained_on
from pipeline.store.splits import Split
from pipeline.training import checkpoint, curve, loop, pretrained, result, reverse_variance
from pipeline.training.ending import ToldToEnd


def run(cfg: schema.Entry, paths: result.Paths, key: str) -> None:
    """Trains `cfg` to the end, or takes over its weights if it is pretrained. `key`: where it stands in params.yaml.

    Raises ValueError, with the reason and with what is left to go back to, for a training that ended by itself.
    """
    data = DataDirectory.open(paths.data)
    device = pick_device()
    torch.manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(cfg.seed, 0, "initialisation"))
        model = models.build(cfg, data.data_spec, key).to(device)
    if isinstance(model, Pretrained):
        pretrained.adopt(model, cfg, data, paths, key)
        return
    assert cfg.training is not None, "refused when the model block is read"
    seen_through = _look_through(paths.extractor, model, data, device)
    precision = choose_precision(cfg.training.precision, device)
    checkpoints = checkpoint.Checkpoints(result.made_of(cfg, data, precision, device, seen_through), paths.out)
    job = Job(cfg, cfg.training, data, loop.State(model, cfg.training), checkpoints, device, key)
    try:
        with ToldToEnd() as told:
            first = job.resume()
            began = time.monotonic()
            job.fit(told)
            told.stop_waiting()
            if told:
                job.end(told)
            _write(job, paths, precision, began, first)
        checkpoints.clear()
    except loop.TrainingFailed as error:
        left = (
            f"the last good checkpoint, of step {job.kept}, is kept in {checkpoints.folder}"
            if job.kept
            else "no checkpoint was due yet"
        )
        raise ValueError(f"{key}: {error}; {left}") from None
    finally:
        checkpoints.close()


class Job:
    """A training with its curve and its checkpoints. kept: the step of the newest checkpoint, 0 for none."""

    def __init__(
        self, cfg: schema.Entry, settings: schema.Training, data: DataDirectory, state: loop.State,
        checkpoints: checkpoint.Checkpoints, device: torch.device, key: str,
    ) -> None:  # fmt: skip
        self.cfg, self.settings, self.data, self.state = cfg, settings, data, state
        self.checkpoints, self.device, self.key = checkpoints, device, key
        self.rows: list[curve.Row] = []
        self.window: list[loop.Report] = []  # since the last row; kept in checkpoints, so that the rows stay the same
        self.train, self.valid = Split(data, "train"), Split(data, "valid")
        self.kept = 0

    def resume(self) -> int:
        """Continues from the newest checkpoint, if there is one; the step it begins at. Names those it cannot continue."""
        found = self.checkpoints.load()
        if found is not None:
            tensors, record = found
            self.state.load(tensors, record)
            self.rows, self.window = record["rows"], [loop.Report(**report) for report in record["window"]]
            print(f"{self.key}: continuing from step {self.state.step}", flush=True)
        for other in self.checkpoints.others():
            print(
                f"{self.key}: not continued is the checkpoint of step {other.step} in {other.folder}, which differs in "
                f"{', '.join(other.differs) or 'the form of its record'}; remove that folder if nobody needs it",
                flush=True,
            )
        self.kept = self.state.step
        return self.state.step

    def fit(self, told: ToldToEnd) -> None:
        """Trains to the last step, with a checkpoint where one is due; ends the process where it is told to."""
        settings, state, seed = self.settings, self.state, self.cfg.seed
        total = settings.steps * settings.batch
        with Progress(total, "images", self.key, start=state.step * settings.batch) as progress:
            for report in loop.fit(self.train, state, settings, seed, self.device):
                self.window.append(report)
                last = report.step == settings.steps
                if report.step % settings.log_every == 0 or last:
                    row = curve.row(self.window, state.clipped)
                    self.window = []
                    if report.step % settings.valid_every == 0 or last:
                        measured = loop.validate(self.valid, state, settings, seed, self.device)
                        row |= {f"valid/{name}": value for name, value in measured.items()}
                    self.rows.append(row)
                progress.update(settings.batch, " ".join(f"{name} {value:.4g}" for name, value in report.parts.items()))
                if told:
                    self.end(told)
                # A model with a symptom of failure is not worth going back to: the last good one stays.
                if report.step % settings.checkpoint_every == 0 and not last and state.symptom is None:
                    self.save()

    def save(self) -> None:
        """Writes a checkpoint."""
        self.kept = self.state.step
        record = {**self.state.record(), "rows": self.rows, "window": [asdict(report) for report in self.window]}
        self.checkpoints.save(self.state.tensors(), record)

    def end(self, told: ToldToEnd) -> NoReturn:
        """Writes a checkpoint and ends the process with the signal's status."""
        self.save()
        print(f"{self.key}: told to end; checkpoint at step {self.state.step}", flush=True)
        sys.exit(told.status)


def _write(job: Job, paths: result.Paths, precision: str, began: float, first: int) -> None:
    """Everything is computed before anything is written: who ends us in between leaves nothing half-written."""
    variances = _reverse_variances(job)
    models.check_finite(job.state.model, job.state.average.state(), job.key)
    final = _finite(curve.valid(job.rows[-1]), job.key)
    more = {"precision": precision, "clipped": job.state.clipped, "valid": final}
    result.write(paths, job.cfg, job.data, job.state.model, job.state.average.state(), job.rows, more)
    if variances is not None:
        artifacts.write_json(paths.out / "variance.json", variances)
    seconds, images = time.monotonic() - began, (job.settings.steps - first) * job.settings.batch
    speed = {"images_per_second": round(images / seconds, 1), "from_step": first, "precision": precision}
    result.write_timing(paths, seconds, job.device, speed)


def _reverse_variances(job: Job) -> dict[int, list[float]] | None:
    """The optimal variances of the averaged weights, for the chains that the run asks for; None where it asks for none."""
    cfg, model = job.cfg, job.state.model
    if not isinstance(cfg, schema.Run) or not cfg.optimal_variance_steps:
        return None
    job.save()  # what follows takes a while
    assert isinstance(model, Generative), "checked when params.yaml is read"
    job.state.average.swap(model)
    found = reverse_variance.estimate(model.eval(), job.train, cfg.optimal_variance_steps, cfg.seed, job.device)
    job.state.average.swap(model)
    return found


def _finite(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """`values` again. Raises ValueError for one that is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{key}: {name} is {value} after the last step; train anew with a lower learning_rate")
    return values


def _look_through(folder: Path | None, model: Trainable, data: DataDirectory, device: torch.device) -> str | None:
    """Gives a model with a perceptual loss its extractor; the hash of that one's weights, None where there is no such loss.

    Raises ValueError if the extractor is missing, or knows other data.
    """
    if not isinstance(model, UsesPerceptualLoss) or not model.perceives:
        return None
    assert folder is not None, "a codec names its extractor"
    found = models.load(folder, device)
    check_trained_on(found.config, folder, data.hash, data.path)
    assert isinstance(found.model, FeatureExtractor), "checked when params.yaml is read"
    model.perceive(found.model)
    return found.hash
