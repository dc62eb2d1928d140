"""`model:=auto` and `threads:=auto`: what is measured and how, what is taken, what cannot be."""

import json
import os
from typing import Any

import pytest

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.evaluation import measured as choices
from perception_nodes.evaluation import screening
from perception_nodes.evaluation.measured import Choice, measured_rows, measured_settings
from perception_nodes.evaluation.screening import Option, Times, time_in_turns
from perception_nodes.graph.config import AUTO_THREADS, DetectorSettings, PreprocessSettings
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS
from perception_nodes.graph.settings import SettingsError

SLOWER = {"open-s": 3.0, "open-n": 2.0, "open-xs": 1.0}
SLOWER |= {"litert": 0.5, "openvino": 1.0, "onnxruntime": 1.0}
"""Milliseconds by model and by runtime, of which an option takes the sum."""


class Machine:
    """A machine of two processors whose times are known, and what was asked of it."""

    def __init__(self):
        self.slower: dict[Any, float] = {**SLOWER, 1: 1.0, 2: 0.0, "": 0.0, "1": 0.1}
        self.tail = 1.0
        self.refused: dict[str, str] = {}
        self.frames = 40
        self.slow_to_load: set[str] = set()
        self.asked: list[list[Option]] = []
        self.said: list[str] = []

    def time_in_turns(self, options, *_):
        self.asked.append(list(options))
        return {option: self._times(option) for option in options}

    def _times(self, option):
        if refused := self.refused.get(option.backend, ""):
            return Times(refused=refused)
        if option.model in self.slow_to_load:
            return Times()
        ms = sum(self.slower[part] for part in option)
        slow = self.frames // 10
        return Times([ms] * (self.frames - slow) + [ms * self.tail] * slow, [ms / 2] * self.frames)

    def measured(self, **values):
        return choices.measured(LIVE.settings({"standby": "never", **values}), self.said.append)

    def taken(self, **values):
        choice = self.measured(model="auto", **values)
        assert choice is not None
        return (*choice.parameters.values(), choice.cpus)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    one = Machine()
    monkeypatch.setattr(choices, "time_in_turns", one.time_in_turns)
    monkeypatch.setattr(choices, "physical_cores", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PERCEPTION_DELEGATE", raising=False)
    return one


@pytest.mark.parametrize(
    ("deadline_ms", "taken"),
    [
        (10.0, "open-s"),  # 3.5 of 6, which it must keep without a smaller sibling
        (5.0, "open-n"),  # 2.5 of 4
        (2.9, "open-xs"),  # 1.5 of 1.74
        (2.0, "open-n"),  # none: its smaller sibling helps
    ],
)
def test_the_most_accurate_network_that_keeps_the_deadline_is_taken(machine, deadline_ms, taken):
    assert machine.taken(deadline_ms=deadline_ms) == (taken, "litert", 2, "")
    assert f"model:={taken} backend:=litert threads:=2: " in machine.said[-1]


def test_where_nothing_fits_it_is_said_what_would(machine):
    machine.taken(deadline_ms=2.0)
    assert "no network keeps 2 ms here, predicted are p99.9 of open-s 3.5" in machine.said[-1]
    assert "what would do: model:=open-xs deadline_ms:=3," in machine.said[-1]


def test_without_the_smaller_sibling_a_network_must_be_faster(machine):
    assert machine.taken(deadline_ms=4.0)[0] == "open-n"
    assert machine.taken(deadline_ms=4.0, fallback_model="none")[0] == "open-xs"


def test_a_tail_counts(machine):
    machine.tail = 1.4
    assert machine.taken()[0] == "open-n"  # 3.5 × 1.4^1.9 = 6.6 ms is more than 6


@pytest.mark.parametrize(
    ("slower", "taken"),
    [
        ({"openvino": 0.2}, ("openvino", 2, "")),
        ({2: 1.5}, ("litert", 1, "")),
        ({2: 1.5, "": 0.2}, ("litert", 1, "1")),
    ],
)
def test_the_fastest_way_to_run_it_is_taken(machine, slower, taken):
    machine.slower.update(slower)
    assert machine.taken()[1:] == taken


def test_a_runtime_that_refuses_takes_no_other_one_out(machine):
    machine.refused = {"litert": "no such processor"}
    assert machine.taken()[:2] == ("open-s", "openvino")


def test_where_nothing_is_measured_in_time_the_default_is_taken_and_nothing_kept(machine, tmp_path):
    machine.frames = choices.ENOUGH - 1
    for _ in range(2):
        assert machine.taken() == ("open-n", "auto", 0, "")
        assert "nothing could be measured in time" in machine.said[-1]
    assert len(machine.asked) == 2
    assert not (tmp_path / "perception_nodes" / choices.FILE).exists()


def test_what_there_was_no_time_for_is_told_and_measured_at_the_next_start(machine):
    machine.slow_to_load = {"open-s"}
    assert machine.taken()[0] == "open-n"
    assert "there was no time to measure open-s" in machine.said[-1]
    machine.slow_to_load = set()
    assert machine.taken()[0] == "open-s"
    assert machine.taken()[0] == "open-s" and len(machine.asked) == 2


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, {1}), (2, {2, 1}), (6, {6, 3, 1}), (64, {16, 8, 1})]
)
def test_few_numbers_of_threads_are_tried(machine, monkeypatch, cores, counts):
    monkeypatch.setattr(choices, "physical_cores", lambda: cores)
    machine.slower |= dict.fromkeys(range(65), 1.0) | {str(n): 1.0 for n in range(65)}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    machine.slower |= {",".join(map(str, range(cores - n, cores))): 1.0 for n in counts}
    machine.taken()
    assert {one.threads for one in machine.asked[0]} == counts
    # The first ones loaded are the default by each runtime.
    assert {one.model for one in machine.asked[0][::3]} == {"open-n"}


