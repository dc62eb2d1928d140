"""Parameters and states that others change while the graph runs: shown and kept, or refused."""

import pytest
from beside import beside
from lifecycle_msgs.msg import Transition
from perception_interfaces.msg import Health
from rcl_interfaces.srv import GetParameters
from recorder import Recorder
from test_lifecycle import change, set_parameter

from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.supervisor import Supervisor

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
VALUES = {"backend": "null", "source": "shm"}


def test_a_change_is_shown_and_survives_all_who_knew_it(recorder: Recorder) -> None:
    recorder.subscribe("perception/health", Health)
    healths = recorder.got["perception/health"]

    def until_it_has(name: str, value: float) -> None:
        """Ask again and again: who asks a dead node gets no answer."""
        asking = recorder.node.create_client(GetParameters, f"/{name}/get_parameters")
        answers: list[float] = []

        def told() -> bool:
            asked = asking.call_async(GetParameters.Request(names=["score_threshold"]))
            asked.add_done_callback(lambda d: answers.append(d.result().values[0].double_value))
            return value in answers

        recorder.until(told)

    def act(graph: Supervisor) -> None:
        recorder.until(lambda: healths)
        first = healths[-1]
        assert first.configuration_hash and not first.changed_parameters
        assert set_parameter(recorder, "detector_node", "score_threshold", 0.75).successful
        recorder.until(lambda: healths[-1].changed_parameters == ["score_threshold:=0.75"])
        assert healths[-1].configuration_hash not in (0, first.configuration_hash)
        until_it_has("detector_standby_node", 0.75)
        before = {
            spec.name: process for spec, process in graph.processes if "detector" in spec.name
        }
        for process in before.values():
            process.kill()
        recorder.until(lambda: all(p is not before.get(s.name) for s, p in graph.processes))
        until_it_has("detector_node", 0.75)

    beside(LIVE.nodes({**VALUES, "standby": "always"}), act)


def test_changes_are_refused(recorder: Recorder) -> None:
    def act(graph: Supervisor) -> None:
        result = set_parameter(recorder, "detector_node", "score_threshold", 0.99)
        assert not result.successful
        assert "score_threshold:=0.99: remote_changes:=refuse" in result.reason
        for kind in LIVE.kinds:
            assert not change(recorder, kind.executable, Transition.TRANSITION_DEACTIVATE)
            assert not change(recorder, kind.executable, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert all(process.poll() is None for _, process in graph.processes)

    beside(LIVE.nodes({**VALUES, "standby": "never", "remote_changes": "refuse"}), act)
