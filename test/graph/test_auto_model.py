"""`model:=auto`: which model is taken, what is measured again, and a model that cannot run."""

import json
from pathlib import Path
from typing import Any

import pytest

from perception_nodes.backends.pace import WARM_UP_FRAMES, apart_ms, paced_ms
from perception_nodes.core.inference import BackendError
from perception_nodes.graph import auto_model
from perception_nodes.graph.auto_model import fitting_model
from perception_nodes.graph.config import SettingsError

VALUES = {
    "backend": "openvino",
    "threads": 1,
    "cpus": "",
    "fifo_priority": -1,
    "deadline_ms": 10.0,
    "fallback_model": "",
    "cameras": "",
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Times by model, which stand in for measurements, and the models that were measured."""
    facts: dict[str, Any] = {"ms": {"road-s": 5.0, "road-n": 3.0}, "models": []}

    def apart(model: str, *_: object) -> list[float]:
        facts["models"].append(model)
        return [1.0] * 98 + [facts["ms"][model]] * 2

    monkeypatch.setattr(auto_model, "apart_ms", apart)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return facts


@pytest.mark.parametrize(
    "deadline_ms, slow_ms, taken",
    [(10.0, 5.0, "road-s"), (10.0, 6.5, "road-n"), (20.0, 6.5, "road-s"), (1.0, 5.0, "road-n")],
)
def test_the_most_accurate_model_within_its_budget_is_taken(
    measured: dict[str, Any], deadline_ms: float, slow_ms: float, taken: str
) -> None:
    measured["ms"]["road-s"] = slow_ms
    said: list[str] = []
    assert fitting_model({**VALUES, "deadline_ms": deadline_ms}, said.append) == taken
    assert f"model:=auto is {taken}" in said[-1]
    assert ("misses" in said[-1]) == (deadline_ms == 1.0)


def test_a_model_is_measured_once_a_machine_and_setting(measured: dict[str, Any]) -> None:
    for threads in (1, 1, 2):
        fitting_model({**VALUES, "threads": threads}, lambda _: None)
    assert measured["models"] == ["road-s", "road-s"]


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"', "null"])
def test_a_damaged_file_of_measurements_is_written_anew(
    measured: dict[str, Any], tmp_path: Path, text: str
) -> None:
    kept = tmp_path / "perception_nodes" / "paced_p99_ms.json"
    kept.parent.mkdir()
    kept.write_text(text)
    assert fitting_model(VALUES, lambda _: None) == "road-s"
    assert list(json.loads(kept.read_text()).values()) == [5.0]


@pytest.mark.parametrize(
    "name, value", [("fallback_model", "road-xs"), ("cameras", "a,b"), ("backend", "tensorrt")]
)
def test_what_needs_a_named_model(measured: dict[str, Any], name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"with {name}:={value}"):
        fitting_model({**VALUES, name: value}, lambda _: None)
    assert measured["models"] == []


def test_a_model_is_timed_in_a_process_of_its_own() -> None:
    times_ms = apart_ms("road-n", "null", 1, 3, cpus="0")
    assert len(times_ms) == 3 and min(times_ms) > 0
    with pytest.raises(BackendError, match="model 'nosuch' is not there"):
        apart_ms("nosuch", "null", 1, 1)


def test_calls_are_made_at_the_cameras_pace() -> None:
    calls: list[int] = []
    list(paced_ms((lambda: calls.append(1) for _ in range(WARM_UP_FRAMES)), rate_hz=1000.0))
    assert len(calls) == WARM_UP_FRAMES
