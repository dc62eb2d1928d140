"""Kills and stops processes of a running graph at random: is every frame accounted for?

    .venv/bin/python test/ros/chaos.py --seconds 120 --blows KILL STOP --source dds
    .venv/bin/python test/ros/chaos.py --seconds 3600 --blows KILL STOP PAUSE PAIR ALL

The camera notes what it sends, a subscriber what it is told, and the two are compared. What is
longer than five minutes is done in rounds, each with a graph and a seed of its own. Exit status 1
if a frame was lost silently, or has a report that contradicts what was published.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

from perception_nodes.core.frame import FrameStatus
from perception_nodes.faults.graphs import HIL
from perception_nodes.lab.checks import accounting, problems
from perception_nodes.lab.run import Run, execute
from perception_nodes.report.account import account

VICTIMS = ("watchdog_node", "detector_node", "preprocess_node")
RATE_HZ = 30
QUIET, PACE = (1.0, 4.0), (0.1, 1.0)
"""Pauses before the first blow and after the last one, and between blows, in times that the graph
took to start: faster than that, a busy machine would never have a whole graph to strike."""
ROUND_S, SHORTEST_S = 300, 30
PAUSE_S = (0.02, 1.5)
BLOWS = ("KILL", "STOP", "PAUSE", "PAIR", "ALL")
"""KILL and STOP are signals; PAUSE is STOP and then CONT; PAIR kills two at the same moment, and
ALL a process and its standby, so that nobody is left in a role."""


def strike(seconds, kinds, chance, blows, started, graph, over):
    """Strike at random until the drive is nearly over; count the blows.

    A seed gives the same blows again but for the machine's own timing.
    """
    begin_s = time.monotonic()
    while not started.is_file() and not over.wait(0.05):
        pass
    start_s = time.monotonic() - begin_s
    end_s = time.monotonic() + seconds - QUIET[1] * start_s
    over.wait(QUIET[0] * start_s)
    while time.monotonic() < end_s and not over.wait(chance.uniform(*PACE) * start_s):
        alive = [
            (spec, process.pid)
            for spec, process in list(graph.processes)
            if spec.executable in VICTIMS and process.poll() is None
        ]
        if not alive:  # each died so often that its restart waits
            continue
        kind, (first, pid) = chance.choice(kinds), chance.choice(alive)
        blows[f"{first.name} {kind}"] += 1
        if kind in ("STOP", "PAUSE"):
            send(pid, signal.SIGSTOP)
            if kind == "PAUSE":
                over.wait(chance.uniform(*PAUSE_S))
                send(pid, signal.SIGCONT)
            continue
        struck = {pid, chance.choice(alive)[1]} if kind == "PAIR" else {pid}
        if kind == "ALL":
            struck |= {other for spec, other in alive if spec.executable == first.executable}
        for one in struck:
            send(one, signal.SIGKILL)


def send(process, number):
    """Signal a process that may just have ended."""
    with suppress(ProcessLookupError):
        os.kill(process, number)


def unaccounted(seen):
    """What of the frames sent does not agree with what was reported of them."""
    found = account(seen)
    lines = list(problems(accounting(found)))
    if found.entered != found.sent:
        lines.append(f"{found.sent} frames were sent, health counts {found.entered}")
    return lines


def run(seconds, kinds, seed, source, folder):
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
    blow = partial(strike, seconds, kinds, random.Random(seed), blows, started)
    execute(seen, specs, folder / "nodes.log", [blow])
    seen.read_sent(sent)
    seen.read(recording)
    return seen, blows


def main():
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--blows", nargs="+", choices=BLOWS, default=["KILL"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=("shm", "dds"), default="shm")
    arguments = parser.parse_args()
    # Domain 0 may have the graph of another container that shares this one's network.
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 101)))
    left_s = arguments.seconds
    for seed in count(arguments.seed):
        round_s, left_s = min(ROUND_S, left_s), left_s - ROUND_S
        print(f"{arguments.source}, seed {seed}, {round_s} s:", flush=True)
        if failed := one_round(round_s, arguments.blows, seed, arguments.source):
            return failed
        if left_s < SHORTEST_S:
            return 0
    return 0


def one_round(seconds, kinds, seed, source):
    """Run a graph, print what became of it; returns the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="perception_chaos_"))
    seen, blows = run(seconds, kinds, seed, source, folder)
    print(f"{blows.total()} blows: {dict(blows)}")
    statuses = Counter(FrameStatus(report.status).name for report in seen.reports)
    print(f"{len(seen.sent)} frames: {dict(statuses)}")
    lines = unaccounted(seen)
    if not blows:
        lines.append("the graph took too long to start for a single blow; give more --seconds")
    if lines:
        print("\n".join(lines), f"what was seen and said is in {folder}", sep="\n")
        return 1
    shutil.rmtree(folder)
    print("every frame is accounted for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
