"""The nodes as ROS tools see them: life cycle and parameters."""

import itertools
import os
import subprocess
import sys
import time
from contextlib import closing
from unittest.mock import Mock

import numpy as np
import pytest
import rclpy
from beside import beside
from filming import send_frame
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from observe import free_port, until
from perception_interfaces.msg import Health
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from recorder import EVERY_STATE
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Bool

from perception_nodes.cameras.channel import camera_reader, camera_writer
from perception_nodes.core.frame import Detections, FrameRecord, RecordKind
from perception_nodes.core.records import InputState, WatchdogGone, as_sent
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.networks.model import load_model
from perception_nodes.nodes import monitor_node, view_node
from perception_nodes.nodes.detector_node import DetectorNode
from perception_nodes.nodes.graph_health import GraphHealth
from perception_nodes.nodes.monitor_node import MonitorNode
from perception_nodes.nodes.preprocess_node import PreprocessNode
from perception_nodes.nodes.view_node import ViewNode
from perception_nodes.nodes.watchdog_substitute import VOICE
from perception_nodes.system.life import own_incarnation
from perception_nodes.transport.channels import record_reader, slot_writer
from perception_nodes.transport.journal import journal_of, read_journal
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.memory import TransportError
from perception_nodes.transport.shm import Endpoint

PIXELS = np.zeros((2, 2, 3), np.uint8)
NAMES = [kind.executable for kind in LIVE.kinds]
pytestmark = [pytest.mark.ros]


def state_of(client, name):
    """A node's life-cycle state."""
    return int(client.call(GetState, f"/{name}/get_state", GetState.Request()).current_state.id)


def change(client, name, transition):
    """Ask a node for a transition; whether it made it."""
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(client.call(ChangeState, f"/{name}/change_state", request).success)


def set_parameter(client, name, parameter, value):
    message = rclpy.parameter.Parameter(parameter, value=value).to_parameter_msg()
    request = SetParameters.Request(parameters=[message])
    (result,) = client.call(SetParameters, f"/{name}/set_parameters", request).results
    return result


