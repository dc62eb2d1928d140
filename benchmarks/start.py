"""From `perception run` to the first detections: seconds, and seconds of processors.

    .venv/bin/python benchmarks/start.py --rounds 5 . ../another_checkout

The camera runs already, and sends 720p frames through shared memory. Checkouts take turns.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from perception_nodes.cameras.channel import camera_writer
from perception_nodes.transport import channels
from perception_nodes.transport.shm import Endpoint

WIDTH, HEIGHT, PERIOD_S = 1280, 720, 1 / 30
TIMEOUT_S = 60.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Camera:
    """Sends black frames until it is closed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._stop = threading.Event()
        self._channel = camera_writer(endpoint, "front", 3 * WIDTH * HEIGHT)
        self._thread = threading.Thread(target=self._film)
        self._thread.start()

    def _film(self) -> None:
        size, number = 3 * WIDTH * HEIGHT, 0
        while not self._stop.wait(PERIOD_S):
            frame = self._channel.loan(size)
            frame.header.number, stamp_ns = number, time.time_ns()
            frame.header.describe(stamp_ns, "bgr8", WIDTH, HEIGHT, 3 * WIDTH, size, "front")
            self._channel.send(frame)
            number += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def processor_s(pid: int) -> float:
    """What a process and those that it has started have used; without those that only spin."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        spins = (
            os.sched_getscheduler(pid) == os.SCHED_IDLE
            and b"while" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0.0
    own_s = 0.0 if spins else (int(fields[11]) + int(fields[12])) * TICK_S
    return own_s + sum(processor_s(int(child)) for child in children)


def start(checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds until the first detections, and seconds of processors until then."""
    endpoint = Endpoint("start")
    camera = Camera(endpoint)
    detections = channels.detection_reader(endpoint, "front")
    began_s = time.monotonic()
    graph = subprocess.Popen(
        [sys.executable, "-m", "perception_nodes", "run", "source:=shm", *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not list(detections.records()):
            if graph.poll() is not None or time.monotonic() - began_s > TIMEOUT_S:
                raise SystemExit(f"{checkout}: no detections came")
            detections.wait(5)
        return time.monotonic() - began_s, processor_s(graph.pid)
    finally:
        if graph.poll() is None:
            graph.send_signal(signal.SIGINT)
        graph.wait()
        camera.close()
        endpoint.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME:=VALUE")
    options = parser.parse_args()
    found: dict[Path, list[tuple[float, float]]] = {path: [] for path in options.checkouts}
    for number in range(1, options.rounds + 1):
        for path, samples in found.items():
            samples.append(start(path.resolve(), options.set))
            print(f"round {number}, {path}: {samples[-1][0]:.2f} s, CPU {samples[-1][1]:.2f} s")
    for path, samples in found.items():
        walls, processors = (statistics.median(values) for values in zip(*samples, strict=True))
        print(f"{path}: median {walls:.2f} s to the first detections, CPU {processors:.2f} s")


if __name__ == "__main__":
    main()
