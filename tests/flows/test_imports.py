"""Orchestration knows nothing of tensors: no flow brings torch into its process."""

from __future__ import annotations

import subprocess
import sys

from tests.support.toy import REPOSITORY


def test_no_flow_imports_torch() -> None:
    names = sorted(f"flows.{file.stem}" for file in (REPOSITORY / "flows").glob("[a-z]*.py"))
    assert "flows.retrain" in names
    code = f"import sys, {', '.join(names)}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "prefect" in loaded
    assert not {"torch", "sklearn", "matplotlib", "pandas", "great_expectations"} & set(loaded)
