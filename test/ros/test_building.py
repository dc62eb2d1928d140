"""A graph whose engine is not built yet: the CPU serves until it is, with slots from the CPU and
with frames that are read where the camera left them."""

import os
import signal
import time

import pytest
import stub_gpu
from kills import with_graph

from perception_nodes.core.frame import FrameStatus

pytestmark = [pytest.mark.ros]


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """What a build waits for until somebody opens it for writing."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    waiting = f"how['on_build'] = lambda: open({str(gate)!r}).read()"
    stub_gpu.install(tmp_path, monkeypatch, f"{stub_gpu.EMPTY_ROAD}\n{waiting}")
    return gate


@pytest.mark.parametrize("preprocess_on", ["cpu", "gpu"])
def test_the_cpu_serves_until_both_of_a_pair_work_on_the_engine_and_the_device_may_fail(
    gate, tmp_path, preprocess_on
):
    def scenario(rig):
        rig.listen()
        why = "litert stands in while tensorrt is being built"
        rig.wait_until(lambda: any(why in health.cause for _, health in rig.healths))
        assert rig.next_detections().status == FrameStatus.DEGRADED
        rig.wait_until(lambda: rig.methods[-1:] == ["open-xs int8 (litert)"])
        rig.wait_for_standby("detector")
        with open(gate, "w"):
            pass
        rig.wait_until(lambda: rig.cause == "detections arrive in time")
        # Of a frame to come: what was detected meanwhile is still waiting to be read.
        assert rig.next_detections(time.monotonic_ns()).status == FrameStatus.OK
        rig.wait_until(lambda: rig.methods[-1:] == ["open-xs int8 (tensorrt)"])
        # The other one of the pair is seen by letting it work.
        os.kill(rig.leases["detector"].note.process, signal.SIGKILL)
        rig.wait_until(lambda: rig.next_detections().status == FrameStatus.OK)

        rig.wait_for_standby("detector")
        victim, standby = rig.members("detector")
        (tmp_path / "fails").touch()
        rig.wait_until(lambda: rig.leases["detector"].note.process == standby)
        assert rig.next_detections(time.monotonic_ns()).status == FrameStatus.OK
        rig.wait_until(lambda: victim not in rig.members("detector"))
        # Whichever is first: its end, or the patience of the standby.
        reason = rig.takeover("detector").reason
        assert b"died" in reason or b"hung and was killed" in reason

    on_gpu = {"backend": "tensorrt", "model": "open-xs", "preprocess_on": preprocess_on}
    with_graph(scenario, standby="always", **on_gpu)
