"""Judges the prepared data by the expectations of pipeline/validation; exit status 1 where one is not met.

Writes reports/validation.json (the same for the same data) and Data Docs, a static site, and only then fails.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.store.data import DataDirectory

if TYPE_CHECKING:
    from pipeline.validation.expectations import Outcome


def run(limits: schema.DataLimits, data: Path, report: Path, docs: Path) -> Outcome:
    """Reads the data directory `data`, writes the file `report` and the folder `docs`.

    Raises ValueError where the directory is unfinished or damaged so far that its images cannot be described.
    """
    from pipeline.validation import expectations, table

    directory = DataDirectory.open(data)
    outcome = expectations.check_data(table.data_table(directory), table.metadata(directory), limits, docs)
    artifacts.write_json(
        report,
        {
            "success": outcome.success,
            "expectations": len(outcome.results),
            "failures": outcome.failures,
            "data": directory.hash,
            "results": outcome.results,
        },
    )
    return outcome


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument(
        "--data", type=command.path, default=Layout().prepared, help="the folder to judge (default: %(default)s)"
    )
    parser.add_argument("--report", type=command.path, default=Layout().validation_report, help="(default: %(default)s)")
    parser.add_argument(
        "--docs", type=command.path, default=Path("validation_docs"), help="where Data Docs go (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    failures: list[str] = []

    def work() -> None:
        limits = load_params(arguments.params).validate_.data
        outcome = run(limits, arguments.data, arguments.report, arguments.docs)
        failures.extend(outcome.failures)
        met = len(outcome.results) - len(failures)
        print(f"{arguments.data}: {met} of {len(outcome.results)} expectations met; see {arguments.docs / 'index.html'}")

    status = command.run_command(work)
    for failure in failures:
        print(f"not met: {failure}", file=sys.stderr)
    return status or (1 if failures else 0)


if __name__ == "__main__":
    raise SystemExit(main())
