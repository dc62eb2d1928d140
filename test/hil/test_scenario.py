"""Scenario files: those that are shipped, and how a wrong one is refused."""

from pathlib import Path

import pytest

from perception_nodes.graph import HIL
from perception_nodes.hil.report import scenarios_markdown
from perception_nodes.hil.scenario import ScenarioError, load_scenario, shipped

WANTED = {
    "camera_stop",
    "camera_freeze",
    "camera_drop",
    "camera_stall_burst",
    "camera_out_of_order",
    "stamp_duplicate",
    "stamp_backward",
    "clock_step_forward",
    "clock_step_back",
    "cdr_length",
    "jpeg_truncated",
    "encoding_unknown",
    "size_change",
    "huge_frame",
    "backend_slow",
    "backend_hang",
    "backend_exception",
    "backend_segfault",
    "backend_nan",
    "backend_absurd",
    "detector_kill",
    "preprocess_kill",
    "watchdog_kill",
    "detector_stop",
    "shm_full",
    "cpu_contention",
    "slow_subscriber",
}
VALID = """
title: t
graph: {source: shm}
faults: [{kind: camera_stop, for_s: 1}]
expect: {cause: no frame, detected_within_ms: 350, told: UNSAFE, lost: nothing}
"""


def test_every_fault_has_a_scenario():
    assert set(shipped()) == WANTED


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenarios_fit_the_graph(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    HIL.nodes({"bag": scenario.drive, "standby": "never", **scenario.graph})
    # Health has two seconds behind it to become NOMINAL again, and some to stay so.
    frames, rate = scenario.drive.partition("@")[2].removesuffix(".jpeg").split("*")[::-1]
    assert int(frames) / float(rate) >= scenario.end_s + 2.5


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("camera_stop", "camera_nap", ":4: faults.0: Input tag 'camera_nap'"),
        ("for_s: 1", "for_s: -1", ":4: faults.0.for_s: Input should be greater than or equal to 0"),
        ("told: UNSAFE", "told: ALARMED", ":5: expect.told: Input should be 'NOMINAL'"),
        ("detected_within_ms: 350, ", "", ":5: expect: cause and detected_within_ms go together"),
        ("title: t", "title: t\nmood: good", ":3: mood: Extra inputs are not permitted"),
        ("lost: nothing", "last: nothing", ":5: expect.lost: Field required"),
        ("for_s: 1}]", "for_s: 1}", ":5: no YAML: expected ',' or ']'"),
        ("camera_stop", "camera_drop", None),
        ("{source: shm}", "{source: dds}", None),
        (
            "graph: {source: shm}\nfaults: [{kind: camera_stop",
            "faults: [{kind: camera_drop",
            "needs",
        ),
        ("camera_stop", "unit_reboot", "need the key network"),
        ("title: t", "title: t\nnetwork: {}", "shared memory has no network"),
        ("title: t", "title: t\nnetwork: {loss: 2}", ":3: network.loss: Input should be less than"),
    ],
)
def test_a_wrong_scenario_is_refused_in_one_line(tmp_path: Path, old, new, reason):
    file = tmp_path / "mine.yaml"
    file.write_text(VALID.replace(old, new))
    if reason is None:
        assert load_scenario(str(file)).name == "mine"
        return
    with pytest.raises(ScenarioError) as caught:
        load_scenario(str(file))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ScenarioError, match="'nonesuch' is unknown; known are backend_absurd, "):
        load_scenario("nonesuch")


def test_the_documentation_holds_the_table(root: Path):
    table = scenarios_markdown([load_scenario(name) for name in shipped()])
    text = (root / "docs/faults.md").read_text(encoding="utf-8")
    assert table in text, "put the output of `perception hil list --markdown` into docs/faults.md"


SUITE = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))


def test_the_suite_is_whole():
    assert {file.stem for file in SUITE} >= {
        "nominal_day",
        "night",
        "rain",
        "sun_glare",
        "lens_blocked",
        "camera_unplugged",
        "network_loss",
        "network_reordering",
        "unit_reboot",
        "thermal_throttle",
        "wrong_calibration",
        "two_cameras",
    }


@pytest.mark.parametrize("file", SUITE, ids=lambda file: file.stem)
def test_the_suite_fits_the_graph(file: Path):
    scenario = load_scenario(str(file))
    drive = "synthetic:640x272@25*10"
    HIL.nodes({"bag": drive, "standby": "never", **scenario.graph})
    assert scenario.duration_s >= scenario.end_s + 2.5
