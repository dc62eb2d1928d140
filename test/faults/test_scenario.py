"""Scenario files: those that are shipped, and how a wrong one is refused."""

import runpy
from pathlib import Path

import pytest
import yaml
from refused import refused

from perception_nodes.faults.loading import ScenarioError, load_scenario, shipped
from perception_nodes.faults.scenario import UNDISTURBED_S, Scenario
from perception_nodes.graph.settings import SettingsError

WANTED = set(
    """
    camera_stop camera_freeze camera_drop camera_stall_burst camera_out_of_order
    stamp_duplicate stamp_backward clock_step_forward clock_step_back cdr_length jpeg_truncated
    encoding_unknown size_change huge_frame backend_slow backend_hang backend_exception
    backend_segfault backend_nan backend_absurd detector_kill preprocess_kill watchdog_kill
    detector_stop shm_full cpu_contention slow_subscriber
    """.split()
)
_CASES = yaml.safe_load((Path(__file__).parent / "wrong_scenarios.yaml").read_text())
WRONG = [tuple(case.values()) for case in _CASES]
"""Changes to `VALID`: old, new, and the line by which it is refused; None where it is not."""
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


@pytest.mark.parametrize(("old", "new", "reason"), WRONG)
def test_a_wrong_scenario_is_refused_in_one_line(tmp_path: Path, old, new, reason):
    file = tmp_path / "mine.yaml"
    file.write_text(VALID.replace(old, new))
    if reason is None:
        assert load_scenario(str(file)).name == "mine"
        return
    assert reason in refused(ScenarioError, load_scenario, str(file))


def test_what_is_given_goes_before_the_file_and_is_checked(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(VALID)
    scenario = load_scenario(str(file), {"bag": "synthetic:8x8@10*99", "deadline_ms": "20"})
    assert scenario.drive == "synthetic:8x8@10*99"
    assert scenario.graph == {"source": "shm", "deadline_ms": "20"}
    for wrong, reason in (
        ({"deadline_ms": "-1"}, "parameter deadline_ms: '-1' is not allowed"),
        ({"deadlin": "1"}, "parameter deadlin: is unknown"),
        ({"bag": "nowhere"}, "parameter bag: nowhere does not exist"),
        ({"rate": "2"}, "parameter rate: a drive is played at its own speed"),
    ):
        with pytest.raises(SettingsError, match=reason):
            load_scenario(str(file), wrong)
    with pytest.raises(ScenarioError, match="'nonesuch' is unknown; known are backend_absurd, "):
        load_scenario("nonesuch")
    with pytest.raises(ScenarioError, match="No such file or directory; camera_stop without .yaml"):
        load_scenario("camera_stop.yaml")


def test_the_documentation_holds_the_table(root: Path):
    table = runpy.run_path(str(root / "docs/scenario_table.py"))["scenario_table"]()
    text = (root / "docs/faults.md").read_text(encoding="utf-8")
    assert table in text, "put the output of docs/scenario_table.py into docs/faults.md"


SUITE = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))


def test_the_suite_is_whole():
    assert {file.stem for file in SUITE} == set(
        "nominal_day night rain sun_glare lens_blocked camera_unplugged network_cut network_loss "
        "network_reordering unit_reboot thermal_throttle wrong_calibration two_cameras".split()
    )


@pytest.mark.parametrize("file", SUITE, ids=lambda file: file.stem)
def test_the_suite_fits_the_graph(file: Path):
    scenario = load_scenario(str(file))
    assert scenario.duration_s >= last_s(scenario) + 2.5
