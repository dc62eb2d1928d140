"""`model:=auto` and `threads:=auto`: what is taken, what is measured again, and what cannot be."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.evaluation import measured as choices
from perception_nodes.graph.config import AUTO_THREADS, DetectorSettings
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.settings import SettingsError
from perception_nodes.system.processes import physical_cores

VALUES: dict[str, Any] = {"model": "auto", "backend": "openvino", "threads": 1}


def measured(values: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    return choices.measured(LIVE.settings({"standby": "never", **values}), say)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Times by model and by number of threads, which stand in for measurements, and the calls."""
    ms = {"road-s": 5.0, "road-n": 3.0, 1: 0.0, 2: 0.0, "litert": 0.0, "openvino": 0.0}
    facts: dict[str, Any] = {"ms": ms, "calls": []}

    def apart(model: str, backend: str, threads: int, *_: object) -> list[float]:
        facts["calls"].append((model, threads))
        return [1.0] * 98 + [ms[model] + ms[threads] + ms[backend]] * 2

    monkeypatch.setattr(choices, "apart_ms", apart)
    monkeypatch.setattr(choices, "physical_cores", lambda: 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return facts


@pytest.mark.parametrize(
    "deadline_ms, slow_ms, taken",
    [(10.0, 5.0, "road-s"), (10.0, 6.5, "road-n"), (20.0, 6.5, "road-s"), (1.0, 5.0, "road-n")],
)
def test_the_most_accurate_model_within_its_budget_is_taken(
    timed: dict[str, Any], deadline_ms: float, slow_ms: float, taken: str
) -> None:
    timed["ms"]["road-s"] = slow_ms
    said: list[str] = []
    found = measured({**VALUES, "deadline_ms": deadline_ms}, said.append)
    assert found == {"model": taken, "backend": "openvino", "threads": 1}
    assert f"model:={taken}" in said[-1]
    assert ("does not keep" in said[-2]) == (deadline_ms == 1.0)


@pytest.mark.parametrize("slow, best", [(1, 2), (2, 1)])
def test_the_best_number_of_threads_beside_other_work_is_taken(
    timed: dict[str, Any], slow: int, best: int
) -> None:
    timed["ms"][slow] = 0.5
    values = {**VALUES, "model": "road-n", "threads": AUTO_THREADS}
    found = measured(values)
    assert found == {"model": "road-n", "backend": "openvino", "threads": best}
    assert timed["calls"] == [("road-n", 1), ("road-n", 2)]


@pytest.mark.parametrize(
    "litert_ms, openvino_ms, taken",
    [
        (0.0, 0.0, ("road-s", "auto")),  # LiteRT has fewer slow frames
        (2.0, 0.5, ("road-s", "openvino")),
        (2.0, 2.0, ("road-n", "auto")),
        (9.0, 9.0, ("road-n", "auto")),
    ],
)
def test_a_model_is_tried_on_the_other_runtime_before_a_smaller_one(
    timed: dict[str, Any], litert_ms: float, openvino_ms: float, taken: tuple[str, str]
) -> None:
    timed["ms"].update(litert=litert_ms, openvino=openvino_ms)
    found = measured({**VALUES, "backend": "auto"})
    assert (found["model"], found["backend"]) == taken


def test_what_is_named_is_not_measured(timed: dict[str, Any]) -> None:
    assert measured({**VALUES, "model": "road-n"}) == {}
    assert timed["calls"] == []


def test_each_is_measured_once_a_machine_and_setting(
    timed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = {0, 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for threads in (1, 1, 2):
        measured({**VALUES, "threads": threads})
    assert timed["calls"] == [("road-s", 1), ("road-s", 2)]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    measured(VALUES)
    monkeypatch.setenv("PERCEPTION_DELEGATE", "libedgetpu.so.1")
    measured(VALUES)
    allowed.remove(0)
    measured(VALUES)
    assert len(timed["calls"]) == 5


def test_a_runtime_that_is_not_installed_is_told_by_its_opening(
    timed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[float]:
        raise BackendError("install it with")

    monkeypatch.setattr(choices, "INSTALL", {"openvino": "no-such-runtime"})
    monkeypatch.setattr(choices, "apart_ms", refuse)
    with pytest.raises(BackendError, match="install it with"):
        measured(VALUES)


@pytest.mark.parametrize("text", ["", "[1]", "null"])
def test_a_damaged_file_of_measurements_is_written_anew(
    timed: dict[str, Any], tmp_path: Path, text: str
) -> None:
    kept = tmp_path / "perception_nodes" / "paced_p99_ms.json"
    kept.parent.mkdir()
    kept.write_text(text)
    assert measured(VALUES)["model"] == "road-s"
    assert list(json.loads(kept.read_text()).values()) == [5.0]


@pytest.mark.parametrize(
    "name, value", [("fallback_model", "road-xs"), ("cameras", "a,b"), ("backend", "tensorrt")]
)
def test_what_cannot_be_measured(timed: dict[str, Any], name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"model:=auto .* with {name}:={value}"):
        measured({**VALUES, name: value})
    assert timed["calls"] == []


def test_the_word_auto_is_a_number_of_threads() -> None:
    assert DetectorSettings(threads="auto").threads == AUTO_THREADS  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="name a number"):
        open_backend("null", BackendSettings(AUTO_THREADS))


def test_numbers_of_threads_are_timed_on_busy_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Real calls in processes of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choices, "FRAMES", 3)
    said: list[str] = []
    values = {**VALUES, "model": "road-n", "threads": AUTO_THREADS}
    threads = measured(values, said.append)["threads"]
    for count in {1, threads, physical_cores()}:
        assert any(f" {count} threads, beside" in line for line in said)
