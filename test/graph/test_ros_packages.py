"""What ROS lacks is named once, before anything starts."""

import importlib.util

import pytest

from perception_nodes.core.errors import PerceptionError
from perception_nodes.graph.findings import examine
from perception_nodes.graph.ros_packages import REMEDIES
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import Supervisor


@pytest.mark.parametrize("missing", REMEDIES)
def test_a_graph_without_it_does_not_start(missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with (
        pytest.raises(SettingsError, match=f"package {missing} is not installed; "),
        Supervisor([]),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RMW_IMPLEMENTATION", "rmw_none_cpp", "=rmw_none_cpp is not installed; .*or unset"),
        ("ROS_DOMAIN_ID", "500", "=500 is not allowed; set it to a whole number from 0 to 232"),
    ],
)
def test_neither_does_one_whose_nodes_would_end_at_once(name, value, said, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(PerceptionError, match=said), Supervisor([]):
        pass
    found = {finding.subject: finding for finding in examine() if not finding.ok}
    assert found["ROS middleware" if "RMW" in name else "ROS domain"].needed
