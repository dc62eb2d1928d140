"""How the results of an acceptance reach their folder, and what is refused before it."""

import pytest

from perception_nodes.core.errors import PerceptionError
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab.acceptance import Acceptance, _deliver


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    (folder / "failover").mkdir(parents=True)
    for name in ("verdict.json", "drive.mcap", "failover/report.html"):
        (folder / name).write_text("new")
    return folder


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_results_take_the_place_of_earlier_ones(tmp_path, results):
    out = tmp_path / "out"
    for _ in range(2):
        _deliver(results, out)
        assert content(out) == content(results)


def test_an_earlier_verdict_is_not_left_beside_another_recording(tmp_path, results):
    (tmp_path / "verdict.json").write_text("fit")
    (tmp_path / "drive.mcap").mkdir()  # where the recording cannot go
    with pytest.raises(SettingsError, match="results cannot be written"):
        _deliver(results, tmp_path)
    assert not (tmp_path / "verdict.json").exists()


def test_a_key_that_cannot_be_read_is_known_before_anything_runs():
    with pytest.raises(PerceptionError, match="/nowhere"):
        Acceptance({"model_key": "/nowhere"}, NO_ROS_ARGUMENTS, 0.1, print)
