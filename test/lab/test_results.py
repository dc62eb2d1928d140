"""Whatever ends a run of scenarios, what is known by then is in its files."""

import json
import signal
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab import hil, results
from perception_nodes.lab.judge import ScenarioVerdict

FILES = ("a", "b", "c")


def signalled(number):
    def end(scenario):
        signal.raise_signal(number)
        raise AssertionError("it goes on")

    return end


def passed(scenario):
    return ScenarioVerdict(scenario=scenario.name, title=scenario.title)


def failed(scenario):
    return passed(scenario).model_copy(update={"problems": ["not run: no unit"]})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs three scenarios of which the second one comes out as asked for; status and files."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in FILES:
        (folder / f"{name}.yaml").write_text("title: t\nexpect: {lost: nothing}\n")

    def run_all(second, *arguments):
        out = tmp_path / "out"
        monkeypatch.setattr(
            hil,
            "run_scenario",
            lambda scenario, out, unit: (second if scenario.name == "b" else passed)(scenario),
        )
        junit = str(tmp_path / "junit.xml")
        command = ["hil", "run", str(folder), "--out", str(out), "--junit", junit, *arguments]
        result = CliRunner().invoke(app, command)
        content = json.loads((out / "verdicts.json").read_text())
        page = (out / "report.html").read_text()
        return result, content, page, ElementTree.parse(junit).getroot()

    return run_all


def test_all_is_well(run):
    result, content, page, junit = run(passed)
    assert result.exit_code == 0
    assert (content["passed"], content["failed"], content["not_begun"]) == (3, 0, [])
    assert "3 of 3 scenarios are as expected" in page
    assert (junit.get("tests"), junit.get("failures"), junit.get("skipped")) == ("3", "0", "0")


def test_one_that_could_not_be_run_has_failed_and_the_others_go_on(run):
    result, content, page, junit = run(failed)
    assert result.exit_code == 1
    assert [verdict["passed"] for verdict in content["verdicts"]] == [True, False, True]
    assert "not run: no unit" in page
    assert junit[1].find("failure").get("message") == "not run: no unit"


def test_nothing_of_an_earlier_run_lies_beside_a_verdict(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "in" / "b.yaml").write_text(
        "title: t\ncameras: 2\ngraph: {source: shm}\nexpect: {lost: nothing}\n"
    )
    for name in ("b.mcap", "b.log", "b.unit.log", "b_second.mcap", "a_second.mcap", "b.txt"):
        (out / name).touch()
    run(failed)
    assert sorted(path.name for path in out.iterdir()) == [
        "a_second.mcap",  # not of a scenario with one camera
        "b.txt",
        "report.html",
        "verdicts.json",
    ]


def test_an_interrupted_run_keeps_its_verdicts(run):
    result, content, page, junit = run(signalled(signal.SIGINT))
    assert result.exit_code == 130
    problems = {v["scenario"]: v["problems"] for v in content["verdicts"]}
    assert problems == {"a": [], "b": ["interrupted before it was over"]}
    assert content["not_begun"] == ["c"]
    assert "1 of 3 scenarios are as expected; not begun: c" in page
    assert (junit.get("tests"), junit.get("failures"), junit.get("skipped")) == ("3", "1", "1")


def test_a_signal_while_a_file_is_written_waits_for_it(run, monkeypatch):
    def render(*arguments):
        signal.raise_signal(signal.SIGINT)
        return "the whole page"

    monkeypatch.setattr(results, "scenarios_page", render)
    result, content, page, _ = run(passed)
    assert page == "the whole page"
    assert content["passed"] == 3
    assert result.exit_code == 130


def test_a_disk_that_is_too_full_is_known_before_anything_runs(run, tmp_path, monkeypatch):
    monkeypatch.setattr(results.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    monkeypatch.setattr(hil, "run_scenario", lambda *_: pytest.fail("it was run"))
    out = str(tmp_path / "full")
    result = CliRunner().invoke(app, ["hil", "run", str(tmp_path / "in"), "--out", out])
    assert isinstance(result.exception, SettingsError)
    assert "full has only 1.0 MB free, and 17 are needed; make room" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonesuch"], "scenario 'nonesuch' is unknown"),
        (["cdr_length", "cdr_length"], "two scenarios are named cdr_length"),
        (["cdr_length", "--unit", ":1"], "':1' is not of the form HOST:PORT"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path, arguments, reason):
    result = CliRunner().invoke(app, ["hil", "run", *arguments, "--out", str(tmp_path)])
    assert reason in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_what_a_unit_cannot_run_has_failed(tmp_path):
    remote = ("--unit", "127.0.0.1:1", "--out", str(tmp_path))
    result = CliRunner().invoke(app, ["hil", "run", "camera_drop", *remote])
    assert result.exit_code == 1
    assert "not run: its camera is in the unit's own memory" in result.output
