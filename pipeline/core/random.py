"""Counter-based randomness: every draw is a function of (seed, step, purpose), so that a resumed run needs no saved state."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from pipeline.core.contracts import Random


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts, by sha256: neighbouring seeds and steps give unrelated streams."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator keyed by the parts: draws are made on the CPU so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive_seed(*parts))


class KeyedRandom(Random):
    """One draw for the whole batch, keyed by (seed, step, purpose): training and the bound."""

    def __init__(self, seed: int, step: int, device: torch.device | str = "cpu") -> None:
        self.seed, self.step, self.device = seed, step, device

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        return torch.randn(shape, generator=generator(self.seed, self.step, purpose)).to(self.device)

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        return torch.rand(shape, generator=generator(self.seed, self.step, purpose)).to(self.device)


class RowRandom(Random):
    """Row i of every draw is keyed by (seed, rows[i], step, purpose) alone: sampling, where no batch may matter."""

    def __init__(self, seed: int, rows: range, step: int, device: torch.device | str = "cpu") -> None:
        self.seed, self.rows, self.step, self.device = seed, rows, step, device

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        assert shape[0] == len(self.rows), (shape, self.rows)
        rows = [torch.randn(shape[1:], generator=generator(self.seed, row, self.step, purpose)) for row in self.rows]
        return torch.stack(rows).to(self.device)

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        assert shape[0] == len(self.rows), (shape, self.rows)
        rows = [torch.rand(shape[1:], generator=generator(self.seed, row, self.step, purpose)) for row in self.rows]
        return torch.stack(rows).to(self.device)
