"""Matrix tiles are used where a network is faster with them; measured once on a machine."""

import json
import os
from contextlib import suppress

import openvino
import pytest

from perception_nodes.backends import instructions
from perception_nodes.backends.compiled import CompiledRefused, compiled
from perception_nodes.backends.contract import BackendSettings, open_model
from perception_nodes.backends.pace import apart_ms
from perception_nodes.core.inference import BackendError
from perception_nodes.networks.model import load_model
from perception_nodes.networks.openvino_core import VARIABLE, WITH_TILES, WITHOUT_TILES
from perception_nodes.system import processes

MODEL = load_model("open-n")


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """A processor with tiles, and no choice yet."""
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx512_vnni amx_bf16 amx_tile amx_int8\n")
    monkeypatch.setattr(processes, "CPU_INFO", info)
    # Set first, so that what the tests bring about is undone.
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    return info


@pytest.fixture
def chosen(monkeypatch):
    """The instructions that are chosen, and those that were timed, each with a time of `ms`."""

    def choose(cache, ms):
        calls: list[str] = []

        def timed(*_, environment):
            calls.append(environment[VARIABLE])
            if ms[calls[-1]] < 0:
                raise BackendError("openvino with open-n did not end in 100 s")
            return [ms[calls[-1]]] * 3

        monkeypatch.setattr(instructions, "apart_ms", timed)
        return instructions.faster_instructions(MODEL, 1, "2026", str(cache)), calls

    return choose


@pytest.mark.parametrize("faster", [WITH_TILES, WITHOUT_TILES])
def test_the_faster_instructions_are_kept(processor, chosen, tmp_path, faster):
    ms = {WITH_TILES: 2.0, WITHOUT_TILES: 2.0, faster: 1.0}
    cache = tmp_path / "cache"
    assert chosen(cache, ms) == (faster, [WITHOUT_TILES, WITH_TILES])
    assert chosen(cache, {}) == (faster, [])


def test_other_processors_of_the_machine_are_another_choice(
    processor, chosen, tmp_path, monkeypatch
):
    for allowed in ({0, 1}, {1}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allowed=allowed: allowed)
        for timed in ([WITHOUT_TILES, WITH_TILES], []):
            assert chosen(tmp_path, {WITH_TILES: 1.0, WITHOUT_TILES: 2.0}) == (WITH_TILES, timed)


@pytest.mark.parametrize("failing", [WITH_TILES, WITHOUT_TILES])
def test_a_network_that_cannot_be_timed_runs_without_tiles(
    processor, chosen, tmp_path, caplog, failing
):
    ms = {WITH_TILES: 1.0, WITHOUT_TILES: 1.0, failing: -1}
    assert chosen(tmp_path, ms)[0] == WITHOUT_TILES
    assert "open-n runs without matrix tiles" in caplog.text and "100 s" in caplog.text
    assert f"where {tmp_path / 'instructions.json'} is removed" in caplog.text
    assert chosen(tmp_path, {}) == (WITHOUT_TILES, [])  # it is not tried at each start


@pytest.mark.parametrize("text", ["", '{"a": 1}', "\0"])
def test_a_damaged_choice_is_made_again(processor, chosen, tmp_path, text):
    (tmp_path / "instructions.json").write_text(text)
    assert chosen(tmp_path, {WITH_TILES: 1.0, WITHOUT_TILES: 2.0})[0] == WITH_TILES
    assert WITH_TILES in json.loads((tmp_path / "instructions.json").read_text()).values()


def test_without_tiles_or_a_folder_nothing_is_timed(processor, chosen, tmp_path):
    assert chosen("", {}) == (WITHOUT_TILES, [])
    processor.write_text("flags : fpu avx512_vnni\n")
    assert chosen(tmp_path, {}) == (WITHOUT_TILES, [])
    processor.unlink()
    assert chosen(tmp_path, {}) == (WITHOUT_TILES, [])


def test_the_environment_decides(processor, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "AVX2")
    monkeypatch.setattr(instructions, "apart_ms", lambda *_, **__: pytest.fail("it was timed"))
    with open_model("openvino", MODEL, BackendSettings(1, str(tmp_path))):
        assert os.environ[VARIABLE] == "AVX2"


def test_both_are_timed_in_processes_that_have_them(processor, tmp_path, monkeypatch):
    """Real calls: a processor without tiles runs either."""
    seen: list[list[float]] = []

    def timed(model, backend, threads, _, **options):
        seen.append(apart_ms(model, backend, threads, 2, **options))
        return seen[-1]

    monkeypatch.setattr(instructions, "apart_ms", timed)
    instructions.faster_instructions(MODEL, 1, "2026", str(tmp_path))
    assert [len(times_ms) for times_ms in seen] == [2, 2]


def test_compiling_a_model_keeps_what_was_measured(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(instructions, "apart_ms", lambda *_, **__: [1.0])
    instructions.faster_instructions(MODEL, 1, openvino.__version__, str(tmp_path))
    kept = (tmp_path / "instructions.json").read_text()
    with suppress(CompiledRefused), compiled(MODEL, "openvino", 1, tmp_path):
        raise CompiledRefused("detects nothing")
    assert (tmp_path / "instructions.json").read_text() == kept
