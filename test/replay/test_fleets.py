"""Two runs of several drives side by side, and the page of one."""

import json
import re

import pytest
from commands import replay, unusable

from perception_nodes.core.frame import FrameStatus
from perception_nodes.replay.fleets import compare_fleets
from perception_nodes.report import page
from perception_nodes.report.drive_report import verdict
from perception_nodes.report.recording import RecordingError

NIGHTS = 8


def drive(number, accuracy, cars):
    """A drive of 10 frames, of which the first ones are at night."""
    status = {one.name: 0 for one in FrameStatus} | {"OK": 10}
    return {
        "model": "open-n", "backend": "null", "score_threshold": 0.25, "mode": "lockstep",
        "machine": "m", "deadline_ms": 10.0, "frames_in": 10, "status": status, "miss_rate": None,
        "over_deadline": 1, "detections": cars, "latency_ms": {"p50": 4.0, "p99": 9.0},
        "grey_level": 20.0 if number < NIGHTS else 120.0, "heights_px": {"car": {"32": cars}},
        "accuracy": {"map50_95": accuracy, "frames": 10}, "lost_in_bag": 0,
    }  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(run, drives):
        for name in drives:
            (tmp_path / run / name).mkdir(parents=True)
            (tmp_path / run / name / "timing.csv").write_text("frame,log_time_ns,total_ms\n0,1,4\n")
        (tmp_path / run / "summary.json").write_text(json.dumps({"drives": drives}))
        (tmp_path / run / "drives.csv").touch()
        return tmp_path / run

    return write


def test_what_is_worse_at_night_is_said_with_its_interval(write, tmp_path):
    hard = [0.3 + 0.02 * (number % 5) for number in range(16)]
    before = {f"d{n}": drive(n, hard[n], 20) for n in range(16)}
    after = {
        f"d{n}": drive(n, hard[n] - (0.04 + 0.01 * (n % 3)) * (n < NIGHTS), 20 + n % 2)
        for n in range(16)
    }
    after["alone"] = drive(0, 0.9, 900)
    runs = write("before", before), write("after", after)
    result = replay("--compare", *runs, "--out", tmp_path / "out", status=1)
    said = {(row["measure"], row["light"]): row for row in result["measures"]}
    at_night = said["mAP50-95, %", "dark"]
    losses = [4 + n % 3 for n in range(NIGHTS)]
    assert at_night["after"] - at_night["before"] == pytest.approx(-sum(losses) / NIGHTS)
    assert -6 < at_night["low"] < -4.9 < at_night["high"] < -4
    assert at_night["said"].startswith("worse by 4.88 ± 0.") and at_night["said"].endswith(
        " points"
    )
    assert said["mAP50-95, %", "bright"]["said"] == "no difference is shown"
    assert said["car a frame", "all"]["said"].startswith("more by 0.05 ± 0.02")
    assert result["worse"][1] == f"mAP50-95, %, dark drives: {at_night['said']}"
    assert result["left_out"] == ["alone"]
    text = (tmp_path / "out/compare.html").read_text()
    assert at_night["said"] in text and "Dark drives: 8" in text
    replay("--compare", runs[1], runs[1], "--out", tmp_path / "out", status=0)


def test_few_drives_give_no_interval_and_other_folders_are_refused(write, tmp_path):
    one = write("one", {"a": drive(0, 0.3, 5)})
    result = compare_fleets(one, write("two", {"a": drive(0, 0.1, 2)}), tmp_path)
    assert {row["said"] for row in result["measures"]} == {"too few drives for an interval"}
    assert result["worse"] == []
    other = write("other", {"b": drive(0, 0.1, 2)})
    assert "no drive in common" in unusable("--compare", one, other, "--out", tmp_path / "out")
    (other / "summary.json").write_text("[]")
    with pytest.raises(RecordingError, match="has no run of drives"):
        compare_fleets(one, other, tmp_path)


def test_the_page_has_the_worst_drive_first_and_objects_by_height():
    drives = {"<b>": drive(0, 0.3, 20), "c": drive(0, 0.3, 5) | {"over_deadline": 7}}
    totals = {"drives": 3, "frames_in": 20, "detections": 25, "lost_in_bag": 0}
    totals |= {"status": {"FAILED": 0}, "latency_ms": {"p50": 4.0, "p99": None}}
    facts = {"totals": totals, "drives": drives, "failed": {"d": "<i>gone"}}
    text = page.render("fleet.html.j2", verdict_of=verdict, work="", **facts)
    assert text.index('href="c/report.html"') < text.index('href="%3Cb%3E/report.html"')
    assert "&lt;i&gt;gone" in text and "<i>gone" not in text
    assert re.search(r"<td>car</td><td[^>]*>25</td><td[^>]*>25</td>", text)
    assert "40.00 %" in text  # 8 of 20 frames
