"""Progress of long work: a bar with rate and ETA on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm


class Progress:
    """Counts `total` units of work; `update(n, note)` after each piece. Lines in a log come `every` seconds at most."""

    def __init__(
        self,
        total: int,
        unit: str,
        label: str,
        every: float = 10.0,
        start: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.label, self.every = total, unit, label, every
        self.done, self.start, self.clock = start, start, clock
        self.began = self.said = clock()
        self.bar = tqdm(total=total, initial=start, unit=unit, desc=label) if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    @property
    def rate(self) -> float:
        """Units per second since the beginning."""
        return (self.done - self.start) / max(self.clock() - self.began, 1e-9)

    def update(self, count: int, note: str = "") -> None:
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
            return
        now = self.clock()
        if now - self.said >= self.every or self.done >= self.total:
            self.said = now
            left = (self.total - self.done) / max(self.rate, 1e-9)
            print(
                f"{self.label}: {self.done}/{self.total} {self.unit}, {self.rate:.3g} {self.unit}/s, {left:.0f} s left"
                + (f", {note}" if note else ""),
                flush=True,
            )
