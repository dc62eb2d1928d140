"""A ROS package that is missing is named before anything starts."""

import importlib.util

import pytest

from perception_nodes.graph.ros_packages import REMEDIES
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import Supervisor


@pytest.mark.parametrize("missing", REMEDIES)
def test_a_graph_without_it_does_not_start(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with (
        pytest.raises(SettingsError, match=f"package {missing} is not installed; "),
        Supervisor([]),
    ):
        pass
