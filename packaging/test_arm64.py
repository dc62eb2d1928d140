"""The comparisons of `make arm64-test` fail where they must; nothing of arm64 is needed."""

import struct
from types import SimpleNamespace

import arm64_test
import numpy as np
import pytest
import without_ros

CAR = [0.0, 0.9, 10, 10, 50, 50]
FAR = [0.0, 0.9, 70, 70, 90, 90]


def outputs(**changed):
    arrays = {f"{runtime}/box/0": np.zeros(8) for runtime in ("input", *arm64_test.RUNTIMES)}
    arrays |= {f"{runtime}/objects/0": np.array([CAR, FAR]) for runtime in arm64_test.RUNTIMES}
    return (
        arrays | {"step/box": np.float64(0.5)} | {k.replace("_", "/"): changed[k] for k in changed}
    )


def library(alignment):
    segment = struct.pack("<2I6Q", 1, 0, 0, 0, 0, 0, 0, alignment)
    head = struct.pack("<5s27xQ14x2H6x", b"\x7fELF\x02", 64, len(segment), 1)
    return head.ljust(64, b"\0") + segment


class TestDifferences:
    def test_the_same_is_within_the_bounds(self):
        lines, rounded, wrong = arm64_test.differences(outputs(), outputs())
        assert len(lines) == 9 and not rounded and not wrong

    @pytest.mark.parametrize(
        ("changed", "wrong"),
        [
            ({"golden_box_0": np.full(8, 1e-6)}, ["golden/box"]),
            ({"input_box_0": np.full(8, 1)}, ["input/box"]),
            ({"litert_box_0": np.full(8, 0.9)}, []),
            ({"litert_box_0": np.full(8, 1.1)}, ["litert/box"]),
            ({"openvino_box_0": np.full(8, np.nan)}, ["openvino/box"]),
            ({"litert_objects_0": np.array([CAR])}, ["litert/objects"]),
            ({"litert_objects_0": np.array([CAR, CAR, FAR])}, []),
            ({"golden_objects_0": np.array([CAR, CAR, FAR])}, ["golden/objects"]),
        ],
    )
    def test_too_far(self, changed, wrong):
        _, rounded, far = arm64_test.differences(outputs(), outputs(**changed))
        assert far == wrong and rounded == {next(iter(changed)).partition("_")[0]}

    def test_nothing_to_compare(self):
        with pytest.raises(arm64_test.Failed, match="no tensor of golden, input"):
            arm64_test.differences({}, {})
        with pytest.raises(arm64_test.Failed, match="different names"):
            arm64_test.differences(outputs(), outputs(more_box_0=np.zeros(8)))


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ([CAR, FAR], [CAR, FAR], 0),
        ([CAR], [CAR, FAR], 1 / 3),
        ([CAR, FAR], [CAR], 1 / 3),
        ([CAR], [[1, *CAR[1:]]], 1),
        ([], [CAR], 1),
        ([], [], 1),
    ],
)
def test_objects_without_counterpart_count_on_both_sides(ours, theirs, share):
    pairs = [(np.reshape(ours, (-1, 6)), np.reshape(theirs, (-1, 6)))]
    assert arm64_test.objects_apart(pairs)[1] == pytest.approx(share)


def test_libraries_that_need_smaller_pages_and_none_fail(tmp_path):
    every = arm64_test.Check(SimpleNamespace(path=lambda _: tmp_path), tmp_path)
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(arm64_test.Failed, match="0 of 0"):
        every.pages()
    (tmp_path / "large.so").write_bytes(library(65536))
    assert "all 1 libraries" in every.pages()
    (tmp_path / "small.so.1").write_bytes(library(4096))
    with pytest.raises(arm64_test.Failed, match="1 of 2 .* small.so.1"):
        every.pages()


@pytest.mark.parametrize("summary", ["23 skipped in 0.10s", "no tests ran in 0.1s", ""])
def test_a_suite_without_a_passed_test_fails(tmp_path, monkeypatch, summary):
    every = arm64_test.Check(None, tmp_path)
    monkeypatch.setattr(every, "there", lambda *_, **__: f"..\n{summary}\n")
    with pytest.raises((arm64_test.Failed, LookupError)):
        every.tests(["test/core"])
    monkeypatch.setattr(
        every, "there", lambda *_, **__: "..\n==== 2 passed, 1 skipped in 1s ====\n"
    )
    assert every.tests(["test/core"]) == "2 passed, 1 skipped in 1s"


def test_a_word_that_names_no_check_fails():
    assert arm64_test.chosen(["doctor"]) == ["doctor"]
    with pytest.raises(arm64_test.Failed, match="typo"):
        arm64_test.chosen(["doctor", "typo"])


def test_a_check_that_breaks_fails_and_the_others_run(tmp_path, monkeypatch):
    def breaks(every):
        raise LookupError("gone")

    monkeypatch.setattr(arm64_test, "CHECKS", {"one": breaks, "two": lambda every: "seen"})
    assert arm64_test.check(None, tmp_path, ["one", "two"], float("inf")) == 1
    one, two = arm64_test.json.loads((tmp_path / "results.json").read_text())
    assert not one["passed"] and "LookupError: gone" in one["seen"] and two["passed"]
    assert arm64_test.check(None, tmp_path, ["two"], 0) == 1
    assert "not run" in (tmp_path / "results.json").read_text()
    assert arm64_test.check(None, tmp_path, ["two"], float("inf")) == 0


def test_mounts_are_made_in_a_namespace_of_the_run_alone(monkeypatch):
    monkeypatch.setattr(arm64_test.os, "getpid", lambda: 1)  # as in a container
    monkeypatch.delenv(arm64_test.INSIDE, raising=False)
    assert not arm64_test.inside()
    monkeypatch.setenv(arm64_test.INSIDE, arm64_test.namespace())
    assert not arm64_test.inside()
    monkeypatch.setenv(arm64_test.INSIDE, "mnt:[1]")
    assert arm64_test.inside()


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with (
        arm64_test.alone(tmp_path),
        pytest.raises(arm64_test.Failed, match="--scratch"),
        arm64_test.alone(tmp_path),
    ):
        pass
    with arm64_test.alone(tmp_path):
        pass


def test_a_rule_must_be_enabled_and_hold_in_other_folders(tmp_path):
    rule = tmp_path / "qemu-aarch64"
    assert not arm64_test.registered(rule)
    for text, holds in {
        "enabled\ninterpreter /q\nflags: POF\noffset 0\n": True,
        "enabled\ninterpreter /q\nflags: OC\noffset 0\n": False,
        "disabled\ninterpreter /q\nflags: POF\noffset 0\n": False,
    }.items():
        rule.write_text(text)
        assert arm64_test.registered(rule) == holds


def test_only_what_is_absent_skips_a_test():
    rclpy = ModuleNotFoundError("rclpy", name="rclpy")
    caused = RuntimeError("no graph")
    caused.__cause__ = rclpy
    assert without_ros.lacking(rclpy) == without_ros.lacking(caused) == "rclpy"
    for error in (AssertionError("rclpy"), ModuleNotFoundError("numpy", name="numpy"), None):
        assert not without_ros.lacking(error)
