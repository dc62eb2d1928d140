"""Scenario files: those that are shipped, and how a wrong one is refused."""

from pathlib import Path

import pytest

from perception_nodes.faults.loading import ScenarioError, load_scenario, shipped
from perception_nodes.faults.scenario import UNDISTURBED_S, Scenario
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab.results import scenarios_markdown

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


def last_s(scenario: Scenario) -> float:
    """When the last fault ends."""
    return max((fault.end_s for fault in scenario.faults), default=UNDISTURBED_S)


def test_every_fault_has_a_scenario():
    assert set(shipped()) == WANTED


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenarios_fit_the_graph(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    # Health has two seconds behind it to become NOMINAL again, and some to stay so.
    frames, rate = scenario.drive.partition("@")[2].removesuffix(".jpeg").split("*")[::-1]
    assert int(frames) / float(rate) >= last_s(scenario) + 2.5


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("camera_stop", "camera_nap", ":4: faults.0: Input tag 'camera_nap'"),
        ("for_s: 1", "for_s: -1", ":4: faults.0.for_s: Input should be greater than or equal to 0"),
        ("told: UNSAFE", "told: ALARMED", ":5: expect.told: Input should be 'NOMINAL'"),
        (
            "detected_within_ms: 350, ",
            "",
            ":5: expect.cause: cause and detected",
        ),
        ("title: t", "title: t\nmood: good", ":3: mood: Extra inputs are not permitted"),
        ("lost: nothing", "last: nothing", ":5: expect.lost: Field required"),
        ("for_s: 1}]", "for_s: 1}", ":5: no YAML: expected ',' or ']'"),
        ("camera_stop", "camera_drop", None),
        ("{source: shm}", "{source: dds}", None),
        (
            "graph: {source: shm}\nfaults: [{kind: camera_stop",
            "faults: [{kind: camera_drop",
            ":3: faults.0.kind: camera_drop needs graph.source: shm",
        ),
        ("camera_stop", "unit_reboot", ":4: faults.0.kind: unit_reboot needs the key network"),
        ("title: t", "title: t\nnetwork: {}", ":4: graph.source: shared memory has no network"),
        (
            "graph: {source: shm}",
            "graph: {}\nnetwork: {}\ncameras: 2",
            ":5: cameras: cameras: 2 is for one machine",
        ),
        ("title: t", "title: t\ntitle: u", ":3: no YAML: the key title is there twice, first in"),
        ("for_s: 1", "for_s: 1, for_s: 2", ":4: no YAML: the key for_s is there twice"),
        ("title: t", "title: t\n<<:\n  mood: good", ":4: mood: Extra inputs"),
        ("title: t", "title: t\n3: 4", ":3: 3: a key must be a text"),
        ("cause: no frame", 'cause: "(["', ":5: expect.cause: '([' is not a regular"),
        ("for_s: 1", "for_s: yes", ":4: faults.0.for_s: Input should not be true"),
        ("source: shm", "sauce: shm", ":3: graph.sauce: is unknown; known are"),
        (
            "source: shm",
            "deadline_ms: -5",
            ":3: graph.deadline_ms: -5 is not allowed, it must",
        ),
        (
            "graph: {",
            "graph: {deadline_ms: 2000, ",
            ":3: graph.outcome_timeout_ms: 1000 is not allowed, it must be more than deadline_ms",
        ),
        ("source: shm", "bag: there", ":3: graph.bag: the drive has a key of its own"),
        ("source: shm", "rate: 0.5", ":3: graph.rate: a drive is played at its own speed"),
        ("source: shm", "listeners: 0", ":3: graph.listeners: is set by the command itself"),
        ("title: t", "title: t\ndrive: nowhere", ":3: drive: nowhere does not exist"),
        ("title: t", "title: t\ndrive: synthetic:8x8@0*9", ":3: drive: 'synthetic:8x8@0*9' has no"),
        (", for_s: 1", "", ":4: faults.0.for_s: camera_stop needs a duration"),
        ("for_s: 1", "for_s: 1, after_s: 9", ":4: faults.0.after_s: camera_stop begins 9 s after"),
        ("for_s: 1", "for_s: 9", ":4: faults.0.for_s: camera_stop ends 11.5 s after"),
        ("title: t", "title: t\nduration_s: 3", ":5: faults.0.for_s: camera_stop ends 3.5 s after"),
        ("camera_stop", "jpeg_truncated", ":4: faults.0.kind: jpeg_truncated needs a drive"),
        ("camera_stop", "calibration_wrong", ":4: faults.0.kind: calibration_wrong needs a drive"),
        (
            "title: t\ngraph: {source: shm}\nfaults: [{kind: camera_stop, for_s: 1}]",
            "title: t\njpeg_quality: 9\nfaults:\n- kind: night\n  for_s: 1\n- for_s: 1\n"
            "  kind: cdr_length",
            ":8: faults.1.kind: cdr_length needs raw images",
        ),
        (
            "title: t\ngraph: {source: shm}\nfaults: [{kind: camera_stop, for_s: 1}]",
            "title: t\nnetwork: {}\nfaults:\n- {kind: network, for_s: 2, loss: 1}\n"
            "- {kind: network, after_s: 4, for_s: 2, loss: 1}",
            ":6: faults.1: network and network (faults.0) overlap",
        ),
        (
            "title: t\ngraph: {source: shm}\nfaults: [{kind: camera_stop, for_s: 1}]",
            "title: t\nnetwork: {loss: 0.1}\nfaults:\n"
            "- {kind: network, for_s: 2, loss: 0.1, late_ms: 20}",
            ":5: faults.0: network with delay_ms: 0, loss: 0.1 and reorder: 0 changes nothing",
        ),
        (
            "title: t\ngraph: {source: shm}\nfaults: [{kind: camera_stop, for_s: 1}]",
            "title: t\nnetwork: {reorder: 0.1}\nfaults:\n"
            "- {kind: network, for_s: 1, reorder: 0.1, late_ms: 20}",
            None,
        ),
        ("camera_stop", "clock_step", ":4: faults.0.step_s: clock_step with step_s: 0 changes"),
        ("camera_stop", "size_change", ":4: faults.0.scale: size_change with scale: 1 changes"),
        ("camera_stop", "backend_slow", ":4: faults.0.factor: backend_slow with factor: 1 chan"),
        (
            "for_s: 1",
            "for_s: 1, step_s: 5",
            ":4: faults.0.step_s: camera_stop does not heed step_s: 5; leave it out, or take clock",
        ),
        (
            "for_s: 1",
            "for_s: 1, distortion: -0.3",
            ":4: faults.0.distortion: camera_stop does not heed distortion: -0.3",
        ),
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


def test_what_is_given_goes_before_the_file_and_is_checked(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(VALID)
    given = {"bag": "synthetic:8x8@10*99", "deadline_ms": "20"}
    scenario = load_scenario(str(file), given)
    assert (scenario.drive, scenario.graph) == (
        "synthetic:8x8@10*99",
        {"source": "shm", "deadline_ms": "20"},
    )
    for wrong, reason in (
        ({"deadline_ms": "-1"}, "parameter deadline_ms: '-1' is not allowed"),
        ({"deadlin": "1"}, "parameter deadlin: is unknown"),
        ({"bag": "nowhere"}, "parameter bag: nowhere does not exist"),
        ({"rate": "2"}, "parameter rate: a drive is played at its own speed"),
    ):
        with pytest.raises(SettingsError, match=reason):
            load_scenario(str(file), wrong)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ScenarioError, match="'nonesuch' is unknown; known are backend_absurd, "):
        load_scenario("nonesuch")


def test_the_documentation_holds_the_table(root: Path):
    table = scenarios_markdown([load_scenario(name) for name in shipped()])
    text = (root / "docs/faults.md").read_text(encoding="utf-8")
    assert table in text, "put the output of `perception hil list --markdown` into docs/faults.md"


SUITE = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))


def test_the_suite_is_whole():
    assert {file.stem for file in SUITE} == {
        "nominal_day",
        "night",
        "rain",
        "sun_glare",
        "lens_blocked",
        "camera_unplugged",
        "network_cut",
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
    assert scenario.duration_s >= last_s(scenario) + 2.5
