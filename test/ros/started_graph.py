"""A graph as a user starts it: by `perception run`, or by `ros2 launch` where that is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from observe import children, until

from perception_nodes.graph.graph import VEHICLE
from perception_nodes.system.processes import Process
from perception_nodes.transport.fastdds import PREFIXES

ROOT = Path(__file__).parents[2]
SHM = Path("/dev/shm")
TIMEOUT_S = 300.0
NODES = [
    "watchdog_node",
    "detector_node",
    "detector_standby_node",
    "preprocess_node",
    "preprocess_standby_node",
]
NEEDED = ("launch", "launch_ros", "ros2cli", "ros2launch")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
HAS_LAUNCH = not MISSING and importlib.util.find_spec("launch").origin is not None
needs_launch = pytest.mark.skipif(not HAS_LAUNCH, reason="ros2 launch is not installed")
_LAUNCH = [pytest.param("launch", marks=needs_launch)]
only_launch = pytest.mark.parametrize("start", _LAUNCH, indirect=True)
only_run = pytest.mark.parametrize("start", ["run"], indirect=True)
ROS2 = "import sys; from ros2cli.cli import main; sys.exit(main())"
RUN_NODE = "import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"
RUN = "import sys; from perception_nodes.__main__ import main; sys.exit(main())"


class StartedGraph:
    """The command and what comes of it."""

    def __init__(self, command, log, environment):
        self.log = log
        with log.open("wb") as file:
            self.command = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self):
        return self.log.read_text(errors="replace")

    def supervisor(self):
        """The process that runs `perception run`."""
        if {"run", "view"} & {*arguments_of(self.command.pid)}:
            return self.command.pid
        return next((p for p in children(self.command.pid) if "run" in arguments_of(p)), 0)

    def nodes(self):
        """Running nodes and their processes."""
        return {name_of(child): child for child in children(self.supervisor()) if name_of(child)}

    def until_ready(self, nodes=NODES):
        """Wait until all nodes run, and the detectors say that they work."""

        def ready():
            assert self.command.poll() is None, self.output()
            detectors = sum("detector" in name for name in nodes)
            has_read = self.output().count(" threads: ") >= detectors
            return has_read and set(nodes) <= set(self.nodes())

        self.until(ready)
        return self.nodes()

    def until(self, condition):
        until(condition, TIMEOUT_S, self.output, lambda: time.sleep(0.02))

    def signal(self, number):
        """Signal the command's process group, as a terminal does."""
        os.killpg(self.command.pid, number)

    def end(self):
        """Wait for the command; its exit status."""
        return self.command.wait(TIMEOUT_S)


class Starter:
    """Starts graphs with one of the two commands."""

    def __init__(self, how, folder):
        self.how = how
        self._folder = folder
        self._started: list[StartedGraph] = []

    def __call__(self, *arguments, file="perception.launch.py", command="run"):
        if self.how == "run":
            words, environment = [sys.executable, "-m", "perception_nodes", command], {}
        else:
            package = [] if Path(file).is_absolute() else ["perception_nodes"]
            words = [sys.executable, "-c", ROS2, "launch", *package, file]
            environment = installed(self._folder / "prefix")
        log = self._folder / f"log{len(self._started)}"
        started = StartedGraph([*words, *arguments], log, environment)
        self._started.append(started)
        return started

    def close(self):
        """Kill all processes, and wait: what they leave is removed only when none lives."""
        for started in self._started:
            nodes = []
            for pid in children(started.command.pid):
                with suppress(ProcessLookupError):
                    nodes.append(Process(pid))
            for process in (started.command, *nodes):
                process.kill()
            started.command.wait()
            for node in nodes:
                node.wait(1e3 * TIMEOUT_S)


def installed(prefix):
    """The environment of a workspace in which this checkout is installed."""
    scripts = prefix / "lib/perception_nodes"
    if not prefix.exists():
        marker = prefix / "share/ament_index/resource_index/packages/perception_nodes"
        marker.parent.mkdir(parents=True)
        marker.touch()
        shutil.copytree(ROOT / "launch", prefix / "share/perception_nodes/launch")
        scripts.mkdir(parents=True)
        nodes = {kind.executable: RUN_NODE.format(kind.module) for kind in VEHICLE.kinds}
        for name, text in {"perception": RUN, **nodes}.items():
            script = scripts / name
            script.write_text(f"#!{sys.executable}\n{text}\n")
            script.chmod(0o755)
    before = os.environ.get("AMENT_PREFIX_PATH", sys.prefix)
    return {
        "AMENT_PREFIX_PATH": os.pathsep.join([str(prefix), before]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ROS_LOG_DIR": str(prefix.parent / "log"),
    }


def hurry(process):
    """Let a process that gives way to all others run like them: the machine may be busy."""
    for task in os.listdir(f"/proc/{process}/task"):
        with suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setscheduler(int(task), os.SCHED_OTHER, os.sched_param(0))
            with suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, int(task), 0)
    with suppress(OSError):  # no privileges for it, or no such groups
        Path(f"/proc/{process}/autogroup").write_text("0", encoding="ascii")


def left_behind(domain):
    """Shared memory that a domain's processes have left; DDS ports are 7400 + 250 * domain on."""
    numbers = range(7400 + 250 * domain, 7650 + 250 * domain)
    ports = (f"{prefix}port{number}" for prefix in PREFIXES for number in numbers)
    names = (f"perception{domain}_", f"perception_graph{domain}_", f"perception_domain{domain}.")
    return [path.name for path in SHM.iterdir() if path.name.startswith((*names, *ports))]


def arguments_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def name_of(process):
    """The name of a node's process; empty where it is none."""
    arguments = arguments_of(process)
    renamed = [text.partition(":=")[2] for text in arguments if text.startswith("__node:=")]
    modules = [text.rpartition(".")[2] for text in arguments if ".nodes." in text]
    return (renamed or modules or [""])[0]
