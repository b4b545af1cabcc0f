"""What every stage's `main` shares: arguments first, heavy imports after, one sentence for a user's mistake."""

from __future__ import annotations

import argparse
import gc
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--params`; builds before anything heavy is imported, so that --help answers at once."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--params", default="params.yaml", help="the parameter file (default: %(default)s)")
    return made


def choose(block: dict[str, T], name: str, key: str) -> T:
    """block[name], or a ValueError that lists the names."""
    if name not in block:
        raise ValueError(f"{key} has no {name!r}; allowed: {', '.join(block)}")
    return block[name]


def run_command(work: Callable[[], object]) -> int:
    """Runs `work`; a ValueError (a user's mistake) becomes one line on stderr and exit status 2."""
    # torch says it of itself on the first forward-mode derivative; nobody who runs a stage can act on it.
    # Torch and Great Expectations import hundreds of thousands of objects that stay: looking through them for cycles again and
    # again is a quarter of an import.
    gc.set_threshold(200_000, 20, 20)
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    try:
        work()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
