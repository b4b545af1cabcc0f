"""Reads params.yaml whole, with every block of every family: the first stage, so that a mistake ends before any work."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import artifacts, config, stage


def run(params: Path, out: Path) -> None:
    """Raises ValueError with one sentence, or writes `out`, which never changes: no stage runs again because of it."""
    config.check(config.load(params))
    artifacts.write_text(out, "every block of the parameter file reads\n")


def main(argv: list[str] | None = None) -> int:
    parser = stage.parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        help="where to leave the mark that DVC waits for (default: %(default)s)",
        default=Path("reports/.checked"),
    )
    args = parser.parse_args(argv)
    return stage.guarded(lambda: run(Path(args.params), args.out))


if __name__ == "__main__":
    sys.exit(main())
