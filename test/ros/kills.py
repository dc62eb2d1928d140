"""Kills or stops nodes of a running graph again and again: how long until detections resume?

    .venv/bin/python test/ros/kills.py --kills 200 --role detector --signal KILL

Prints the gaps, and what the graph holds before and after: nothing may grow.
"""

import argparse
import os
import signal
import statistics
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from unittest.mock import patch

import numpy as np
from beside import beside
from filming import send_frame, topic_camera
from perception_interfaces.msg import FrameReport, Health
from rclpy.qos import DurabilityPolicy, QoSProfile
from recorder import Recorder
from std_msgs.msg import Bool
from vision_msgs.msg import VisionInfo

from perception_nodes.cameras.channel import camera_writer
from perception_nodes.core import failover
from perception_nodes.core.records import Takeover, as_sent
from perception_nodes.graph.graph import LIVE
from perception_nodes.system.processes import Process, open_process
from perception_nodes.transport import channels
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.journal import Signs, journals
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.memory import SHM_FOLDER
from perception_nodes.transport.shm import Endpoint

PERIOD_S = 0.02
TIMEOUT_S = 300.0
SIZE = (48, 64)
"""Frames so small that those for a dead subscriber leave room for others in Fast DDS's memory."""
CHOICES = {
    "role": ("detector", "preprocess"),
    "signal": ("KILL", "STOP"),
    "standby": ("always", "never"),
    "source": ("shm", "dds"),
}
"""Options of the command, with the default first."""


class Rig:
    """A live graph with a camera of its own at 50 Hz, and a reader of its detections."""

    def __init__(self, supervisor, source):
        self.supervisor = supervisor
        self._source = source
        self.endpoint = Endpoint("kills")
        self.leases = {role: Lease("front", role) for role in ("detector", "preprocess")}
        self._detections = channels.detection_reader(self.endpoint, "front")
        self._records = {
            role: channels.record_reader(self.endpoint, "front", role) for role in self.leases
        }
        self._takeovers: dict[str, list[Takeover]] = {role: [] for role in self.leases}
        self.sent_ns: list[int] = []
        self._stop = threading.Event()
        self._recorder: Recorder | None = None
        self._camera = threading.Thread(target=self._film)
        self._camera.start()

    def close(self):
        self._stop.set()
        self._camera.join()
        for lease in self.leases.values():
            lease.close()
        self.endpoint.close()
        if self._recorder is not None:
            self._recorder.close()

    def _film(self):
        random = np.random.default_rng(0)
        with topic_camera() if self._source == "dds" else self._shared_camera() as send:
            while not self._stop.wait(PERIOD_S):
                self.sent_ns.append(send(random.integers(0, 256, (*SIZE, 3), np.uint8)))

    @contextmanager
    def _shared_camera(self):
        writer = camera_writer(self.endpoint, "front", 3 * SIZE[0] * SIZE[1])
        yield lambda pixels: send_frame(writer, len(self.sent_ns), pixels, "camera")

    def next_detections(self, after_ns=0):
        """The next detections of a frame captured after an instant."""
        give_up_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < give_up_s:
            self._detections.wait(100.0)
            for record in self._detections.records():
                if record.capture_ns > after_ns:
                    return record
        raise TimeoutError("no detections")

    def members(self, role):
        """Processes of a role; the one that works first."""
        pids = [p.pid for s, p in self.supervisor.processes if s.executable == f"{role}_node"]
        holder = self.leases[role].note.process
        return sorted(pids, key=lambda pid: pid != holder)

    def wait_for_standby(self, role):
        """Until a process of a role that does not work gives a sign of life."""
        give_up_s = time.monotonic() + TIMEOUT_S
        records = self._records[role]
        signs: dict[int, Signs] = {}
        while time.monotonic() < give_up_s:
            records.wait(100.0)
            holder, *others = self.members(role)
            self._hear(role)
            for sender, path in journals("front", role).items():
                with suppress(OSError, ValueError):  # just removed, or not complete yet
                    if sender not in signs:
                        signs[sender] = Signs(path)
                        signs[sender].new()  # what was before tells nothing of now
            if any(one.process in others and one.new() for one in signs.values()):
                return
        raise TimeoutError(f"no standby of {role}")

    def takeover(self, role):
        """The last takeover of a role."""
        self._hear(role)
        return self._takeovers[role][-1]

    def _hear(self, role):
        heard = map(as_sent, self._records[role].records())
        self._takeovers[role] += [record for record in heard if isinstance(record, Takeover)]

    def listen(self):
        """Keep what is published from now on, some of it with the time of its arrival.

        `healths` and `requests` to stop have it, `methods` of detection and `reports` do not.
        """
        self.healths: list[tuple[float, Health]] = []
        self.requests: list[tuple[float, bool]] = []
        self.methods: list[str] = []
        self.reports: list[FrameReport] = []
        self._recorder = Recorder()
        self.node = self._recorder.node
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        now_s = time.monotonic
        for kind, topic, keep, qos in (
            (Bool, "safe_stop", lambda m: self.requests.append((now_s(), m.data)), latched),
            (Health, "health", lambda m: self.healths.append((now_s(), m)), latched),
            (VisionInfo, "vision_info", lambda m: self.methods.append(m.method), latched),
            (FrameReport, "frame_report", self.reports.append, 1000),
        ):
            self.node.create_subscription(kind, f"/perception/{topic}", keep, qos)

    @property
    def asks_to_stop(self) -> bool | None:
        """The last request to stop; None before the first one."""
        return self.requests[-1][1] if self.requests else None

    @property
    def cause(self) -> str:
        """The cause of the last health."""
        return self.healths[-1][1].cause if self.healths else ""

    @property
    def watchdog(self) -> int:
        """The watchdog's process."""
        return next(p.pid for s, p in self.supervisor.processes if s.name == "watchdog_node")

    def wait_until(self, condition, look_s=0.1):
        """Take what is said until it is so; it is looked at this often at least."""
        self._recorder.until(condition, look_s=look_s)

    def holds(self):
        """What must not grow: files in shared memory, and descriptors and memory of survivors."""
        files = len(list(SHM_FOLDER.glob(f"{own_prefix()}*")))
        descriptors, megabytes = held(self.watchdog)
        ours, _ = held(os.getpid())
        return {
            "files": files,
            "watchdog_descriptors": descriptors,
            "watchdog_mb": megabytes,
            "our_descriptors": ours,
        }

    def strike(self, role, number):
        """Signal the process that works; milliseconds until detections of a later frame are out."""
        victim = self.leases[role].note.process
        struck_ns = time.monotonic_ns()
        os.kill(victim, number)
        self.next_detections(after_ns=time.monotonic_ns())  # it may have worked until here
        return (time.monotonic_ns() - struck_ns) / 1e6


