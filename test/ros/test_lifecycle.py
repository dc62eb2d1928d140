"""The nodes as ROS tools see them: life cycle and parameters."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters

from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.nodes import monitor_node
from perception_nodes.nodes.monitor_node import MonitorNode
from perception_nodes.report.recording import Recorder

NAMES = [kind.executable for kind in LIVE.kinds]
pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


@pytest.fixture
def client(domain: int) -> Iterator[Any]:
    """A node of the test's own."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("test_client", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def call(node: Any, service_type: Any, name: str, request: Any) -> Any:
    """Call a service and wait for the answer."""
    service = node.create_client(service_type, name)
    assert service.wait_for_service(timeout_sec=30), f"no service {name}"
    future = service.call_async(request)
    executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    executor.spin_until_future_complete(future, timeout_sec=30)
    executor.remove_node(node)
    assert future.done()
    return future.result()


def state_of(node: Any, name: str) -> int:
    """A node's life-cycle state."""
    state: int = call(node, GetState, f"/{name}/get_state", GetState.Request()).current_state.id
    return state


def test_nodes_activate_themselves_and_go_through_the_whole_life_cycle(client: Any) -> None:
    with Supervisor(LIVE.nodes({"backend": "null"})):
        for name in NAMES:
            while state_of(client, name) != State.PRIMARY_STATE_ACTIVE:
                pass
            for transition, expected in [
                (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
                (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
                (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
                (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
            ]:
                request = ChangeState.Request(transition=Transition(id=transition))
                assert call(client, ChangeState, f"/{name}/change_state", request).success
                assert state_of(client, name) == expected


def test_parameters_describe_themselves_and_cannot_be_changed_under_way(client: Any) -> None:
    specs = [s for s in LIVE.nodes({}) if s.executable == "preprocess_node"]
    with Supervisor(specs):
        request = DescribeParameters.Request(names=["deadline_ms"])
        answer = call(client, DescribeParameters, "/preprocess_node/describe_parameters", request)
        (descriptor,) = answer.descriptors
        assert "deadline of a frame" in descriptor.description
        assert descriptor.floating_point_range[0].from_value == 0.1
        parameter = rclpy.parameter.Parameter("deadline_ms", value=20.0).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        answer = call(client, SetParameters, "/preprocess_node/set_parameters", request)
        assert not answer.results[0].successful


def test_every_node_is_an_executable_of_its_own() -> None:
    for executable in NAMES:
        module = f"perception_nodes.nodes.{executable}"
        code = f"import {module} as node; assert callable(node.main)"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_monitor_completes_its_recording_though_others_go_on_speaking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Spoken(MonitorNode):
        def __init__(self) -> None:
            self._view = None
            self._recorder = Recorder(tmp_path / "recording.mcap")

        def spin(self, timeout_ms: float) -> None:
            self._taken += 1

    seconds = itertools.count()
    monkeypatch.setattr(monitor_node.time, "monotonic", lambda: float(next(seconds)))
    Spoken().close()
    assert (tmp_path / "recording.mcap").is_file()
