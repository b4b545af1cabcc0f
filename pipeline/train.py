"""Trains one run, one codec or one extractor of params.yaml; takes over the weights of an extractor that is pretrained.

A killed training continues from its last checkpoint when the same command is given again, and ends bit-equal to one that
was never killed. Ctrl-C (SIGINT) and SIGTERM save a checkpoint after the step that runs, and end with status 130 and 143; a
second Ctrl-C does not wait.
"""

from __future__ import annotations

import csv
import io
import math
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipeline.config import schema
from pipeline.config.load import load_params, read_block
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.core.progress import Progress
from pipeline.store.data import DataDirectory
from pipeline.store.fresh import check_model, check_trained_on

if TYPE_CHECKING:
    import torch

    from pipeline.core.contracts import Pretrained
    from pipeline.store.models import Saved
    from pipeline.training.loop import Report, State


@dataclass(frozen=True)
class Paths:
    """data: a data directory; out: gets model.safetensors, config.json, timing.json; curve: gets the training curve (CSV).

    extractor: the folder of what a perceptual loss looks through.
    """

    data: Path
    out: Path
    curve: Path
    extractor: Path | None = None


def run(cfg: schema.Entry, paths: Paths, key: str) -> None:
    """Trains `cfg` to the end, or takes over its weights if it is pretrained. `key`: where it stands in params.yaml.

    Raises ValueError, with the reason and with what is left to go back to, for a training that ended by itself.
    """
    import torch

    from pipeline.core.code import trained_by
    from pipeline.core.contracts import FeatureExtractor, Generative, Pretrained, UsesPerceptualLoss
    from pipeline.core.device import choose_precision, describe_device, pick_device
    from pipeline.store import models
    from pipeline.store.splits import Split
    from pipeline.training import checkpoint, loop, reverse_variance

    data = DataDirectory.open(paths.data)
    device = pick_device()
    torch.manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(_initial_seed(cfg))
        model = models.build(cfg, data.data_spec, key).to(device)
    settings = cfg.training
    if isinstance(model, Pretrained):
        _adopt(model, cfg, data, paths, key)
        return
    assert settings is not None, "refused when the model block is read"
    seen_through = None
    if isinstance(model, UsesPerceptualLoss) and model.perceives:
        assert paths.extractor is not None, "a codec names its extractor"
        extractor = _extractor(paths.extractor, data, device)
        assert isinstance(extractor.model, FeatureExtractor), "checked when params.yaml is read"
        model.perceive(extractor.model)
        seen_through = extractor.hash
    precision = choose_precision(settings.precision, device)
    state = loop.State(model, settings)
    made_of = _made_of(cfg, data, precision, device.type, seen_through)
    checkpoints = checkpoint.Checkpoints(made_of, paths.out)
    train, valid = Split(data, "train"), Split(data, "valid")
    rows: list[dict[str, Any]] = []
    window: list[Report] = []  # since the last row; checkpointed too, so that a continued run writes the same rows
    found = checkpoints.load()
    if found is not None:
        tensors, record = found
        state.load(tensors, record)
        rows, window = record["rows"], [loop.Report(**report) for report in record["window"]]
        print(f"{key}: continuing from step {state.step}", flush=True)
    for other in checkpoints.others():
        print(
            f"{key}: not continued is the checkpoint of step {other.step} in {other.folder}, which differs in "
            f"{', '.join(other.differs) or 'the form of its record'}; remove that folder if nobody needs it",
            flush=True,
        )
    terminated: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and number in terminated:
            raise KeyboardInterrupt
        terminated.append(number)

    before = {number: signal.signal(number, terminate) for number in (signal.SIGINT, signal.SIGTERM)}
    began, first = time.monotonic(), state.step
    kept = state.step

    def restore_signals() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end() -> None:
        save()
        print(f"{key}: told to end; checkpoint at step {state.step}", flush=True)
        sys.exit(128 + terminated[0])

    def save() -> None:
        nonlocal kept
        kept = state.step
        checkpoints.save(
            state.tensors(),
            {**state.record(), "rows": rows, "window": [asdict(r) for r in window]},
        )

    try:
        total = settings.steps * settings.batch
        with Progress(total, "images", key, start=state.step * settings.batch) as progress:
            for report in loop.fit(train, state, settings, cfg.seed, device):
                window.append(report)
                last = report.step == settings.steps
                if report.step % settings.log_every == 0 or last:
                    row = _row(window, state)
                    window = []
                    if report.step % settings.valid_every == 0 or last:
                        measured = loop.validate(valid, state, settings, cfg.seed, device)
                        row |= {f"valid/{name}": value for name, value in measured.items()}
                    rows.append(row)
                progress.update(settings.batch, _note(report))
                if terminated:
                    end()
                # A model with a symptom of failure is not worth going back to: the last good one stays.
                if report.step % settings.checkpoint_every == 0 and not last and state.symptom is None:
                    save()

        restore_signals()
        if terminated:
            end()
        # Everything is computed before anything is written: who ends us in between leaves nothing half-written.
        variances = None
        if isinstance(cfg, schema.Run) and cfg.optimal_variance_steps:
            save()  # what follows takes a while
            assert isinstance(model, Generative), "checked when params.yaml is read"
            state.average.swap(model)
            variances = reverse_variance.estimate(model.eval(), train, cfg.optimal_variance_steps, cfg.seed, device)
            state.average.swap(model)
        models.check_finite(model, state.average.state(), key)
        final = {name: value for name, value in rows[-1].items() if name.startswith("valid/")}
        for name, value in final.items():
            if not math.isfinite(value):
                raise ValueError(f"{key}: {name} is {value} after the last step; train anew with a lower learning_rate")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        artifacts.write_tensors(paths.out / "model.safetensors", state.average.state())
        artifacts.write_json(
            paths.out / "config.json",
            {
                "run": cfg.model_dump(mode="json"),
                "data": _described(data),
                "parameters": parameters,
                "code": trained_by(cfg.family),
                "precision": precision,
                "clipped": state.clipped,
                "valid": final,
            },
        )
        artifacts.write_text(paths.curve, _csv(rows))
        if variances is not None:
            artifacts.write_json(paths.out / "variance.json", variances)
        seconds = time.monotonic() - began
        artifacts.write_json(
            paths.out / "timing.json",
            {"seconds": round(seconds, 1), "images_per_second": round((settings.steps - first) * settings.batch / seconds, 1),
             "from_step": first, "precision": precision, **describe_device(device)},
        )  # fmt: skip
        checkpoints.clear()
    except loop.TrainingFailed as error:
        left = (
            f"the last good checkpoint, of step {kept}, is kept in {checkpoints.folder}"
            if kept
            else "no checkpoint was due yet"
        )
        raise ValueError(f"{key}: {error}; {left}") from None
    finally:
        restore_signals()
        checkpoints.close()


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("run", help="a name under runs: (with --extractor or --codec: under extractors: or codecs:)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--extractor", action="store_true", help="train an extractor instead of a run")
    what.add_argument("--codec", action="store_true", help="train a codec instead of a run")
    parser.add_argument("--seed", type=int, help="train with this seed instead of the block's; goes with --out")
    parser.add_argument(
        "--out", type=command.path, help="write to this folder, curve.csv included, instead of the pipeline's own"
    )
    args = parser.parse_args(argv)

    def work() -> None:
        params = load_params(args.params)
        role = "extractors" if args.extractor else "codecs" if args.codec else "runs"
        cfg: schema.Entry = command.choose(getattr(params, role), args.run, role)
        key = f"{role}.{args.run}"
        place = Layout()
        out = place.model(role, args.run)
        if args.seed is not None:
            if args.out is None:
                raise ValueError(f"--seed is {args.seed} without --out; name a folder, as {out} is for the seed of {key}")
            cfg = read_block(type(cfg), {**cfg.model_dump(), "seed": args.seed}, key)
        extractor = place.extractor(cfg.extractor) if isinstance(cfg, schema.Codec) else None
        paths = Paths(place.data(cfg.data), out, place.curve(args.run), extractor)
        if args.out is not None:
            paths = Paths(paths.data, args.out, args.out / "curve.csv", extractor)
        if isinstance(cfg, schema.Codec):
            check_model(params, "extractors", cfg.extractor, place.root)
        command.writable(paths.out, paths.curve.parent)
        run(cfg, paths, key)

    return command.run_command(work)


