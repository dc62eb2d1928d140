"""The script for a board's first hour: in simulation, on a fake board, on boards that are ill."""

import re

import checks
import first_light
import pytest
import steps
from fake_engine import Buffer

from perception_nodes.fpga import board
from perception_nodes.fpga.layout import Register


@pytest.fixture
def kv260(bitstream, engine, tmp_path, monkeypatch):
    """A board on which nothing is ill."""
    bitstream.with_suffix(".hwh").write_text('<MODULE INSTANCE="engine_0"/>')
    for name, content in (
        ("BOARD_MODEL", "ZynqMP SMK-K26 Rev1/B/A, KV260\0"),
        ("MEMORY", "CmaTotal:  1024000 kB\nCmaFree:    990000 kB\n"),
    ):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(checks, name, tmp_path / name)
    monkeypatch.setattr(checks.os, "geteuid", lambda: 0)
    monkeypatch.setattr(checks, "TIMED_FRAMES", 2)
    return bitstream


def first_hour(path, capsys):
    """Run the script; its status, and what it printed."""
    status = first_light.main([str(path), "--frames", "5"])
    return status, capsys.readouterr().out


def failed(path, capsys):
    """The title of the step that failed, and what it found."""
    status, text = first_hour(path, capsys)
    assert status == 1
    title, found = re.findall(r"^ ?\d+ (.*)\n +expected: .*\n +found: +(.*)$", text, re.M)[-1]
    assert re.search(r"FAILED; what it may be, the likely first:\n +- \w", text)
    return title, found


def test_on_a_board_that_works_every_step_is_as_expected(kv260, engine, capsys):
    status, text = first_hour(kv260, capsys)
    assert status == 0, text
    assert text.count("found:") == len(steps.STEPS)
    assert text.endswith(f"all {len(steps.STEPS)} steps are as expected\n")
    assert not engine.memory
    assert engine.downloads == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_simulation_leaves_out_what_is_about_the_board(simulation_path, capsys):
    status, text = first_hour(simulation_path, capsys)
    assert status == 0, text
    assert text.count("left out: it is about the board") == 2


class TestIllBoards:
    def test_another_board(self, kv260, capsys):
        checks.BOARD_MODEL.write_text("ZynqMP ZCU104\0")
        assert failed(kv260, capsys)[0] == "board"

    def test_a_design_without_the_engine(self, kv260, capsys):
        kv260.with_suffix(".hwh").write_text("<MODULE/>")
        assert failed(kv260, capsys)[0] == "files"

    def test_another_design(self, kv260, engine, capsys):
        engine.built[Register.ID] = 0
        title, found = failed(kv260, capsys)
        assert title == "identity"
        assert "answers with ID 0x00000000" in found

    def test_a_bit_that_sticks(self, kv260, engine, capsys, monkeypatch):
        write = engine.write
        monkeypatch.setattr(
            engine, "write", lambda at, v: write(at, v | (at == Register.OUTPUT_LOW) << 20)
        )
        assert failed(kv260, capsys) == (
            "registers",
            "OUTPUT_LOW holds 0xAABAA880 after 0xAAAAA880",
        )

    def test_addresses_that_overlap(self, kv260, engine, capsys, monkeypatch):
        write = engine.write
        monkeypatch.setattr(engine, "write", lambda at, value: write(at & ~0x10, value))
        assert failed(kv260, capsys)[0] == "registers"

    def test_memory_that_cannot_be_read(self, kv260, engine, capsys, monkeypatch):
        monkeypatch.setattr(engine, "fault", "READ")
        title, found = failed(kv260, capsys)
        assert (title, found[:15]) == ("memory is read", "READ, then READ")

    def test_a_cache_that_is_not_written_back(self, kv260, capsys, monkeypatch):
        flush, flushed = Buffer.flush, []

        def only_once(buffer):
            if buffer.device_address not in flushed:
                flush(buffer)
            flushed.append(buffer.device_address)

        monkeypatch.setattr(Buffer, "flush", only_once)
        title, found = failed(kv260, capsys)
        assert (title, found[:21]) == ("memory is read", "VERSION, then VERSION")

    def test_outputs_that_do_not_arrive(self, kv260, capsys, monkeypatch):
        monkeypatch.setattr(Buffer, "invalidate", lambda own: None)
        title, found = failed(kv260, capsys)
        assert title == "one layer"
        assert found.endswith("100% of all were not written")

    def test_a_multiplier_that_is_ill(self, kv260, engine, capsys, monkeypatch):
        end = engine.end

        def wrong():
            end()
            if engine.registers[Register.COUNT] == 2:
                engine.at(Register.OUTPUT_LOW).view("<i4")[3::32] ^= 64  # channel 3 of 32

        monkeypatch.setattr(engine, "end", wrong)
        title, found = failed(kv260, capsys)
        assert title == "one layer"
        assert found.startswith("out: 512 of 16384 values differ, in channels [3], lines 0 to 15;")

    def test_another_clock(self, kv260, engine, capsys):
        engine.clock_mhz = 100
        title, found = failed(kv260, capsys)
        assert title == "time"
        assert "a clock of 100.0 MHz" in found

    def test_a_value_that_is_wrong_once(self, kv260, engine, capsys, monkeypatch):
        end, ends = engine.end, []

        def wrong():
            end()
            ends.append(1)
            if len(ends) == 14:
                engine.at(Register.OUTPUT_LOW)[1000] ^= 1

        monkeypatch.setattr(engine, "end", wrong)
        title, found = failed(kv260, capsys)
        assert title == "endurance"
        assert found.startswith("frame ")

    def test_somebody_else_has_the_fpga(self, kv260, capsys):
        with board.LOCK.open("w") as other:
            board.fcntl.flock(other, board.fcntl.LOCK_EX)
            assert failed(kv260, capsys)[0] == "load"


def test_what_is_no_engine_is_refused(tmp_path, capsys):
    assert first_light.main([str(tmp_path / "gone.bit")]) == 2
    assert "is no bitstream (.bit) and no simulated engine (.so)" in capsys.readouterr().err
