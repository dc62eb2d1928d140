"""The safe-stop request as a vehicle sees it, beside records as detectors send them."""

import subprocess
import time

import pytest
import rclpy
from observe import until
from recorder import EVERY_STATE
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.core.records import Heartbeat, WatchdogGone
from perception_nodes.nodes.base import LATCHED
from perception_nodes.nodes.watchdog_node import WatchdogNode
from perception_nodes.transport.channels import NumberedRecords
from perception_nodes.transport.journal import journals
from perception_nodes.transport.shm import Endpoint
from perception_nodes.watchdog.account import Account

pytestmark = [pytest.mark.ros]
TOPIC = "/perception/safe_stop"


class Vehicle:
    """Listens, calls the service, and plays the other nodes of the graph."""

    def __init__(self):
        self.node = rclpy.create_node("vehicle")
        self.stops: list[bool] = []
        self.node.create_subscription(Bool, TOPIC, lambda m: self.stops.append(m.data), EVERY_STATE)
        self.substitute = self.node.create_publisher(Bool, TOPIC, LATCHED)
        self.client = self.node.create_client(Trigger, f"{TOPIC}/release")
        self.watchdog = WatchdogNode("watchdog_node")
        self.executor = rclpy.executors.SingleThreadedExecutor()
        for node in (self.node, self.watchdog):
            self.executor.add_node(node)
        self.watchdog.trigger_configure()
        self.watchdog.trigger_activate()
        self.endpoint = Endpoint("others")
        self.senders = [
            NumberedRecords(self.endpoint, "front", role, 10**10)
            for role in ("detector", "preprocess")
        ]
        # Records are known by the process of their sender, and each role is one of its own, with
        # files of the graph open.
        (journal,) = journals("front", "detector").values()
        with journal.open("rb") as ours:
            self.detector = subprocess.Popen(["sleep", "100"], stdin=ours)
        self.senders[0]._process = self.detector.pid
        self.sequence = 0

    @property
    def stop(self) -> bool | None:
        return self.stops[-1] if self.stops else None

    def frame(self):
        now_ns = time.monotonic_ns()
        stamps = {"ingested_ns": now_ns, "capture_ns": now_ns}
        frame = {"sequence": self.sequence, "incarnation": 1, **stamps}
        self.senders[1].send(FrameRecord(kind=RecordKind.ENTERED, **frame))
        done = {"preprocessed_ns": now_ns, "published_ns": now_ns, "status": FrameStatus.OK}
        self.senders[0].send(FrameRecord(kind=RecordKind.OUTCOME, **frame, **done))
        self.sequence += 1

    def watchdog_was_gone(self):
        """Say what an active detector says meanwhile."""
        self.substitute.publish(Bool(data=True))
        self.senders[0].send(WatchdogGone(cause=b"it hangs"))

    def until(self, condition, frames):
        def work():
            for sender in self.senders:
                sender.send(Heartbeat())
            if frames and self.account.ledger.frames_in == self.sequence:
                self.frame()
            self.watchdog.step()
            for _ in range(4):
                self.executor.spin_once(timeout_sec=0)

        until(condition, 20, meanwhile=work)

    @property
    def account(self) -> Account:
        return self.watchdog._topics[0].account

    def release(self, frames):
        answer = self.client.call_async(Trigger.Request())
        self.until(answer.done, frames)
        return answer.result()

    def close(self):
        self.detector.kill()
        self.detector.wait()
        self.endpoint.close()
        self.watchdog.trigger_shutdown()
        for node in (self.node, self.watchdog):
            self.executor.remove_node(node)
            node.destroy_node()


@pytest.fixture
def vehicle(domain, request):
    given = [f"safe_stop_clears:={request.param}", "standby:=never", "no_frame_ms:=200.0"]
    rclpy.init(args=["--ros-args", *(text for each in given for text in ("-p", each))])
    started = Vehicle()
    yield started
    started.close()
    rclpy.shutdown()


@pytest.mark.parametrize("vehicle", ["with_health"], indirect=True)
def test_a_request_ends_with_its_cause(vehicle):
    vehicle.until(lambda: vehicle.stop is True, frames=False)
    vehicle.until(lambda: vehicle.stop is False, frames=True)
    said = len(vehicle.stops)
    vehicle.substitute.publish(Bool(data=True))  # as a detector does while the watchdog hangs
    vehicle.until(lambda: True in vehicle.stops[said:], frames=True)
    vehicle.until(lambda: vehicle.stop is False, frames=True)
    vehicle.until(lambda: vehicle.stop is True, frames=False)
    assert not vehicle.client.service_is_ready()


@pytest.mark.parametrize("vehicle", ["by_service"], indirect=True)
def test_a_request_that_clears_by_service_stays_until_then(vehicle):
    vehicle.until(lambda: vehicle.stop is True and vehicle.client.service_is_ready(), frames=False)
    refused = vehicle.release(frames=False)
    assert not refused.success
    assert refused.message.startswith("front: ")
    for was_gone in (False, True):
        if was_gone:
            vehicle.watchdog_was_gone()
            vehicle.until(lambda: vehicle.account.unsafe, frames=True)
            assert vehicle.account.health.cause == "the watchdog was gone: it hangs"
        vehicle.until(lambda: not vehicle.account.unsafe, frames=True)
        assert vehicle.stop is True
        assert vehicle.release(frames=True).success
        vehicle.until(lambda: vehicle.stop is False, frames=True)
    vehicle.until(lambda: vehicle.stop is True, frames=False)
