"""What Prefect shows of a finished run."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from flows import results
from services.prefect_server import Service, usage
from tests.support.toy import PIXEL


def test_rows_of_any_columns_are_flattened() -> None:
    compare = {
        "samples": [
            {"sample": "a", "quality": {"fd": 1.5, "more": {"kid": 2}}, "dominated_by": []},
            {"sample": "b", "note": None, "dominated_by": [{"sample": "c", "clear": True}, {"sample": "a", "clear": False}]},
        ],
        "other": 1,
    }
    assert results.rows(compare) == [
        {"sample": "a", "quality.fd": 1.5, "quality.more.kid": 2, "dominated_by": ""},
        {"sample": "b", "note": None, "dominated_by": "c, a"},
    ]


def test_a_picture_survives_in_markdown() -> None:
    png = base64.b64decode(PIXEL)
    text = results.gallery({"one": png, "two": png + b"x"})
    found = re.findall(r"!\[(\w+)\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", text)
    assert [(title, base64.b64decode(data)) for title, data in found] == [("one", png), ("two", png + b"x")]


def test_grids_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("samples/x/grid.png", "samples/y/grid.png", "samples/y/strip.png", "runs/a/grid.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert results.grids(tmp_path) == [tmp_path / "samples/x/grid.png", tmp_path / "samples/y/grid.png"]


def test_settings_of_another_prefect_server_are_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "key-of-another-server")
    monkeypatch.setenv("PREFECT_API_URL", "https://elsewhere.invalid/api")
    service = Service(tmp_path, port=4321)
    assert "PREFECT_API_KEY" not in service.environment
    assert service.environment["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert service.environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert Path(service.environment["PREFECT_HOME"]).is_relative_to(tmp_path)
    assert "http://127.0.0.1:4321" in usage(service)