def test_what_is_named_is_not_measured(machine):
    assert machine.measured(model="open-n") is None
    assert machine.taken(backend="openvino", threads=1) == ("open-s", "openvino", 1, "")
    assert {(one.backend, one.threads) for one in machine.asked.pop()} == {("openvino", 1)}
    machine.taken(cpus="1")
    assert {one.cpus for one in machine.asked.pop()} == {"1"}


def test_the_best_number_of_threads_beside_other_work_is_taken(machine, monkeypatch):
    machine.slower[2] = 1.5
    choice = machine.measured(model="open-n", backend="openvino", threads=AUTO_THREADS)
    assert choice == Choice({"model": "open-n", "backend": "openvino", "threads": 1})
    assert "beside other work" in machine.said[0]
    assert machine.taken(threads=AUTO_THREADS)[:3] == ("open-s", "litert", 1)


def test_each_is_measured_once_a_machine_and_setting(machine, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for values in ({}, {}, {"deadline_ms": 20.0}, {"threads": 1}, {"fifo_priority": 0}):
        machine.taken(**values)
    assert len(machine.asked) == 3
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    machine.taken()
    monkeypatch.setenv("PERCEPTION_DELEGATE", "libedgetpu.so.1")
    machine.taken()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})
    machine.taken()
    assert len(machine.asked) == 6


def test_a_choice_of_a_bad_minute_is_measured_again_when_asked(machine):
    given = DetectorSettings(model="auto")
    machine.slower["open-s"] = 9.0
    assert machine.taken()[0] == machine.taken(cpus="1")[0] == "open-n"
    machine.slower["open-s"] = 3.0
    assert machine.taken()[0] == "open-n"
    measured_rows(given, machine.said.append, lambda done, total: None, anew=True)
    assert machine.taken()[0] == machine.taken(cpus="1")[0] == "open-s"


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"KEY": [{"model": "open-n"}]}'])
def test_a_damaged_file_of_measurements_is_written_anew(machine, tmp_path, text):
    kept = tmp_path / "perception_nodes" / choices.FILE
    kept.parent.mkdir()
    key = choices._key(DetectorSettings(model="auto"))
    kept.write_text(text.replace('"KEY"', json.dumps(key)))
    assert machine.taken()[0] == "open-s"
    assert len(json.loads(kept.read_text())[key]) == len(machine.asked[0])


