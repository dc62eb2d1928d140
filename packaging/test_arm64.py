"""The comparisons of `make arm64-test` fail where they must; nothing of arm64 is needed."""

import json
import os
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import arm64_checks
import arm64_differences
import arm64_machine
import arm64_test
import cv2
import numpy as np
import pytest
import without_ros
from arm64_machine import Failed

CAR = [0.0, 0.9, 10, 10, 50, 50]
FAR = [0.0, 0.9, 70, 70, 90, 90]


@pytest.fixture
def every(tmp_path):
    (tmp_path / "tmp").mkdir()
    machine = SimpleNamespace(path=lambda inside: tmp_path / inside, words=list)
    check = arm64_checks.Check(machine, tmp_path, 2)
    check.end_s = time.monotonic() + 600
    return check


def outputs(**changed):
    arrays = {"box/0": np.zeros(8), "objects/0": np.array([CAR, FAR]), "step/box": np.float64(0.5)}
    return arrays | {k.replace("_", "/"): changed[k] for k in changed}


def library(alignment):
    segment = struct.pack("<2I6Q", 1, 0, 0, 0, 0, 0, 0, alignment)
    head = struct.pack("<5s27xQ14x2H6x", b"\x7fELF\x02", 64, len(segment), 1)
    return head.ljust(64, b"\0") + segment


class TestDifferences:
    def test_the_same_is_within_the_bounds(self):
        lines, exact, wrong = arm64_differences.differences(outputs(), outputs())
        assert len(lines) == exact == 2 and not wrong and lines[-1].startswith("objects")

    @pytest.mark.parametrize(
        ("changed", "wrong"),
        [
            ({"box_0": np.full(8, 0.9)}, []),
            ({"box_0": np.full(8, 1.1)}, ["box"]),
            ({"box_0": np.full(8, np.nan)}, ["box"]),
            ({"objects_0": np.array([CAR])}, ["objects"]),
            ({"objects_0": np.array([CAR, CAR, FAR])}, []),
        ],
    )
    def test_too_far(self, changed, wrong):
        _, exact, far = arm64_differences.differences(outputs(), outputs(**changed))
        assert [line.partition(":")[0] for line in far] == wrong and exact == 1

    def test_nothing_to_compare(self):
        with pytest.raises(ValueError, match="no tensor"):
            arm64_differences.differences({}, {})
        with pytest.raises(ValueError, match="different names"):
            arm64_differences.differences(outputs(), outputs(more_0=np.zeros(8)))


@pytest.mark.parametrize(("runtime", "apart"), [("golden", 1e-6), ("golden", 0), ("litert", 1e-6)])
def test_the_integer_network_alone_must_be_the_same_to_the_bit(every, monkeypatch, runtime, apart):
    def writes(add):
        return lambda *words: np.savez(
            every.machine.path(words[-1].lstrip("/")), **outputs(box_0=add)
        )

    (every.out / "tmp/drive").mkdir()
    monkeypatch.setattr(every, "here", writes(np.zeros(8)))
    monkeypatch.setattr(every, "there", writes(np.full(8, apart)))
    every.machine.path = lambda inside: (
        every.out / inside.lstrip("/").removeprefix(str(every.out)[1:] + "/")
    )
    if runtime == "golden" and apart:
        with pytest.raises(Failed, match="box: 100.0% of the values differ"):
            every.tensors(runtime)
    else:
        assert every.tensors(runtime).startswith(f"{2 - (apart > 0)} of 2 to the bit")


@pytest.mark.parametrize("apart", [0, 1, 2])
def test_frames_may_be_scaled_a_code_apart(every, monkeypatch, apart):
    for folder, grey in (("drive", 100), ("tmp/drive", 100), ("tmp/scaled", 100 + apart)):
        (every.out / folder).mkdir()
        cv2.imwrite(str(every.out / folder / "0.png"), np.full((4, 4, 3), grey, np.uint8))
    monkeypatch.setattr(every, "there", lambda *_: "")
    if apart > 1:
        with pytest.raises(Failed, match="by 2 at most"):
            every.scaled()
    else:
        assert f"{apart * 100:.1f}% of the bytes differ" in every.scaled()


@pytest.mark.parametrize(
    ("ours", "theirs", "far", "far_where_the_same"),
    [
        ([CAR, FAR], [CAR, FAR], False, False),
        ([CAR], [[*CAR[:5], 50.00001]], False, False),
        ([CAR], [[*CAR[:5], 50.001]], False, True),
        ([CAR, FAR] * 2, [CAR, FAR, FAR], False, True),
        ([CAR], [CAR, FAR], True, True),
        ([CAR, FAR], [CAR], True, True),
        ([CAR], [[1, *CAR[1:]]], True, True),
        ([], [CAR], True, True),
        ([], [], True, True),
    ],
)
def test_objects_without_counterpart_count_on_both_sides(ours, theirs, far, far_where_the_same):
    pairs = [(np.reshape(ours, (-1, 6)), np.reshape(theirs, (-1, 6)))]
    assert arm64_differences.objects_apart(pairs)[1] == far
    assert arm64_differences.objects_apart(pairs, same=True)[1] == far_where_the_same