def held(pid):
    """Descriptors and resident megabytes of a process."""
    process: Process | None = open_process(pid)
    assert process is not None
    process.close()
    return len(os.listdir(f"/proc/{pid}/fd")), process.rss_bytes() // 1_000_000


def with_graph(scenario, **values):
    """Run a scenario beside a graph that detects; the graph is waited for in this thread."""
    values = {"backend": "null", "source": "shm", "deadline_ms": 900.0, **values}

    def act(supervisor):
        with closing(Rig(supervisor, str(values["source"]))) as rig:
            rig.next_detections()
            scenario(rig)

    with patch.object(failover, "DELAY_S", 0.0):
        beside(LIVE.nodes(values), act)


def main():
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--kills", type=int, default=200)
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    parser.add_argument("--backend", default="null")
    arguments = parser.parse_args()
    gaps_ms: list[float] = []
    number = getattr(signal, f"SIG{arguments.signal}")

    def scenario(rig):
        for index in range(arguments.kills + 1):
            if arguments.standby == "always":
                rig.wait_for_standby(arguments.role)
            rig.next_detections(after_ns=time.monotonic_ns())
            if index in (min(10, arguments.kills), arguments.kills):
                print(f"after {index}: {rig.holds()}")
            if index < arguments.kills:
                gaps_ms.append(rig.strike(arguments.role, number))

    chosen = {name: getattr(arguments, name) for name in ("standby", "source", "backend")}
    with_graph(scenario, **chosen)
    gaps_ms.sort()
    print(
        f"detections resume after: median {statistics.median(gaps_ms):.0f} ms, "
        f"p90 {gaps_ms[int(0.9 * len(gaps_ms))]:.0f}, worst {gaps_ms[-1]:.0f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
