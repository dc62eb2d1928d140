"""Export a checkpoint as ONNX by the exporter of its kind, in an environment that has its packages.

Run it as ``python -I environment.py FOLDER CHECKPOINT ONNX [WIDTHxHEIGHT]``. FOLDER gets the
environment, unless this Python has the packages itself, as after ``make compression``. What makes a
checkpoint unusable is printed to standard output, and all that people are told to standard error.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parents[1] / "requirements"
EXPORTERS = {
    ".pt": ("of_ultralytics.py", "ultralytics", "torch", "onnx"),
    ".safetensors": ("of_transformers.py", "transformers", "torch", "timm", "onnx"),
}
"""By the ending of a checkpoint: the program that exports it, and the packages that it needs."""
DESCRIPTION = "config.json"
"""Lies beside weights that do not say of what they are."""
NEEDED_BYTES = 2_300_000_000
"""Room for the environment with PyTorch for processors, and for what pip unpacks meanwhile."""
UNUSABLE = 2
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PART = ".part-"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class CannotBeMade(Exception):
    """There is no environment; the text says why and what to do."""


def main() -> int:
    """Return the exit status: that of the exporter, if there is one."""
    folder, checkpoint, *rest = Path(sys.argv[1]), *sys.argv[2:]
    ending, beside = Path(checkpoint).suffix.lower(), Path(checkpoint).with_name(DESCRIPTION)
    exporter, *packages = EXPORTERS[ending]
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if ending == ".safetensors" and not beside.is_file():
        print(
            f"{checkpoint} has weights alone, and {beside}, which says of what, is not there; take "
            "the whole folder of the network, or export it to ONNX where it was trained"
        )
        return UNUSABLE
    try:
        has_all = all(map(importlib.util.find_spec, packages))
        python = sys.executable if has_all else made_in(folder)
        with nullcontext() if has_all else locked(folder, fcntl.LOCK_SH), scratch(None) as settings:
            # These tools would install packages, ask a hub, and write settings into the home.
            quiet = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}
            places = dict.fromkeys(("YOLO_CONFIG_DIR", "MPLCONFIGDIR", "HF_HOME"), str(settings))
            command = [python, "-I", HERE / exporter, checkpoint, *rest]
            status = run(*command, **quiet, **places)
            return 128 - status if status < 0 else status
    except (CannotBeMade, OSError) as problem:
        print(problem)
        return UNUSABLE


def made_in(folder: Path) -> str:
    """Python of the environment in a folder, which is made where it is missing or out of date.

    Raises:
        CannotBeMade: there is no room, no module `venv`, or pip fails.
    """
    lists = HERE / "requirements.txt", REQUIREMENTS / "baseline-no-deps.txt"
    known = [path.read_bytes() for path in (*lists, REQUIREMENTS / "baseline.txt")]
    wanted = hashlib.sha256(b"\0".join([sys.version.encode(), *known])).hexdigest()[:12]
    place = folder / f"{PYTHON}-{wanted}"
    python = place / "bin/python"
    if python.exists():
        return str(python)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, fcntl.LOCK_EX):
        if not python.exists():  # another import may have made it meanwhile
            for stale in folder.glob(f"{PART}*"):  # of a command that was killed
                shutil.rmtree(stale)
            make(place, lists)
    return str(python)


def make(place: Path, lists: tuple[Path, Path]) -> None:
    """Make an environment, and remove older ones of the same Python.

    Args:
        place: its folder.
        lists: what pip installs, and what it installs without what that depends on.

    Raises:
        CannotBeMade: there is no room, no module `venv`, or pip fails.
    """
    folder = place.parent
    free = shutil.disk_usage(folder).free
    say(
        f"Making an environment for PyTorch, ultralytics and transformers in {folder}, once: it "
        "has 1.7 GB, and several where pip finds PyTorch for GPUs alone. Ctrl-C stops it, and "
        "leaves nothing"
    )
    if free < NEEDED_BYTES:
        raise CannotBeMade(
            f"{folder} has {free / 1e9:.1f} GB free, and the environment that reads a checkpoint "
            f"needs {NEEDED_BYTES / 1e9:.1f}; make room, name another folder with $XDG_CACHE_HOME, "
            "or export it to ONNX where it was trained"
        )
    with scratch(folder) as staging:
        need("venv", sys.executable, "-I", "-m", "venv", staging / "made")
        inside = staging / "made/bin/python"
        # pip keeps what it unpacks in the staging folder, which is removed whatever happens.
        install = inside, "-I", "-m", "pip", "--no-input", "install", "--no-cache-dir"
        need("pip", *install, "-r", lists[0], TMPDIR=str(staging))
        need("pip", *install, "--no-deps", "-r", lists[1], TMPDIR=str(staging))
        for older in folder.glob(f"{PYTHON}-*"):
            shutil.rmtree(older)
        (staging / "made").rename(place)


@contextmanager
def locked(folder: Path, kind: int) -> Iterator[None]:
    """Hold a lock of a folder, so that no import removes what another one uses or makes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another import, which uses {folder}")
            fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder that is removed at the end, in another one or among temporary files."""
    with tempfile.TemporaryDirectory(prefix=PART, dir=folder, ignore_cleanup_errors=True) as name:
        yield Path(name)


def run(*command: str | Path, stdout: int | None = None, **environment: str) -> int:
    """Run a program that ends when we do; its exit status."""
    return subprocess.run(
        command,
        stdout=stdout,
        env={**os.environ, **environment},
        preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    ).returncode


def need(tool: str, *command: str | Path, **environment: str) -> None:
    """Run a tool, whose messages are for people.

    Raises:
        CannotBeMade: it fails.
    """
    if run(*command, stdout=2, **environment):
        remedy = {"venv": "install it (Debian: python3-venv)", "pip": "it says why above"}[tool]
        raise CannotBeMade(
            f"the environment that reads a checkpoint cannot be made, for {tool} fails: {remedy}; "
            "or export the checkpoint to ONNX where it was trained"
        )


def say(text: str) -> None:
    """Tell people."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
