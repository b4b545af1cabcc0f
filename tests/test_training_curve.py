"""The training curve as a file: one line per step, split and quantity, read back as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store.results import training_curve
from pipeline.training.curve import to_csv

ROWS = [
    {"step": 10, "model/simple": 0.51234567, "model/clipped": 3, "learning_rate": 0.0004},
    {"step": 20, "model/simple": 0.25, "model/clipped": 4, "learning_rate": 0.0008, "valid/model/simple": 0.375},
]
TEXT = """\
step,split,quantity,value
10,train,model/simple,0.512346
10,train,model/clipped,3
10,train,learning_rate,0.0004
20,train,model/simple,0.25
20,train,model/clipped,4
20,train,learning_rate,0.0008
20,valid,model/simple,0.375
"""


def test_a_row_becomes_a_line_for_each_of_its_quantities() -> None:
    assert to_csv(ROWS) == TEXT


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text(TEXT, encoding="utf-8")
    curve = training_curve(path, "train@run")
    assert list(curve) == ["model/simple", "model/clipped", "learning_rate", "valid/model/simple"]
    assert curve["model/simple"] == [(10, 0.512346), (20, 0.25)]
    assert curve["valid/model/simple"] == [(20, 0.375)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step,model/simple,valid/model/simple\n10,0.5,\n", r"begins with \['step', 'model/simple'"),
        ("", r"begins with \[\]"),
        ("step,split,quantity,value\n", "has no rows"),
        (TEXT.replace("20,valid,model/simple,0.375", "20,valid,model/simple"), "line 8: step is '20' and value None"),
        (TEXT.replace("0.375", "low"), "line 8: step is '20' and value 'low'"),
        (TEXT.replace("20,valid", "20,test"), "line 8: split is 'test', not train or valid"),
    ],
)
def test_a_damaged_curve_names_the_stage_that_makes_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"run.csv.*{said}.*run: dvc repro -f train@run$"):
        training_curve(path, "train@run")
