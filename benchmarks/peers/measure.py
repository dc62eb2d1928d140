"""One measurement of one detector: camera and subscriber run, it starts, answers, is killed."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from peers.account import RANKS, Heard
from peers.adapters import Peer
from peers.processes import Family, Meter, Started
from peers.streaming import read_kept

from perception_nodes.core.statistics import latency_percentiles
from perception_nodes.report.recording import FrameDetections, RecordingError
from perception_nodes.system.environment import LOCALHOST, RANGE
from perception_nodes.transport.fastdds import sweep_segments

READY_S = 30.0
"""Camera and subscriber begin within this time."""
LAST_ANSWERS_S = 1.0
LOOK_S = 1.0
NS = 1_000_000_000
DOMAINS = 102
"""ROS domains from 0 on whose ports are free on every system."""
Say = Callable[[str], None]


class PeerFailure(Exception):
    """A detector could not be measured; the text says why."""


@dataclass(frozen=True)
class Setup:
    """What is the same for all.

    Attributes:
        frames: folder with the frames, see `frames.py`.
        width, height: of the frames, pixels.
        hz: frames a second.
        warm_up_s: time from the first answer until frames are judged.
        seconds: time in which they are judged.
        recovery_s: how long to wait for answers after kill -9; 0 for no kill.
        deadline_ms: what is told to those who can be told.
        priority: SCHED_FIFO priority of camera and subscriber; 0 for none.
        logs: folder for what the processes print.
        domain: the ROS domain of the first measurement; each has one of its own.
        keeps: whether results are kept, to be judged.
    """

    frames: Path
    width: int
    height: int
    hz: float
    warm_up_s: float
    seconds: float
    recovery_s: float
    deadline_ms: float
    priority: int
    logs: Path
    domain: int
    keeps: bool = False


@dataclass
class Round:
    """One measurement.

    Attributes:
        start_s: from the command to the first answer.
        judged: what there is of the judged frames.
        over_s, computed_s, idle_s: time in which processors were measured, and what was used.
        memory_mb: at its end.
        killed: what was killed; empty if nothing was.
        recovery_s: from the kill to the first answer to a later frame; None if none came.
        after_kill: what there is of the frames from the kill to the end.
        held: stamp of each judged frame, and of the frame whose answer is held at that instant.
        first_ns: stamp of the first frame of all.
        objects: what was found, by the frame's stamp.
        unread: why that is not known; empty if it is.
    """

    start_s: float = 0.0
    judged: Heard = field(default_factory=Heard)
    over_s: float = 0.0
    computed_s: float = 0.0
    idle_s: float = 0.0
    memory_mb: float = 0.0
    killed: str = ""
    recovery_s: float | None = None
    after_kill: Heard = field(default_factory=Heard)
    held: list[tuple[int, int | None]] = field(default_factory=list)
    first_ns: int = 0
    objects: dict[int, FrameDetections] = field(default_factory=dict)
    unread: str = ""


class Witness:
    """What camera and subscriber say, line by line, while they run."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.is_listening = False
        self._changed = threading.Condition()

    def follow(self, stream: IO[bytes]) -> None:
        """Read a process's lines until its end, in a thread."""
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._changed, suppress(ValueError, IndexError):  # a library's own line
                    self._take(line.decode(errors="replace").split())
                    self._changed.notify_all()

    def _take(self, words: list[str]) -> None:
        kind, numbers = words[0], [int(word) for word in words[1:]]
        if kind == "sent":
            stamp_ns, at_ns = numbers
            self.heard.sent.append((stamp_ns, at_ns))
        elif kind == "answer":
            stamp_ns, at_ns, objects = numbers
            self.heard.answers.append((stamp_ns, at_ns, objects))
        elif kind == "told":
            self.heard.told.append((numbers[0], numbers[1]))
        elif kind == "listening":
            self.is_listening = True

    def wait(self, found: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is found in what was heard; returns whether it was."""
        with self._changed:
            return self._changed.wait_for(found, timeout_s)

    def copy(self) -> Heard:
        """What was heard so far."""
        with self._changed:
            return self.heard + Heard()


def measure(peer: Peer, setup: Setup, number: int, say: Say) -> Round:
    """Measure a detector once.

    Args:
        peer: the detector.
        setup: what is the same for all.
        number: of this measurement, from 0.
        say: receives a line about what goes on, again and again.

    Raises:
        PeerFailure: it could not be measured.
        KeyboardInterrupt: interrupted; nothing of it runs any more.
    """
    with Bench(peer, setup, number, say) as bench:
        bench.begin()
        found = Round(bench.start())
        bench.go_on("warms up", setup.warm_up_s)
        begin_ns, end_ns = bench.judge(found)
        kill_ns = bench.kill(found) if setup.recovery_s else 0
        time.sleep(LAST_ANSWERS_S)
        heard = bench.witness.copy()
    found.judged = heard.between(begin_ns, end_ns)
    instants_ns = [stamp_ns for stamp_ns, _ in found.judged.sent]
    found.held = [*zip(instants_ns, heard.held_ns(instants_ns), strict=True)]
    found.first_ns = heard.sent[0][0]
    found.unread = peer.adapter.result.unread
    if bench.kept is not None:
        try:
            found.objects = read_kept(bench.kept)
        except RecordingError as error:
            found.unread = str(error)
    if kill_ns:
        # The last frames may still be on their way.
        found.after_kill = heard.between(kill_ns, heard.sent[-1][0] - round(LAST_ANSWERS_S * NS))
        first_ns = heard.first_answer_ns(kill_ns)
        found.recovery_s = None if first_ns is None else (first_ns - kill_ns) / NS
    return found


class Log:
    """What a process prints in one measurement; that of earlier ones is in the file before it.

    Attributes:
        file: opened for appending, which the process writes to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._begin = file.tell()  # Later, the process moves this position too.

    def text(self) -> str:
        """All of it."""
        with Path(self.file.name).open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    def last_line(self) -> str:
        """The last line that says something, for an error's text."""
        lines = re.sub(r"\x1b\[[\d;]*m", "", self.text()).splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Bench(ExitStack):
    """Camera, subscriber and detector of one measurement; at its end nothing of them runs.

    Attributes:
        witness: what camera and subscriber have told.
        kept: file of the results, if their boxes can be read.
    """

    def __init__(self, peer: Peer, setup: Setup, number: int, say: Say) -> None:
        super().__init__()
        self.witness = Witness()
        reads = setup.keeps and not peer.adapter.result.unread
        self.kept = setup.frames / "results.bin" if reads else None
        self._peer, self._setup, self._say = peer, setup, say
        self._environment = {
            "ROS_DOMAIN_ID": str((setup.domain + number) % DOMAINS),
            RANGE: os.environ.get(RANGE, LOCALHOST),  # no other machine is measured or disturbed
            "PYTHONUNBUFFERED": "1",
            "ROS_LOG_DIR": str(setup.frames),  # what they print is kept anyway
        }
        self._tools: dict[str, Started] = {}
        self._process: Started | None = None
        self._meter: Meter | None = None

    def __enter__(self) -> "Bench":
        super().__enter__()
        self._logs = {
            of: Log(
                self.enter_context((self._setup.logs / f"{self._peer.name}{of}.log").open("ab"))
            )
            for of in ("", ".camera", ".subscriber")
        }
        self.callback(sweep_segments)  # of the middleware, which killed processes leave
        self._family = self.enter_context(Family())
        return self

    def begin(self) -> None:
        """Start camera and subscriber, and wait until both are there."""
        adapter, witness = self._peer.adapter, self.witness
        result, reports = adapter.result, adapter.reports
        words: list[object] = ["--result", result.topic, result.type]
        if reports:
            words += ["--reports", reports.topic, reports.type, reports.field]
            words += ["--missed", *reports.missed, "--lost", *reports.lost]
            words += ["--number", reports.number]
        if result.reliability == "best_effort":
            words.append("--best-effort")
        if self.kept is not None:
            words += ["--keep", self.kept]
        self._start_tool("subscriber", *words)
        where = ["--topic", adapter.image_topic, "--hz", self._setup.hz]
        self._start_tool("camera", self._setup.frames, *where)
        if not self.go_on(
            "waits for camera and subscriber",
            READY_S,
            lambda: witness.is_listening and bool(witness.heard.sent),
        ):
            silent = "camera" if witness.is_listening else "subscriber"
            said = self._logs[f".{silent}"].last_line()
            raise PeerFailure(f"the {silent} of the benchmark did not begin: {said}")

    def start(self) -> float:
        """Start the detector; returns the seconds until its first answer."""
        setup, adapter = self._setup, self._peer.adapter
        began_ns = time.time_ns()
        self._process = self._family.start(
            self._peer.command(
                width=setup.width, height=setup.height, deadline_ms=setup.deadline_ms
            ),
            {**self._environment, **adapter.environment},
            self._logs[""].file,
            self._logs[""].file,
        )
        answers = self.witness.heard.answers
        if not self.go_on("starts", adapter.start_s, lambda: bool(answers)):
            raise PeerFailure(self._why_silent())
        return (answers[0][1] - began_ns) / NS

    def judge(self, found: Round) -> tuple[int, int]:
        """Let it detect; returns from which stamp to which frames are judged."""
        self._meter = meter = Meter(self._family, self._process)
        begin_ns = time.time_ns()
        self.go_on("is measured", self._setup.seconds)
        meter.look()
        end_ns = time.time_ns()
        if (status := self._process.poll()) is not None:
            said = self._logs[""].last_line()
            raise PeerFailure(f"it ended with status {status} while it was measured: {said}")
        found.over_s = (end_ns - begin_ns) / NS
        found.computed_s, found.idle_s = meter.computed_s, meter.idle_s
        time.sleep(LAST_ANSWERS_S)
        # Reading it keeps a process waiting, so it is read when nothing is judged.
        found.memory_mb = meter.memory_mb()
        return begin_ns, end_ns

    def kill(self, found: Round) -> int:
        """Kill what detects, and wait until it answers again; returns when it was killed."""
        assert self._meter is not None
        pattern, setup = self._peer.adapter.kill, self._setup
        if (victim := self._meter.victim(pattern)) is None:
            raise PeerFailure(f"none of its processes has {pattern!r} in its command line to kill")
        process, found.killed = victim
        kill_ns = time.time_ns()
        process.kill()
        process.close()
        answers, known = self.witness.heard.answers, len(self.witness.heard.answers)

        def is_back() -> bool:
            return any(stamp_ns >= kill_ns for stamp_ns, _, _ in answers[known:])

        if self.go_on("was killed", setup.recovery_s, is_back):
            self.go_on("answers again", LAST_ANSWERS_S)
        return kill_ns

    def go_on(self, what: str, for_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait for something while all goes well; returns whether it came."""
        heard, end_s = self.witness.heard, time.monotonic() + for_s
        while (left_s := end_s - time.monotonic()) > 0:
            passed = f"{for_s - left_s:.0f} of at most {for_s:g} s"
            counts = f"{len(heard.sent)} frames, {len(heard.answers)} answers"
            self._say(f"{what}, {passed}, {counts}")
            if self.witness.wait(until, min(LOOK_S, left_s)):
                return True
            for name, tool in self._tools.items():
                if tool.poll() is not None:
                    said = self._logs[f".{name}"].last_line()
                    raise PeerFailure(f"the {name} of the benchmark has ended: {said}")
            if self._meter is not None:
                self._meter.look()
            elif self._process and self._process.poll() is not None:  # it will not answer
                break
        return until()

    def _start_tool(self, name: str, *words: object) -> None:
        command = self._peer.script(f"{name}.py", *words, "--priority", self._setup.priority)
        log = self._logs[f".{name}"].file
        self._tools[name] = self._family.start(command, self._environment, subprocess.PIPE, log)
        stream = self._tools[name].stdout
        assert stream is not None
        self.witness.follow(stream)

    def _why_silent(self) -> str:
        log, adapter = self._logs[""], self._peer.adapter
        said, for_s, result = log.last_line(), f"{adapter.start_s:g} s", adapter.result
        if (status := self._process.poll()) is not None:
            return f"it ended with status {status} before its first answer: {said}"
        if adapter.ready and re.search(adapter.ready, log.text()):
            return f"it was ready, and sent no {result.type} on {result.topic} in {for_s}: {said}"
        return f"it gave no answer in {for_s} (start_s of its adapter): {said}"


def as_json(rounds: list[Round]) -> dict[str, Any]:
    """What the rounds took, for the result."""
    over_s = sum(one.over_s for one in rounds)
    held = [one for round in rounds for one in round.held]
    ages_ms = [(at_ns - of_ns) / 1e6 for at_ns, of_ns in held if of_ns is not None]
    answered = sum(ms is not None for one in rounds for ms in one.judged.latencies_ms())
    computed_s = sum(one.computed_s for one in rounds)
    return {
        "start_s": [round(one.start_s, 3) for one in rounds],
        "processors": round(computed_s / over_s, 4),
        "idle_processors": round(sum(one.idle_s for one in rounds) / over_s, 4),
        "processor_ms_per_answer": round(1e3 * computed_s / answered, 3) if answered else None,
        "stale_ms": latency_percentiles(ages_ms, RANKS, len(held) - len(ages_ms)),
        "memory_mb": round(max(one.memory_mb for one in rounds), 1),
        "killed": [one.killed for one in rounds if one.killed],
        "recovery_s": [
            None if one.recovery_s is None else round(one.recovery_s, 3)
            for one in rounds
            if one.killed
        ],
    }
