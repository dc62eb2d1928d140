"""Machines of a small network, made of namespaces, which end with the process that makes them.

A machine has its own network, processes, /tmp, /dev/shm and home; what they have in common, the
program files among it, is read-only there.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSIDE = "PERCEPTION_FLEET_TEST_FROM"
"""Names the namespace of networks that a run has left for one of its own."""
NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
BRIDGE, NETWORK = "machines", "10.77.0"
SETUP = """
set -e
mount -o bind,remount,ro=recursive /
for folder in /tmp /var/tmp /run /dev/shm; do mount -t tmpfs -o mode=1777 none "$folder"; done
mkdir /tmp/home
hostname "$0"
ip link set lo up
echo ready
sleep infinity
"""


class Failed(Exception):
    """A step or check has failed; the text says why."""


def inside() -> bool:
    """Whether this process is in the namespaces that a run has made for it."""
    return os.environ.get(INSIDE, _namespace()) != _namespace()


def enter() -> None:
    """Start this program again in namespaces of its own; networks and mounts end with it."""
    os.environ[INSIDE] = _namespace()
    os.execvp(NAMESPACES[0], [*NAMESPACES, sys.executable, *sys.argv])


def make_network() -> str:
    """Make the bridge that connects machines; returns the address of this process on it."""
    address = f"{NETWORK}.254"
    do("ip", "link", "set", "lo", "up")
    do("ip", "link", "add", BRIDGE, "type", "bridge")
    do("ip", "address", "add", f"{address}/24", "dev", BRIDGE)
    do("ip", "link", "set", BRIDGE, "up")
    return address


def do(*command: str | Path) -> None:
    """Run a command.

    Raises:
        Failed: its status is not 0.
    """
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(words)}: status {done.returncode}: {done.stderr.strip()}")


def wait_until(true: Callable[[], object], limit_s: float, what: str) -> None:
    """Wait for a condition.

    Raises:
        Failed: it does not hold in time.
    """
    end_s = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end_s:
            raise Failed(f"not within {limit_s:.0f} s: {what}")
        time.sleep(0.05)


class Machine:
    """A machine of the network.

    Attributes:
        name: its host name.
        address: on the network.
        logs: folder outside, for the output of its commands.
    """

    def __init__(self, name: str, number: int, logs: Path) -> None:
        self.name, self.address, self.logs = name, f"{NETWORK}.{number}", logs
        words = [*NAMESPACES, "--uts", "bash", "-c", SETUP, name]
        self._made = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
        if self._made.stdout.readline() != b"ready\n":
            raise Failed(f"machine {name} cannot be made; a container must be --privileged")
        children = Path(f"/proc/{self._made.pid}/task/{self._made.pid}/children")
        self._first = int(children.read_text())
        self._enter = ["nsenter", f"--target={self._first}"]
        self._enter += ["--net", "--mount", "--uts", "--pid", "--wd=/tmp"]
        do("ip", "link", "add", name, "type", "veth", "peer", "eth0", "netns", str(self._first))
        do("ip", "link", "set", name, "master", BRIDGE, "up")
        do(*self._enter, "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        do(*self._enter, "ip", "link", "set", "eth0", "up")

    def path(self, inside: str) -> Path:
        """A path in it, as seen from outside."""
        return Path(f"/proc/{self._first}/root") / inside.lstrip("/")

    def start(
        self, log: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a command in its /tmp; the output is added to a log."""
        own = {"PATH": os.environ["PATH"], "HOME": "/tmp/home", "LANG": "C.UTF-8"}
        own["PYTHONDONTWRITEBYTECODE"] = "1"
        with (self.logs / f"{log}.log").open("ab") as stream:
            return subprocess.Popen(
                [*self._enter, *command],
                env=own | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def connect(self, up: bool) -> None:
        """Plug or pull the cable of its network."""
        do("ip", "link", "set", self.name, "up" if up else "down")

    def processes(self, words: str) -> list[int]:
        """The processes on it that have these words in the command line."""
        mine = os.readlink(f"/proc/{self._first}/ns/net")
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if os.readlink(folder / "ns/net") == mine and words in line:
                    found.append(int(folder.name))
            except OSError:  # it has ended
                continue
        return sorted(found)

    def kill(self, words: str) -> list[int]:
        """Kill the processes on it that have these words in the command line; returns them."""
        killed = [one for one in self.processes(words) if one != self._first]
        for process in killed:
            os.kill(process, signal.SIGKILL)
        return killed


def _namespace() -> str:
    return os.readlink("/proc/self/ns/net")
