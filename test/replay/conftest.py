from __future__ import annotations

import pytest


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page and the picture of a run, which take most of a short replay's time."""
    monkeypatch.setattr("perception_nodes.report.drive_report.render", lambda *_: "")
    monkeypatch.setattr("perception_nodes.report.overview.overview", lambda *_: b"")
