"""Kills and stops processes of a running graph at random: is every frame accounted for?

    .venv/bin/python test/ros/chaos.py --seconds 120 --signals KILL STOP --source dds

The camera notes what it sends, a subscriber what it is told, and the two are compared. Exit status
1 if a frame was lost silently.
"""

import argparse
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
from functools import partial
from pathlib import Path

from perception_nodes.core.frame import FrameStatus
from perception_nodes.faults.graphs import HIL
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.lab.account import account
from perception_nodes.lab.checks import accounting, problems
from perception_nodes.lab.run import Run, execute

VICTIMS = ("watchdog_node", "detector_node", "preprocess_node")
RATE_HZ = 30
QUIET_S = (2.0, 6.0)
"""Before the first blow and after the last one."""


def strike(
    seconds: float,
    signals: Sequence[int],
    chance: random.Random,
    blows: Counter[str],
    started: Path,
    graph: Supervisor,
    over: threading.Event,
) -> None:
    """Strike at random until the drive is nearly over; count the blows.

    A seed gives the same blows again but for the machine's own timing.
    """
    while not started.is_file() and not over.wait(0.05):
        pass
    end_s = time.monotonic() + seconds - QUIET_S[1]
    over.wait(QUIET_S[0])
    while time.monotonic() < end_s and not over.wait(chance.uniform(0.3, 3.0)):
        name, pid = chance.choice(
            [
                (spec.name, process.pid)
                for spec, process in list(graph.processes)
                if spec.executable in VICTIMS and process.poll() is None
            ]
        )
        number = chance.choice(signals)
        blows[f"{name} {signal.Signals(number).name}"] += 1
        os.kill(pid, number)


def unaccounted(seen: Run) -> list[str]:
    """What of the frames sent does not agree with what was reported of them."""
    found = account(seen)
    lines = list(problems(accounting(found)))
    if found.entered != found.sent:
        lines.append(f"{found.sent} frames were sent, health counts {found.entered}")
    return lines


def run(
    seconds: int, signals: Sequence[int], seed: int, source: str, folder: Path
) -> tuple[Run, Counter[str]]:
    """Run a graph under blows, and count them. The folder keeps what the nodes log."""
    blows: Counter[str] = Counter()
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
    seen = Run()
    blow = partial(strike, seconds, signals, random.Random(seed), blows, started)
    execute(seen, specs, folder / "nodes.log", [blow])
    seen.read_sent(sent)
    seen.read(recording)
    return seen, blows


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
    seen, blows = run(arguments.seconds, numbers, arguments.seed, arguments.source, folder)
    print(f"{blows.total()} blows: {dict(blows)}")
    statuses = Counter(FrameStatus(report.status).name for report in seen.reports)
    print(f"{len(seen.sent)} frames: {dict(statuses)}")
    lines = unaccounted(seen)
    if lines:
        print("\n".join(lines), f"what was seen and said is in {folder}", sep="\n")
        return 1
    shutil.rmtree(folder)
    print("every frame is accounted for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