def test_a_manager_leads_the_nodes_through_their_whole_life(recorder):
    client = recorder
    healths = client.hear("perception/health", Health, EVERY_STATE)
    infos = client.node.create_publisher(CameraInfo, "camera_info", 1)
    values = {"backend": "null", "autostart": False, "image_topic": "image"}
    with Supervisor(LIVE.nodes({**values, "standby": "never"})) as graph:
        for name in NAMES:
            assert state_of(client, name) == State.PRIMARY_STATE_UNCONFIGURED
            assert change(client, name, Transition.TRANSITION_CONFIGURE)
            assert change(client, name, Transition.TRANSITION_ACTIVATE)
        client.until(lambda: infos.get_subscription_count() == 1)
        for name in reversed(NAMES):
            for transition, expected in [
                (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
                (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
                (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
                (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
            ]:
                assert change(client, name, transition)
                assert state_of(client, name) == expected
        assert change(client, "watchdog_node", Transition.TRANSITION_DEACTIVATE)
        client.until(lambda: any(h.cause.startswith("the watchdog is gone") for h in healths))
        assert healths[-1].mode == Health.UNSAFE
        assert all(process.poll() is None for _, process in graph.processes)
        assert set_parameter(client, "detector_node", "score_threshold", 0.5).successful
        assert not set_parameter(client, "detector_node", "score_threshold", 7.0).successful
        assert not set_parameter(client, "preprocess_node", "deadline_ms", 20.0).successful
        assert set_parameter(client, "watchdog_node", "use_sim_time", False).successful
        refused = set_parameter(client, "watchdog_node", "use_sim_time", True)
        assert "start the graph with use_sim_time:=True" in refused.reason
        request = DescribeParameters.Request(names=["deadline_ms"])
        answer = client.call(DescribeParameters, "/preprocess_node/describe_parameters", request)
        (descriptor,) = answer.descriptors
        assert "deadline of a frame" in descriptor.description
        assert descriptor.floating_point_range[0].from_value == 0.1
        assert change(client, "watchdog_node", Transition.TRANSITION_INACTIVE_SHUTDOWN)
        for name in NAMES[1:]:
            assert change(client, name, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        for _, process in graph.processes:
            assert process.wait(30) == 0
        assert graph.wait() is True


def test_restarted_nodes_return_to_the_state_that_was_last_commanded(recorder):
    client = recorder
    healths = client.hear("perception/health", Health, EVERY_STATE)
    stops = client.hear("perception/safe_stop", Bool, EVERY_STATE)
    values = {"backend": "null", "autostart": False, "source": "shm", "standby": "never"}

    def kill(graph, name):
        """Kill a node, and wait until there is another one."""
        process = next(p for spec, p in graph.processes if spec.name == name)
        process.kill()
        client.until(lambda: any(s.name == name and p is not process for s, p in graph.processes))

    def until_in_state(name, state):
        asked = f"/{name}/get_state", GetState.Request()
        client.until_told(GetState, *asked, lambda answer: answer.current_state.id == state)

    def act(graph):
        client.until(lambda: healths and stops)
        assert healths[0].mode == Health.UNSAFE
        assert healths[0].cause == "the watchdog is not active"
        assert stops[0].data
        for name in NAMES:
            assert change(client, name, Transition.TRANSITION_CONFIGURE)
            assert change(client, name, Transition.TRANSITION_ACTIVATE)
        with closing(Endpoint("test")) as endpoint:
            camera = camera_writer(endpoint, "front", PIXELS.nbytes)
            numbers = itertools.count()

            def entered():
                send_frame(camera, next(numbers), PIXELS)
                return bool(healths[-1].frames_in)

            client.until(entered)
        kill(graph, "detector_node")
        until_in_state("detector_node", State.PRIMARY_STATE_ACTIVE)
        said = len(healths)
        assert change(client, "watchdog_node", Transition.TRANSITION_DEACTIVATE)
        client.until(lambda: any("the watchdog is gone" in h.cause for h in healths[said:]))
        assert not any("hangs" in h.cause for h in healths[said:])
        assert all(health.frames_in for health in healths[said:])
        kill(graph, "watchdog_node")
        until_in_state("watchdog_node", State.PRIMARY_STATE_INACTIVE)

    beside(LIVE.nodes(values), act)


def in_this_process(node_type, *parameters):
    """A node that is configured and active."""
    given = [text for parameter in parameters for text in ("-p", parameter)]
    rclpy.init(args=["--ros-args", *given])
    node = node_type("test_node")
    node.trigger_configure()
    node.trigger_activate()
    yield node
    node.trigger_shutdown()
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def preprocess(domain, request):
    no_frame_ms = f"no_frame_ms:={float(getattr(request, 'param', 250))}"
    yield from in_this_process(PreprocessNode, "source:=shm", no_frame_ms)


@pytest.fixture
def detector(domain):
    yield from in_this_process(DetectorNode, "backend:=null", "standby:=never")


def entered(records):
    """Which frames have entered; a node that takes over tells the last one again."""
    return sorted({r.sequence for r in records if r.kind == RecordKind.ENTERED})


def test_a_node_that_is_configured_again_counts_on(preprocess, join):
    """Else the watchdog takes its new records for old ones, and its frames for known ones.

    A camera that was restarted meanwhile numbers from 0, and all its frames are new.
    """
    endpoint = join()
    cameras = [camera_writer(endpoint, "front", 12) for _ in range(2)]
    records = record_reader(endpoint, "front", "preprocess")
    journal = journal_of("front", "preprocess", own_incarnation())
    heard: list[FrameRecord] = []

    def film(number, camera=cameras[0]):
        send_frame(camera, number, PIXELS)
        preprocess.step()  # where it is not at work yet, it takes the lease
        preprocess.step()
        heard.extend(records.records())

    film(0)
    preprocess.trigger_deactivate()
    preprocess.trigger_activate()
    film(1)
    assert entered(read_journal(journal)) == [0, 1]
    preprocess.trigger_deactivate()
    preprocess.trigger_cleanup()
    assert not journal.exists()
    preprocess.trigger_configure()
    preprocess.trigger_activate()
    film(0, cameras[1])
    heard += records.records()
    numbers = [record.record for record in heard]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert entered(heard) == [0, 1, 2]


def test_frames_that_a_new_camera_sent_before_we_looked_have_reports(preprocess, join):
    records = record_reader(join(), "front", "preprocess")
    camera = camera_writer(join(), "front", 12)
    for number in range(10):
        send_frame(camera, number, PIXELS)
    until(lambda: preprocess.frame_ns, 30, meanwhile=preprocess.step)
    assert entered(records.records()) == list(range(10))


def test_frames_that_are_not_accounted_for_at_the_end_are_an_error():
    node = Mock()
    graph = GraphHealth(node)
    graph._on_health(Health(frames_in=30, in_flight=1))
    assert [graph.is_done_with(30, patience_s=0.0) for _ in range(2)] == [False, True]
    assert "only 29 of 30 frames" in str(node.get_logger().error.call_args)


def test_a_successor_takes_no_frame_of_an_earlier_camera_for_a_new_one(preprocess, join, closed):
    """The last frames of a camera that is gone wait for a standby that has worked before."""
    endpoint = join()
    records = record_reader(endpoint, "front", "preprocess")
    seen, noted = camera_reader(endpoint, "front"), closed(Lease("front", "preprocess"))

    def film(camera, number):
        send_frame(camera, number, PIXELS)
        preprocess.step()
        taken = seen.receive()
        assert taken is not None
        if noted.held:  # by the one that works meanwhile
            noted.take(taken.source, number)
        taken.release()

    first, second = join("first"), join("second")
    old, new = (camera_writer(each, "front", 12) for each in (first, second))
    preprocess.step()
    film(old, 0)
    assert entered(records.records()) == [0]
    preprocess.trigger_deactivate()
    assert noted.acquire(1 << 40)
    preprocess.trigger_activate()
    for number in range(1, 9):
        film(old, number)
    first.close()
    for number in range(3):
        film(new, number)
    noted.release()
    until(lambda: preprocess.lease.held, 30, meanwhile=preprocess.step)
    for _ in range(10):
        preprocess.step()
    assert entered(records.records()) == []
    film(new, 3)
    assert entered(records.records()) == [1]


@pytest.mark.parametrize("preprocess", [3000], indirect=True)
def test_a_camera_is_missed_only_after_the_time_that_it_may_take(preprocess, join):
    endpoint = join()
    camera = camera_writer(endpoint, "front", 12)
    records = record_reader(endpoint, "front", "preprocess")
    said: list[str] = []

    def look():
        preprocess.step()
        for record in map(as_sent, records.records()):
            if isinstance(record, InputState):
                said.append(record.trouble.decode())

    begun_s = time.monotonic()
    while not said:  # until publishers would be known
        send_frame(camera, 0, PIXELS)
        last_s = time.monotonic()
        look()
    until(lambda: said[-1], 30, meanwhile=look)
    assert time.monotonic() > last_s + 3 > begun_s + 3
    assert "'front' is connected, but sends nothing" in said[-1]


def test_a_deactivated_detector_no_longer_speaks_for_the_watchdog(detector, closed):
    voice = closed(Lease("front", VOICE))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as watchdog:
        lease = closed(Lease("front", "watchdog"))
        lease.acquire(1 << 40)
        lease.note.process = watchdog.pid
        records = record_reader(detector.endpoint, "front", "detector")
        watchdog.kill()
        # Alive it would be a stranger, which has no file of ours open.
        os.waitid(os.P_PID, watchdog.pid, os.WEXITED | os.WNOWAIT)
        until(lambda: voice.is_taken, 30, meanwhile=detector.step)
    heard = map(as_sent, records.records())
    (gone,) = (record for record in heard if isinstance(record, WatchdogGone))
    assert gone.cause.decode() == f"no watchdog is running: watchdog {watchdog.pid} died"
    detector.trigger_deactivate()
    assert not voice.is_taken


def test_what_is_reported_changes_while_the_detector_runs(detector):
    def change(name, value):
        (result,) = detector.set_parameters([rclpy.parameter.Parameter(name, value=value)])
        return result

    assert change("classes", "car, person").successful
    (lane,) = detector._lanes
    names = np.array(load_model("open-n").classes)
    assert set(names[lane.least_scores == 0]) == {"car", "person"}
    found = Detections(np.zeros((3, 4), "f4"), np.ones(3, "f4"), np.array([0, 0, len(names) - 1]))
    assert len(found.above(lane.least_scores)) == sum(lane.least_scores[found.classes] == 0)
    refused = change("classes", "car,unicorn")
    assert refused.reason.startswith("parameter classes: 'unicorn' is no class of open-n")
    assert change("classes", "").successful
    assert lane.least_scores is None
    assert change("class_thresholds", "person:0.6").successful
    person, car = (lane.least_scores[names == name] for name in ("person", "car"))
    assert np.float32(0.6) == person != car
    assert change("enabled", False).successful
    slots = slot_writer(detector.endpoint, "front", 416, 256)
    records = record_reader(detector.endpoint, "front", "detector")
    detector.step()  # it takes the lease
    slot = slots.loan()
    slot.header.ingested_ns = time.monotonic_ns()
    slots.send(slot)
    reasons: list[str] = []
    while not reasons:
        detector.step()
        reasons += [r.reason.decode() for r in records.records() if r.kind == RecordKind.OUTCOME]
    assert reasons == ["detection is switched off: enabled:=false"]


def test_the_monitor_completes_its_recording_though_others_go_on_speaking(
    domain, monkeypatch, tmp_path
):
    class Spoken(MonitorNode):
        def spin(self, timeout_ms):
            self._taken += 1

    monkeypatch.setattr(monitor_node, "LAST_WAITS_S", 0.05)
    recording = tmp_path / "recording.mcap"
    for _ in in_this_process(Spoken, f"recording:={recording}", "live:=false"):
        assert not recording.exists()
    assert recording.is_file()


def test_a_page_without_shared_memory_says_so_and_goes_on(recorder, monkeypatch, capfd):
    recorder.subscribe("perception/annotated/compressed", CompressedImage)
    for page in in_this_process(ViewNode, f"view_port:={free_port()}"):
        monkeypatch.setattr(view_node, "Endpoint", Mock(side_effect=TransportError("no room")))
        executor = SingleThreadedExecutor()
        executor.add_node(page)
        said = ""
        while "no pictures: no room" not in said:
            page.step()
            recorder.spin(0)
            said += capfd.readouterr().err
