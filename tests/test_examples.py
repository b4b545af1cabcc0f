"""The example of the first page runs as it is written there, and learns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "examples" / "quickstart.py"


@pytest.mark.slow
def test_the_quickstart_learns_digits_without_writing_a_file() -> None:
    """17 equally likely grey levels cost log2(17) = 4.087 bits/dim: the model needs far fewer, and draws eight digits."""
    before = {path for path in REPOSITORY.iterdir() if path.name != ".pytest_cache"}
    done = subprocess.run(
        [sys.executable, "-m", "examples.quickstart"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    found = [float(match[1]) for line in lines if (match := re.match(r"([\d.]+) bits/dim on test images", line))]
    assert len(found) == 1
    assert found[0] < 2.6, "a network of 420 steps is far better than a guess"
    drawing = lines[-8:]
    assert {len(line) for line in drawing} == {8 * 16 + 7 * 2}
    ink = [[sum(line[18 * i : 18 * i + 16].count(ch) for line in drawing) for ch in "#@"] for i in range(8)]
    assert all(8 <= sum(dark) <= 80 for dark in ink), "digits have dark strokes on an empty ground"
    assert {path for path in REPOSITORY.iterdir() if path.name != ".pytest_cache"} == before


def test_the_first_page_shows_the_example_as_it_is() -> None:
    """The block of README.md is the file below its docstring."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = EXAMPLE.read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert [block.strip() for block in blocks] == [code]
    statements = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(statements) <= 12, "a stranger reads it at a glance"