def _adopt(model: Pretrained, cfg: schema.Entry, data: DataDirectory, paths: Paths, key: str) -> None:
    """Writes a pretrained model as if it had been trained, with a curve that has no rows. Raises ValueError for its file."""
    from pipeline.config.family import PretrainedConfig
    from pipeline.config.load import read_model
    from pipeline.core.code import trained_by
    from pipeline.core.device import describe_device
    from pipeline.store.pretrained import read_weights

    began = time.monotonic()
    block = read_model(cfg, key)
    assert isinstance(block, PretrainedConfig), "the block of a family that is Pretrained"
    state = read_weights(block, f"{key}.model")
    try:
        model.adopt(state)
    except ValueError as error:
        raise ValueError(f"{block.weights} {error}") from None
    artifacts.write_tensors(paths.out / "model.safetensors", model.state_dict())
    artifacts.write_json(
        paths.out / "config.json",
        {
            "run": cfg.model_dump(mode="json"),
            "data": _described(data),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "code": trained_by(cfg.family),
        },
    )
    artifacts.write_text(paths.curve, _csv([]))
    device = describe_device(next(model.parameters()).device)
    artifacts.write_json(paths.out / "timing.json", {"seconds": round(time.monotonic() - began, 1), **device})


def _described(data: DataDirectory) -> dict[str, Any]:
    """What a model's config.json says of its data."""
    return {name: data.spec[name] for name in ("shape", "levels", "classes", "hash")}


