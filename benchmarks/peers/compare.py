"""Detectors of ROS 2 side by side: the same camera, the same subscriber, one account.

Each detector is started as its users start it, in processes of its own, and gets the frames of one
drive over DDS. An independent subscriber counts what comes back and when. Then the process that
detects is killed with SIGKILL, and what follows is counted too. What cannot run on this machine is
named, with what it lacks.
"""

import argparse
import errno
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peers import report
from peers.account import Heard, account
from peers.adapters import OWN, Peer, chosen, read
from peers.frames import prepare
from peers.measure import DOMAINS, PeerFailure, Round, Setup, as_json, measure
from peers.streaming import accuracy
from rich.console import Console

from perception_nodes.core.errors import PerceptionError, printable
from perception_nodes.drives.sample import sample_drive
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.system.environment import profiles_variable
from perception_nodes.system.files import staged, write_whole
from perception_nodes.system.processes import machine
from perception_nodes.system.realtime import may_have
from perception_nodes.system.signals import handled_stopping

EPILOG = """
examples:
  python benchmarks/peers --list                     who can take part here, and what others lack
  python benchmarks/peers                            all who can, one minute each, on the sample
  python benchmarks/peers ours predict --bag drive.mcap --seconds 300 --rounds 3
  python benchmarks/peers --setup ~/yolo_ws/install/setup.bash --set yolo_ros.weights=yolo11n.onnx
  python benchmarks/peers ours --more ours="model:=open-n"
  python benchmarks/peers --adapters mine.yaml       a detector of your own: such a file is
                                                     explained in benchmarks/peers/adapters.yaml

DDS has the settings of your environment, for all alike: with large frames, try
FASTDDS_DEFAULT_PROFILES_FILE=$PWD/config/fastdds_localhost_images.xml too. Run it on a machine that
does nothing else. Results are OUT/peers.json, OUT/peers.html, and what each process printed.

exit status: 0 done, 1 one that was named or could run was not measured, 2 unusable input, or nobody
can run here, 130 after Ctrl-C. Ctrl-C leaves nothing: in the last of many rounds, those before it
are lost too.
"""
NO_PLACE = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES
PRIORITY = 90
"""SCHED_FIFO priority of camera and subscriber, where it is allowed: an instrument must not wait
for what it measures."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="peers",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("peers", nargs="*", metavar="PEER", help="who takes part; by default all who can run here")
    add("--list", action="store_true", help="say who can run here and what others lack, and end")
    add(
        "--bag", type=Path, help="drive: bag, video or folder of images; by default the sample road"
    )
    add("--topic", default="", help="its image topic, if it has several")
    add("--truth", type=Path, metavar="FILE",
        help="its labels, for streaming accuracy; as for `perception bench streaming`")  # fmt: skip
    add("--hz", type=float, help="frames a second; by default the drive's own rate")
    add("--seconds", type=float, default=60, help="how long frames are judged (60)")
    add("--warm-up", type=float, default=5, help="seconds from the first answer until then (5)")
    add("--rounds", type=int, default=1, help="times that each is measured, in turns (1)")
    add("--recovery", type=float, default=20, help="seconds to wait after kill -9; 0: no kill (20)")
    add("--deadline-ms", type=float, default=10, help="an answer within it is in time (10)")
    add("--setup", type=Path, action="append", default=[], metavar="FILE",
        help="setup.bash of a workspace with peers; may be given several times")  # fmt: skip
    add("--set", action="append", default=[], metavar="PEER.NAME=VALUE", help="a peer's setting")
    add("--more", action="append", default=[], metavar="PEER=WORDS",
        help="words to add to a peer's command")  # fmt: skip
    add("--adapters", type=Path, action="append", default=[], metavar="FILE",
        help="adapters of further detectors")  # fmt: skip
    add("--out", type=Path, default=Path("out/peers"), help="folder of the results (out/peers)")
    add("--domain", type=int, default=os.getpid() % DOMAINS,
        help="first ROS domain, 0 to 101; each measurement has one of its own")  # fmt: skip
    given = parser.parse_args(arguments)
    for name, least, most in (
        ("seconds", 1, 86_400), ("warm_up", 0, 3600), ("rounds", 1, 1000),
        ("recovery", 0, 3600), ("deadline_ms", 0.1, 60_000), ("domain", 0, DOMAINS - 1),
        ("hz", 0.1, 1000),
    ):  # fmt: skip
        value = getattr(given, name)
        if value is not None and not least <= value <= most:
            option = name.replace("_", "-")
            parser.error(f"--{option} {value:g}: it must be from {least:g} to {most:g}")
    return given


class Progress:
    """A line on a terminal that is written over again and again; elsewhere only its beginnings."""

    def __init__(self, console: Console) -> None:
        self._console, self._said, self._begin = console, "", ""

    def __call__(self, line: str) -> None:
        """Show a line."""
        line = printable(line)
        begin = line.partition(", ")[0]
        if self._console.is_terminal:
            text = line[: max(self._console.width - 1, 10)]
            print(f"\r{text:{len(self._said)}}", end="", file=sys.stderr, flush=True)
            self._said = text
        elif begin != self._begin:
            print(line, file=sys.stderr, flush=True)
        self._begin = begin

    def end(self) -> None:
        """Leave the line."""
        if self._said:
            print(file=sys.stderr)
        self._said = self._begin = ""


def list_peers(peers: Sequence[Peer], say: Progress) -> int:
    """Print who can run here; returns the exit status."""
    for peer in peers:
        say(f"{peer.name}: is looked for")
        missing, adapter = peer.missing(), peer.adapter
        version = "" if missing else f" {peer.version()}"
        say.end()
        print(f"{peer.name}: {adapter.title}{version}; {adapter.licence}")
        if missing:
            why, remedy = missing
            print(f"  cannot run here: {printable(why)}\n  to do: {printable(remedy)}")
        else:
            print("  can run here")
        for name, value in adapter.values.items():
            print(f"  --set {peer.name}.{name}={value}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = parse(arguments)
    with handled_stopping(_stop):
        return _run(given, Progress(Console(stderr=True)))


def _stop(number: int, _: object) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _run(given: argparse.Namespace, say: Progress) -> int:
    try:
        adapters = read([OWN, *given.adapters])
        peers = chosen(adapters, given.peers, given.set, given.more, given.setup)
        return list_peers(peers, say) if given.list else compare(given, peers, say)
    except KeyboardInterrupt:
        say.end()
        print("peers: interrupted; nothing is left of it", file=sys.stderr)
        return 130
    except OSError as error:
        say.end()
        remedy = "; free the place, or name another one (--out, TMPDIR)"
        print(f"peers: {error}{remedy if error.errno in NO_PLACE else ''}", file=sys.stderr)
        return 2
    except PerceptionError as error:
        say.end()
        print(f"peers: {error}", file=sys.stderr)
        return 2


def compare(given: argparse.Namespace, peers: Sequence[Peer], say: Progress) -> int:
    """Measure all who can run here, and write the report."""
    truth = read_sets([given.truth])[0] if given.truth else None
    not_run: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    for peer in peers:
        say(f"{peer.name}: is looked for")
        if missing := peer.missing():
            not_run[peer.name] = _not_run(peer, *missing)
        else:
            versions[peer.name] = peer.version()
    say.end()
    able = [peer for peer in peers if peer.name in versions]
    for one in not_run.values():
        print(f"{one['title']}: not here: {one['why']}; to do: {one['remedy']}", file=sys.stderr)
    if not able:
        print("peers: nobody can run here, see above", file=sys.stderr)
        return 2
    with (
        staged(given.out, "peers.html") as out,
        tempfile.TemporaryDirectory(prefix="perception_peers_") as folder,
    ):
        bag = given.bag or sample_drive()
        say(f"{bag}: frames are decoded")
        drive, labels = prepare(bag, given.topic, Path(folder), truth)
        say.end()
        for line in drive["warnings"]:
            print(printable(line), file=sys.stderr)
        setup = Setup(
            frames=Path(folder),
            width=drive["width"],
            height=drive["height"],
            hz=given.hz or drive["hz"],
            warm_up_s=given.warm_up,
            seconds=given.seconds,
            recovery_s=given.recovery,
            deadline_ms=given.deadline_ms,
            priority=PRIORITY if may_have(PRIORITY) else 0,
            logs=out,
            domain=given.domain,
            keeps=truth is not None,
        )
        before = os.getloadavg()[0]
        rounds, failures = _measure(able, setup, given.rounds, say)
        not_run |= failures
        measured = {peer.name: peer for peer in able if rounds.get(peer.name)}
        result = {
            "made": datetime.now(timezone.utc).isoformat(" ", "seconds"),
            "machine": machine(),
            "setup": _setup_facts(setup, drive, given.rounds, before),
            "warnings": [
                *drive["warnings"],
                *_doubts(setup, before),
                *(truth.notes if truth else ()),
            ],
            "peers": {
                name: {
                    "title": peer.adapter.title,
                    "version": versions[name],
                    "licence": peer.adapter.licence,
                    "note": peer.adapter.note,
                    "command": " ".join(peer.command(**_frames(setup))),
                    **_peer_result(rounds[name], setup.deadline_ms),
                    "streaming": _streaming(rounds[name], setup, drive["frames"], labels, truth),
                }
                for name, peer in measured.items()
            },
            "not_run": not_run,
        }
        write_whole(out / "peers.json", json.dumps(result, indent=1) + "\n")
        write_whole(out / "peers.html", report.render(result))
    Console().print(report.table(result))
    for line in (
        *report.better_than_ours(result["peers"]),
        *report.not_judged(result["peers"]),
        *report.not_run_lines(result),
    ):
        print(line)
    print(f"Written: {given.out / 'peers.json'}, {given.out / 'peers.html'}")
    return int(bool(failures) or any(name in not_run for name in given.peers))


def _measure(
    peers: Sequence[Peer], setup: Setup, rounds: int, say: Progress
) -> tuple[dict[str, list[Round]], dict[str, dict[str, str]]]:
    """The rounds of each, in turns; and those that failed, which are not tried again."""
    found: dict[str, list[Round]] = {peer.name: [] for peer in peers}
    failures: dict[str, dict[str, str]] = {}
    number = 0
    for turn in range(rounds):
        # The one that was last begins, so that nobody always runs on the warmer machine.
        for peer in peers if turn % 2 == 0 else reversed(peers):
            if peer.name in failures:
                continue
            of = f"round {turn + 1} of {rounds}, " if rounds > 1 else ""
            head = f"{of.replace(', ', ' ')}{peer.name}"
            try:
                found[peer.name].append(
                    measure(peer, setup, number, lambda line, head=head: say(f"{head} {line}"))
                )
            except PeerFailure as failure:
                failures[peer.name] = _not_run(
                    peer, str(failure), f"read {peer.name}.log beside the page"
                )
                found[peer.name].clear()
            say.end()
            number += 1
    return found, failures


def _not_run(peer: Peer, why: str, remedy: str) -> dict[str, str]:
    return {"title": peer.adapter.title, "why": printable(why), "remedy": printable(remedy)}


def _frames(setup: Setup) -> dict[str, object]:
    return {"width": setup.width, "height": setup.height, "deadline_ms": setup.deadline_ms}


def _peer_result(rounds: Sequence[Round], deadline_ms: float) -> dict[str, Any]:
    judged = sum((one.judged for one in rounds), Heard())
    after_kill = sum((one.after_kill for one in rounds if one.killed), Heard())
    latencies = [None if ms is None else round(ms, 3) for ms in judged.latencies_ms()]
    return {
        "account": account(judged, deadline_ms),
        "after_kill": account(after_kill, deadline_ms) if after_kill.sent else None,
        **as_json([*rounds]),
        "latencies_ms": latencies,
    }


def _streaming(
    rounds: Sequence[Round],
    setup: Setup,
    frames: int,
    labels: Mapping[int, LabelledImage],
    truth: LabelledSet | None,
) -> dict[str, Any] | None:
    """The streaming accuracy; None without truth."""
    if truth is None:
        return None
    if unread := next((one.unread for one in rounds if one.unread), ""):
        return {"map50": None, "not_known": unread}
    held = [
        (
            round((at_ns - one.first_ns) * setup.hz / 1e9) % frames,
            None if of_ns is None else one.objects.get(of_ns),
        )
        for one in rounds
        for at_ns, of_ns in one.held
    ]
    return accuracy(held, labels, truth, (setup.width, setup.height))


def _setup_facts(
    setup: Setup, drive: dict[str, Any], rounds: int, load: float
) -> dict[str, str | int | float | bool]:
    return {
        "drive": drive["drive"],
        "frames_of_the_drive": drive["frames"],
        "width": setup.width,
        "height": setup.height,
        "hz": setup.hz,
        "deadline_ms": setup.deadline_ms,
        "seconds_a_round": setup.seconds,
        "rounds": rounds,
        "warm_up_s": setup.warm_up_s,
        "recovery_s": setup.recovery_s,
        "load_before": round(load, 2),
        "real_time_priority_of_camera_and_subscriber": setup.priority,
        "middleware": os.environ.get("RMW_IMPLEMENTATION", "the distribution's default"),
        "middleware_settings": os.environ.get(profiles_variable(), "the default ones"),
    }


def _doubts(setup: Setup, load: float) -> list[str]:
    """Why figures may say less than they seem to."""
    lines = []
    if not setup.priority:
        lines.append(
            "Camera and subscriber have no real-time priority (allow it with `ulimit -r` or "
            "CAP_SYS_NICE): on a busy machine their own delay is part of the latency."
        )
    if load > 0.5:
        lines.append(f"The machine was not quiet: its load was {load:.1f} before the first start.")
    return lines