def test_libraries_that_need_smaller_pages_and_none_fail(every, tmp_path):
    every.machine.path = lambda _: tmp_path
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(Failed, match="0 of 0"):
        every.pages()
    (tmp_path / "large.so").write_bytes(library(65536))
    assert "all 1 libraries" in every.pages()
    (tmp_path / "small.so.1").write_bytes(library(4096))
    with pytest.raises(Failed, match="1 of 2 .* small.so.1"):
        every.pages()


def test_a_compiled_model_must_have_been_compared(every, monkeypatch):
    compared = [{"reference": "open-n on golden", "measure": "share of 25 objects", "value": 1}]
    monkeypatch.setattr(every, "there", lambda *_: f"INFO\n{json.dumps({'checks': compared})}\n")
    assert every.compiled("litert") == "open-n on golden: share of 25 objects 1.00"
    compared.clear()
    with pytest.raises(Failed, match="no agreement"):
        every.compiled("litert")


class TestSuites:
    @pytest.mark.parametrize("summary", ["23 skipped in 0.10s", "no tests ran in 0.1s", ""])
    def test_one_without_a_passed_test_fails(self, every, monkeypatch, summary):
        monkeypatch.setattr(every, "there", lambda *_: f"..\n{summary}\n")
        with pytest.raises((Failed, LookupError)):
            every.tests(["test/core"])

    def test_one_that_passed(self, every, monkeypatch):
        monkeypatch.setattr(every, "there", lambda *_: "..\n==== 2 passed, 1 skipped in 1s ====\n")
        assert every.tests(["test/core"]) == "2 passed, 1 skipped in 1s"

    def test_what_the_time_does_not_suffice_for_is_cut(self, every, tmp_path, monkeypatch):
        ends = "def test_a(request): request.config.option.end_at = 0\ndef test_b(): assert False\n"
        (tmp_path / "test_two.py").write_text(ends)
        monkeypatch.setattr(every.machine, "words", lambda words: [sys.executable, *words[1:]])
        monkeypatch.setattr(arm64_checks, "CORES", 1)
        monkeypatch.setenv("PYTHONPATH", str(arm64_machine.ROOT / "packaging"))
        with pytest.raises(arm64_checks.Cut, match=r"1 passed, 1 skipped .*; 1 of the skipped"):
            every.tests(["--confcutdir", str(tmp_path), str(tmp_path)])

    def test_of_each_test_there_are_few_cases_and_of_each_property_few_examples(self, tmp_path):
        (tmp_path / "test_many.py").write_text(
            "import hypothesis, pytest\n"
            "@pytest.mark.parametrize('case', range(9))\n"
            "def test_case(case): print('case', case)\n"
            "class TestProperty:\n"
            "    @hypothesis.given(hypothesis.strategies.integers())\n"
            "    @hypothesis.settings(max_examples=50)\n"
            "    def test_property(self, number): print('example')\n"
        )
        words = ["-m", "pytest", "-q", "-s", "-p", "without_ros", "--cases=2", "--examples=5"]
        environment = os.environ | {"PYTHONPATH": str(arm64_machine.ROOT / "packaging")}
        text = subprocess.check_output(
            [sys.executable, *words, "."], cwd=tmp_path, env=environment, text=True
        )
        assert "3 passed, 7 deselected" in text and 1 <= text.count("example") <= 5
        assert [line.split()[-1] for line in text.splitlines() if "case" in line] == ["0", "4"]

    @pytest.mark.parametrize(("end", "kind"), [("", arm64_checks.Cut), ("F", Failed)])
    def test_one_that_is_killed_tells_how_far_it_was(self, every, monkeypatch, end, kind):
        def killed(*_):
            every.log.write_text(f"bringing up nodes...\n\n..s. [ 10%]\n..{end}")
            raise subprocess.TimeoutExpired("python3", 1)

        monkeypatch.setattr(every, "there", killed)
        with pytest.raises(kind, match=f"5 passed, {len(end)} failed, 1 skipped, all others"):
            every.tests(["test/core"])


def test_a_command_is_killed_with_all_it_started_when_its_time_is_over(tmp_path):
    log, held = tmp_path / "log", tmp_path / "held"
    assert arm64_machine.run(["sh", "-c", "echo one; exit 3"], log, 60) == 3
    assert log.read_text() == "one\n"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(subprocess.TimeoutExpired):
        arm64_machine.run(["sh", "-c", f"sleep 600 >{held} & wait"], log, 0.5)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end comes when no process holds it any more
    os.close(reader)