def _initial_seed(cfg: schema.Entry) -> int:
    from pipeline.core.random import key

    return key(cfg.seed, 0, "initialisation")


def _extractor(folder: Path, data: DataDirectory, device: torch.device) -> Saved:
    """The extractor that a perceptual loss sees through. Raises ValueError if it is missing, or knows other data."""
    from pipeline.store import models

    found = models.load(folder, device)
    check_trained_on(found.config, folder, data.hash, data.path)
    return found


def _made_of(cfg: schema.Entry, data: DataDirectory, precision: str, device_type: str, extractor: str | None) -> dict[str, Any]:
    """What the result depends on, to the bit. data, extractor: hashes of the data, and of what a loss sees through."""
    import torch

    from pipeline.core.code import trained_by

    return {
        **cfg.model_dump(mode="json"), "data": data.hash, "extractor": extractor, "precision": precision, "device": device_type,
        "torch": torch.__version__, "threads": torch.get_num_threads(), "code": trained_by(cfg.family),
    }  # fmt: skip


def _row(window: list[Report], state: State) -> dict[str, Any]:
    """One line of the training curve: means over the steps since the line before; counts and rates are the last step's."""
    mean = {name: sum(report.parts[name] for report in window) / len(window) for name in window[0].parts}
    norms = {
        f"{group}/gradient_norm": sum(report.gradient_norm[group] for report in window) / len(window)
        for group in window[0].gradient_norm
    }
    clipped = {f"{group}/clipped": count for group, count in state.clipped.items()}
    rates = {f"{group}/learning_rate": rate for group, rate in window[-1].learning_rate.items()}
    return {"step": window[-1].step, **mean, **norms, **clipped, **rates}


def _note(report: Report) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in report.parts.items())


def _csv(rows: list[dict[str, Any]]) -> str:
    """One line per step, split and quantity, as `dvc plots` draws it: what is measured rarely leaves no empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", "split", "quantity", "value"))
    for row in rows:
        for name, value in row.items():
            if name == "step":
                continue
            split = "valid" if name.startswith("valid/") else "train"
            written = f"{value:.6g}" if isinstance(value, float) else value
            writer.writerow((row["step"], split, name.removeprefix("valid/"), written))
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