@pytest.mark.parametrize(
    ("name", "value"), [("fallback_model", "open-xs"), ("cameras", "a,b"), ("backend", "tensorrt")]
)
def test_what_cannot_be_measured(machine, name, value):
    with pytest.raises(SettingsError, match=f"model:=auto .* with {name}:={value}"):
        machine.measured(model="auto", **{name: value})
    # Where the model is not named either, the default is taken without a word.
    settings = measured_settings(
        LIVE, {name: value}, NO_ROS_ARGUMENTS, machine.said.append, lambda done, total: None
    )
    assert settings.of(DetectorSettings).model == "open-n"
    assert (machine.asked, machine.said) == ([], [])


def test_the_default_is_measured_and_its_processors_are_the_detectors_alone(machine):
    machine.slower.update({2: 1.5, "": 0.2})

    def settings(**values):
        found = measured_settings(
            LIVE, values, NO_ROS_ARGUMENTS, machine.said.append, lambda done, total: None
        )
        detector, preprocess = found.of(DetectorSettings), found.of(PreprocessSettings)
        assert detector.model == preprocess.model
        return detector.model, detector.threads, detector.cpus, preprocess.cpus

    assert settings() == ("open-s", 1, "1", "")
    assert settings(model="open-n") == ("open-n", 0, "", "")


def test_a_runtime_that_is_not_installed_is_told_by_its_opening(machine, monkeypatch):
    monkeypatch.setattr(choices, "INSTALL", {"litert": "no-such-runtime"})
    machine.refused = dict.fromkeys(("litert", "openvino"), "install it with")
    assert machine.taken()[:2] == ("open-n", "auto")


def test_the_word_auto_is_a_number_of_threads():
    assert DetectorSettings(threads="auto").threads == AUTO_THREADS  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="name a number"):
        open_backend("null", BackendSettings(AUTO_THREADS))


LIMIT_S = 100.0
NULL = Option("open-xs", "null", 1)


@pytest.fixture(autouse=True)
def few_turns(monkeypatch):
    """Loading may take long on a busy machine; then a few rounds are enough."""
    monkeypatch.setattr(screening, "count", lambda: range(6))
    monkeypatch.setattr(screening, "LONGEST_S", LIMIT_S)
    monkeypatch.setattr(screening, "LOADING_SHARE", 0.9)
    monkeypatch.setattr(screening, "WAITING_SHARE", 0.95)


def timed(*options):
    done: list[int] = []
    found = time_in_turns(options, LIMIT_S, lambda at, total: done.append(at))
    assert done == sorted(done)
    return found


def test_options_take_turns_and_one_that_is_refused_costs_the_others_nothing():
    other = Option("open-n", "null", 1, str(max(os.sched_getaffinity(0))))
    refused = Option("open-xs", "nonesuch", 1)
    before = set(os.listdir("/proc/self/fd"))
    found = timed(refused, NULL, other)
    assert set(os.listdir("/proc/self/fd")) == before
    assert "'nonesuch' is unknown" in found.pop(refused).refused
    assert {len(times.whole_ms) for times in found.values()} == {5}  # behind the one that warms up
    for times in found.values():
        assert not times.refused
        for bare_ms, whole_ms in zip(times.bare_ms, times.whole_ms, strict=True):
            assert 0 <= bare_ms < whole_ms


def test_a_runtime_that_ends_takes_its_own_options_out(monkeypatch):
    turn = screening._Runtime.turn

    def dies(self, *of_a_frame):
        self.process.kill()
        self.process.wait()
        return turn(self, *of_a_frame)

    monkeypatch.setattr(screening._Runtime, "turn", dies)
    assert timed(NULL)[NULL].refused == "null ended, or hung, with open-xs"


def test_ways_that_take_much_longer_are_left_out_of_further_turns():
    fast, slow, other = (Option("open-n", name, 1) for name in ("a", "b", "c"))
    alone = Option("open-s", "b", 1)
    took_ms = {fast: 2.0, slow: 2.7, other: 2.5, alone: 9.0}
    found = {option: Times([ms] * 3) for option, ms in took_ms.items()}
    screening._leave_out_hopeless(list(found), found)
    assert [option for option in found if found[option].refused] == [slow]
    assert found[slow].refused == "2.7 ms, where others take 2.0"