def test_a_word_that_names_no_check_fails():
    assert arm64_test.chosen(["doctor"]) == ["doctor"]
    with pytest.raises(Failed, match="typo"):
        arm64_test.chosen(["doctor", "typo"])


class TestChecks:
    def run(self, every, monkeypatch, *, minutes=1, **checks):
        monkeypatch.setattr(
            arm64_test, "CHECKS", {k: (0.25, lambda _, do=v: do()) for k, v in checks.items()}
        )
        status = arm64_test.check(every, list(checks), time.monotonic() + 60 * minutes)
        return status, json.loads((every.out / "results.json").read_text())

    def test_one_that_breaks_fails_and_the_others_run(self, every, monkeypatch):
        def breaks():
            raise LookupError("gone")

        status, (one, two) = self.run(every, monkeypatch, one=breaks, two=lambda: "seen")
        assert status == 1 and (one["verdict"], two["verdict"]) == ("FAILED", "ok")
        assert "LookupError: gone" in one["seen"] and two["seen"] == "seen"
        assert self.run(every, monkeypatch, two=lambda: "seen")[0] == 0

    def test_what_is_cut_is_named_and_is_not_passed(self, every, monkeypatch, capsys):
        def cut():
            raise subprocess.TimeoutExpired("python3", 1)

        def half():
            raise arm64_checks.Cut("3 passed; 4 of the skipped ones are cut")

        status, (one, two) = self.run(every, monkeypatch, one=cut, two=half)
        assert status == 1 and one["verdict"] == two["verdict"] == "CUT"
        assert "3 passed" in two["seen"]
        assert capsys.readouterr().out.splitlines()[-2].endswith("(--minutes): one; two")

    def test_each_has_a_share_of_the_time_left(self, every, monkeypatch):
        _, results = self.run(every, monkeypatch, one=lambda: "", two=lambda: "")
        assert [one["limit_seconds"] for one in results] == [15, 15]
        _, (late,) = self.run(every, monkeypatch, minutes=-1, late=lambda: "")
        assert late["limit_seconds"] == 0


def test_mounts_are_made_in_a_namespace_of_the_run_alone(monkeypatch):
    monkeypatch.setattr(arm64_machine.os, "getpid", lambda: 1)  # as in a container
    monkeypatch.delenv(arm64_machine.INSIDE, raising=False)
    assert not arm64_machine.inside()
    monkeypatch.setenv(arm64_machine.INSIDE, arm64_machine.namespace())
    assert not arm64_machine.inside()
    monkeypatch.setenv(arm64_machine.INSIDE, "mnt:[1]")
    assert arm64_machine.inside()


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with (
        arm64_machine.alone(tmp_path),
        pytest.raises(Failed, match="--scratch"),
        arm64_machine.alone(tmp_path),
    ):
        pass
    with arm64_machine.alone(tmp_path):
        pass


def test_a_folder_is_made_again_where_its_key_differs(tmp_path):
    def make(folder):
        folder.mkdir()
        made.append(folder)

    def breaks(folder):
        folder.mkdir()
        raise Failed("no network")

    made = []
    with pytest.raises(Failed):
        arm64_machine.kept(tmp_path / "machine", "one", breaks)
    one = arm64_machine.kept(tmp_path / "machine", "one", make)
    assert arm64_machine.kept(tmp_path / "machine", "one", make) == one and len(made) == 1
    two = arm64_machine.kept(tmp_path / "machine", "two", make)
    assert list(tmp_path.iterdir()) == [two] != [one]


def test_a_rule_must_be_enabled_and_hold_in_other_folders(tmp_path):
    rule = tmp_path / "qemu-aarch64"
    assert not arm64_machine.registered(rule)
    for text, holds in {
        "enabled\ninterpreter /q\nflags: POF\noffset 0\n": True,
        "enabled\ninterpreter /q\nflags: OC\noffset 0\n": False,
        "disabled\ninterpreter /q\nflags: POF\noffset 0\n": False,
    }.items():
        rule.write_text(text)
        assert arm64_machine.registered(rule) == holds


def test_only_what_is_absent_skips_a_test():
    rclpy = ModuleNotFoundError("rclpy", name="rclpy")
    caused = RuntimeError("no graph")
    caused.__cause__ = rclpy
    assert without_ros.lacking(rclpy) == without_ros.lacking(caused) == "rclpy"
    for error in (AssertionError("rclpy"), ModuleNotFoundError("numpy", name="numpy"), None):
        assert not without_ros.lacking(error)
