"""The C++ consumer as a process of its own on the real graph, linked with ROS's C library."""

import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import NamedTuple

from perception_nodes.core.health import HealthMode
from perception_nodes.protection.consumer import Content, State

PACKAGE = Path(__file__).parents[2] / "interfaces/perception_consumer"
PREFIX = Path(sys.prefix)
CXX = shutil.which("c++") or shutil.which("g++")
LIBRARIES = ["rcl", "rmw", "rcutils", "perception_interfaces__rosidl_typesupport_c"]
# The wheels' rcl refers to Python's messages, and these to Python.
PYTHON = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))


def why_not() -> str:
    """Why it cannot be built here; empty if it can."""
    if CXX is None:
        return "no C++ compiler"
    return "" if PYTHON.suffix == ".so" and PYTHON.exists() else f"{PYTHON} is no shared library"


def build(folder: Path) -> Path:
    """Compile the listener with all warnings as errors, and with sanitizers."""
    program = folder / "listener"
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-g", "-O1"]
    checked = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    headers = [f"-isystem{path}" for path in (PREFIX / "include").iterdir() if path.is_dir()]
    folders = (str(PREFIX / "lib"), str(PYTHON.parent))
    found = [flag for path in folders for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    linked = ["-Wl,--allow-shlib-undefined,--no-as-needed", f"-l{PYTHON.stem.removeprefix('lib')}"]
    linked += [f"-l{name}" for name in LIBRARIES]
    source = str(PACKAGE / "test/listener.cpp")
    ours = f"-I{PACKAGE / 'include'}"
    subprocess.run(
        [CXX, *strict, *checked, ours, *headers, source, *found, *linked, "-o", str(program)],
        check=True,
    )
    return program


class Line(NamedTuple):
    """A verdict that the listener printed."""

    at_ns: int
    state: State
    mode: HealthMode
    silent_ms: int
    lost: int
    size: int
    reason: str


class Listener:
    """A running listener; `lines` grows."""

    def __init__(self, program: Path, topic: str, sent_as: str, content: Content) -> None:
        words = [str(program), topic, sent_as, str(int(content))]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.lines: list[Line] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            *numbers, reason = text.rstrip("\n").split("\t")
            at_ns, state, mode, *others = map(int, numbers)
            self.lines.append(Line(at_ns, State(state), HealthMode(mode), *others, reason))

    def close(self) -> int | None:
        """End it; its exit status if it has ended by itself, as after an error."""
        ended = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._reader.join()
        return ended
