"""Kills and stops processes of a running graph at random: is every frame accounted for?

    .venv/bin/python test/ros/chaos.py --seconds 120 --signals KILL STOP --source dds

The camera notes what it sends, a subscriber what it is told, and the two are compared. Exit status
1 if a frame was lost silently.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from perception_nodes.core.frame import PUBLISHED
from perception_nodes.faults.graphs import HIL
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.lab.witness import Observations

VICTIMS = ("watchdog_node", "detector_node", "preprocess_node")
RATE_HZ = 30
QUIET_S = (2.0, 6.0)
"""Before the first blow and after the last one."""


class Chaos:
    """Strikes at random, reproducibly but for the machine's own timing."""

    def __init__(self, seconds: float, signals: Sequence[int], seed: int) -> None:
        self._seconds, self._signals = seconds, signals
        self._random = random.Random(seed)
        self.blows: Counter[str] = Counter()

    def strike(self, graph: Supervisor, started: Path, over: threading.Event) -> None:
        """Strike until the drive is nearly over."""
        while not started.is_file() and not over.wait(0.05):
            pass
        end_s = time.monotonic() + self._seconds - QUIET_S[1]
        over.wait(QUIET_S[0])
        while time.monotonic() < end_s and not over.wait(self._random.uniform(0.3, 3.0)):
            alive = [
                (spec.name, process.pid)
                for spec, process in list(graph.processes)
                if spec.executable in VICTIMS and process.poll() is None
            ]
            name, pid = self._random.choice(alive)
            number = self._random.choice(self._signals)
            self.blows[f"{name} {signal.Signals(number).name}"] += 1
            os.kill(pid, number)


def unaccounted(seen: Observations) -> list[str]:
    """What of the frames sent does not agree with what was told of them."""
    problems = []
    if len(seen.reports) != len(seen.sent):
        problems.append(f"{len(seen.sent)} frames were sent, {len(seen.reports)} were reported")
    unknown = Counter(r.stamp_ns for r in seen.reports if r.stamp_ns) - Counter(seen.sent)
    if unknown:
        problems.append(f"{unknown.total()} reports are of no frame, or of one again")
    published = Counter(r.stamp_ns for r in seen.reports if r.status in PUBLISHED)
    arrived = Counter(stamp_ns for _, stamp_ns in seen.detections)
    if published != arrived:
        missing, unreported = (published - arrived).total(), (arrived - published).total()
        problems.append(f"{missing} detections never came, {unreported} came unreported")
    return problems


def run(
    seconds: int, signals: Sequence[int], seed: int, source: str, folder: Path
) -> tuple[Observations, Chaos]:
    """Run a graph under blows; what was seen of it. The folder keeps what the nodes wrote."""
    chaos, over = Chaos(seconds, signals, seed), threading.Event()
    sent, started, recording = folder / "sent", folder / "started", folder / "seen.mcap"
    specs = HIL.nodes(
        {
            "bag": f"synthetic:1280x720@{RATE_HZ}*{seconds * RATE_HZ}",
            "live": False,
            "recording": str(recording),
            "sent_file": str(sent),
            "started_file": str(started),
            "source": source,
            "backend": "null",
            "standby": "always",
        }
    )
    with (folder / "log").open("wb") as log, Supervisor(specs, log=log) as graph:
        thread = threading.Thread(target=chaos.strike, args=(graph, started, over))
        thread.start()
        try:
            assert graph.wait(), "interrupted"
        finally:
            over.set()
            thread.join()
    seen = Observations(sent=[stamp for _, stamp in json.loads(sent.read_text())["sent"]])
    seen.read(recording)
    return seen, chaos


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--signals", nargs="+", choices=("KILL", "STOP"), default=["KILL"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=("shm", "dds"), default="shm")
    arguments = parser.parse_args()
    numbers = [getattr(signal, f"SIG{name}") for name in arguments.signals]
    folder = Path(tempfile.mkdtemp(prefix="perception_chaos_"))
    seen, chaos = run(arguments.seconds, numbers, arguments.seed, arguments.source, folder)
    print(f"{chaos.blows.total()} blows: {dict(chaos.blows)}")
    statuses = Counter(report.status.name for report in seen.reports)
    print(f"{len(seen.sent)} frames: {dict(statuses)}")
    problems = unaccounted(seen)
    if problems:
        print("\n".join(problems), f"what was seen and said is in {folder}", sep="\n")
        return 1
    shutil.rmtree(folder)
    print("every frame is accounted for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
