"""Checkpoints of a run in progress: atomic, checksummed, two generations, one writer.

They lie outside DVC's outputs, under a fingerprint of everything that changes the result: DVC deletes outputs before a stage
runs, and a checkpoint of another configuration must never be continued.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from pipeline.core import artifacts
from pipeline.store.fresh import differences

RECORD = "made_of.json"


@dataclass(frozen=True)
class Other:
    """The newest checkpoint of another configuration: its folder, its step, and the keys in which the two differ."""

    folder: Path
    step: int
    differs: tuple[str, ...]


def root() -> Path:
    """Where checkpoints lie: the environment's TRILEMMA_CHECKPOINTS, or .checkpoints."""
    return Path(os.environ.get("TRILEMMA_CHECKPOINTS", ".checkpoints")).expanduser()


class Checkpoints:
    """The checkpoints of one fingerprint, held under a lock from construction to `close`.

    made_of: everything that changes the result, as JSON has it, whose hash is the fingerprint; output: the folder that the
    training writes in the end; folder: instead of `root()`. The first two are kept beside the checkpoints, so that those of
    another configuration can be told.
    """

    def __init__(self, made_of: Mapping[str, Any], output: Path, folder: Path | None = None) -> None:
        above = folder or root()
        # From where the checkpoints lie, so that a checkout may be moved.
        self.made_of, self.output = made_of, os.path.relpath(output, above)
        self.folder = above / artifacts.hash_json(made_of)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = open(self.folder / "lock", "w")  # noqa: SIM115 - held for the life of the object
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(
                f"another process is training the same configuration ({self.folder}); wait for it, or end it"
            ) from None

    def others(self) -> list[Other]:
        """The checkpoints of trainings with the same output folder that this one cannot continue."""
        found = []
        for file in sorted(self.folder.parent.glob(f"*/{RECORD}")):
            newest = file.with_name("newest.safetensors")
            try:
                record = artifacts.read_json(file)
                if file.parent == self.folder or record["output"] != self.output or not newest.exists():
                    continue
                step = json.loads(artifacts.read_metadata(newest)["record"])["step"]
                differs = tuple(key for key, _, _ in differences(record["made_of"], self.made_of, ""))
            except Exception:  # whatever a torn file makes the readers say: it is in nobody's way
                continue
            found.append(Other(file.parent, step, differs))
        return found

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """The newest checkpoint becomes the second newest, then `tensors` and the JSON `record` become the newest."""
        newest, older = self.folder / "newest.safetensors", self.folder / "older.safetensors"
        if not (self.folder / RECORD).exists():
            artifacts.write_json(self.folder / RECORD, {"output": self.output, "made_of": self.made_of})
        with artifacts.atomic(self.folder / "next.safetensors") as file:
            file.write(_packed(tensors, record))
        if newest.exists():
            os.replace(newest, older)
        os.replace(self.folder / "next.safetensors", newest)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint that is whole, or None; a damaged one is said and passed over."""
        for name in ("newest", "older"):
            file = self.folder / f"{name}.safetensors"
            if not file.exists():
                continue
            try:
                tensors = artifacts.read_tensors(file)
                record = json.loads(artifacts.read_metadata(file)["record"])
                if record.pop("checksum") != _checksum(tensors):
                    raise ValueError("its checksum does not match")
            except Exception as error:  # whatever a torn or flipped file makes the reader say
                print(f"checkpoint {file.name} is damaged ({error}); trying the one before", flush=True)
                continue
            return tensors, record
        return None

    def clear(self) -> None:
        """Removes the checkpoints: the run is finished and its outputs are written."""
        for name in ("newest.safetensors", "older.safetensors", "next.safetensors", RECORD):
            (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        self._lock.close()


def _packed(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(save(whole, {"record": json.dumps({**record, "checksum": _checksum(whole)})}))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return artifacts.hash_arrays({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
