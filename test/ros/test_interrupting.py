"""Ctrl-C, SIGTERM and SIGHUP end every command in the same way, and nothing of it is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from observe import until
from started_graph import SHM, left_behind

from perception_nodes.faults.unit import TOKEN_VARIABLE
from perception_nodes.transport.fastdds import PREFIXES, STARTING_S

pytestmark = [pytest.mark.ros, pytest.mark.slow]
MARK = "PERCEPTION_INTERRUPTED"
"""An environment variable that tells the processes of a command from all others."""
START_TIMEOUT_S = 300.0
LIBRARY = "librmw_fastrtps"
SAMPLE = "bags/sample_sqlite3"
UnderWay = Callable[["Command"], bool]


class Command:
    """A command that runs, with its outputs and temporary files in folders of its own."""

    def __init__(self, process: subprocess.Popen[str], mark: str, out: Path) -> None:
        self.process, self._mark, self.out = process, f"{MARK}={mark}".encode(), out

    def processes(self) -> list[int]:
        """It and all that it has started, wherever their parent is now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = self._mark in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if marked:
                found.append(int(folder.name))
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal; that of a closed terminal to all of the process group, as a terminal."""
        group = os.getpgid(self.process.pid)
        for process in self.processes() if number == signal.SIGHUP else [self.process.pid]:
            with suppress(ProcessLookupError):
                if os.getpgid(process) == group:
                    os.kill(process, number)

    def wait_until(self, under_way: UnderWay) -> None:
        """Wait for the moment in which it is to be ended."""
        until(lambda: self.process.poll() is not None or under_way(self), START_TIMEOUT_S)
        assert self.process.poll() is None, self.process.communicate()


@contextmanager
def started(tmp_path: Path, root: Path, *arguments: str) -> Iterator[Command]:
    """Start a command; OUT among its arguments is a folder for its outputs."""
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "perception_nodes",
            *(a.replace("OUT", str(out)) for a in arguments),
        ],
        cwd=root,
        env={
            **os.environ,
            MARK: str(tmp_path),
            "TMPDIR": str(temporary),
            TOKEN_VARIABLE: "0123456789abcdef",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    command = Command(process, str(tmp_path), out)
    try:
        yield command
    finally:
        for pid in command.processes():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def graph_runs(command: Command) -> bool:
    """Whether all nodes have begun, and no file of DDS is so new that a sweep leaves it."""
    try:
        nodes = [
            pid
            for pid in command.processes()
            if b"--ros-args" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        ]
        begun = [LIBRARY in Path(f"/proc/{pid}/maps").read_text() for pid in nodes]
        ages_s = [
            time.time() - (SHM / name).stat().st_ctime
            for name in left_behind(int(os.environ["ROS_DOMAIN_ID"]))
            if name.startswith(PREFIXES)
        ]
    except OSError:  # a process or a file that has just gone
        return False
    return len(nodes) >= 3 and all(begun) and min(ages_s, default=STARTING_S) >= STARTING_S


def infers(command: Command) -> bool:
    """Whether it has loaded the runtime."""
    maps = Path(f"/proc/{command.process.pid}/maps").read_text()
    return "openvino" in maps or "ai_edge_litert" in maps


def writes(command: Command) -> bool:
    """Whether it has begun an output."""
    try:
        return any(any(part.iterdir()) for part in command.out.rglob(".part*"))
    except OSError:  # a folder that has just gone
        return False


def listens(command: Command) -> bool:
    """Whether it has said that it is ready."""
    assert command.process.stderr is not None
    return "unit at" in command.process.stderr.readline()


COMMANDS: list[tuple[list[str], UnderWay]] = [
    (["run", "backend:=null"], graph_runs),
    (["demo", "--bag", SAMPLE, "--out", "OUT", "backend:=null"], graph_runs),
    (["replay", SAMPLE, "--backend", "golden", "--out", "OUT"], writes),
    (["replay", SAMPLE, "--mode", "realtime", "--rate", "0.1", "--out", "OUT"], writes),
    (["replay", SAMPLE, SAMPLE, "--workers", "2", "--backend", "golden", "--out", "OUT"], writes),
    (["bench", "latency", "--backend", "null", "--out", "OUT/x.json"], graph_runs),
    (["bench", "deadline", "--backend", "null", "--html", "OUT/x.html"], graph_runs),
    (["bench", "cameras", "--backend", "null", "--frames", "2000"], graph_runs),
    (["bench", "models", "open-n", "--frames", "100000", "--threads", "1"], infers),
    (["model", "evaluate", "open-n", "--data", "IMAGES", "--teacher", "open-s"], infers),
    (["model", "compile", "open-n", "--backend", "openvino", "--bag", SAMPLE], infers),
    (["hil", "run", "camera_stop", "--out", "OUT"], graph_runs),
    (["hil", "unit", "--listen", "127.0.0.1:0"], listens),
    (["accept", "--out", "OUT", "backend:=null"], graph_runs),
]


@pytest.mark.parametrize(
    ("arguments", "under_way", "number"),
    [(*command, signal.SIGINT) for command in COMMANDS]
    + [(*command, signal.SIGTERM) for command in COMMANDS[:3]]
    + [(*command, signal.SIGHUP) for command in (*COMMANDS[:3], COMMANDS[4])],
    ids=str,
)
def test_an_interrupted_command_leaves_nothing(
    arguments: list[str],
    under_way: UnderWay,
    number: signal.Signals,
    root: Path,
    domain: int,
    tmp_path: Path,
) -> None:
    if "IMAGES" in arguments:
        images = tmp_path / "images"
        images.mkdir()
        picture = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
        for index in range(200):
            cv2.imwrite(str(images / f"{index}.jpg"), picture)
        arguments = [str(images) if a == "IMAGES" else a for a in arguments]
    before = left_behind(domain)  # by a test that was killed long ago
    with started(tmp_path, root, *arguments) as command:
        command.wait_until(under_way)
        command.send(number)
        _, errors = command.process.communicate(timeout=300)
        assert command.process.returncode == 128 + number, errors
        assert "Traceback" not in errors
        assert command.processes() == []
    assert set(left_behind(domain)) <= set(before)
    assert list((tmp_path / "temporary").iterdir()) == []
    names = [path.name for path in (tmp_path / "out").rglob("*")]
    assert not [name for name in names if ".part" in name or name.endswith(".tmp")]
