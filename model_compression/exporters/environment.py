"""Export a checkpoint as ONNX by the exporter of its kind, in an environment that has its packages.

Run it as ``python -I environment.py FOLDER CHECKPOINT ONNX [WIDTHxHEIGHT]``. FOLDER gets the
environment, unless this Python has the packages itself, as after ``make compression``. What makes a
checkpoint unusable is printed to standard output, and all that people are told to standard error.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parents[1] / "requirements"
EXPORTERS = {
    ".pt": ("ultralytics", "of_ultralytics.py"),
    ".safetensors": ("transformers", "of_transformers.py"),
}
"""By the ending of a checkpoint: the package that reads it, and the program that exports it."""
DESCRIPTION = "config.json"
"""Lies beside weights that do not say of what they are."""
NEEDED_BYTES = 2_300_000_000
"""Room for the environment with PyTorch for processors, and for what pip unpacks meanwhile."""
UNUSABLE = 2


class CannotBeMade(Exception):
    """There is no environment; the text says why and what to do."""


def main() -> int:
    """Return the exit status: that of the exporter, if there is one."""
    folder, checkpoint, *rest = sys.argv[1:]
    ending, beside = Path(checkpoint).suffix.lower(), Path(checkpoint).with_name(DESCRIPTION)
    package, exporter = EXPORTERS[ending]
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if ending == ".safetensors" and not beside.is_file():
        print(
            f"{checkpoint} has weights alone, and {beside}, which says of what, is not there; take "
            "the whole folder of the network, or export it to ONNX where it was trained"
        )
        return UNUSABLE
    try:
        python = sys.executable if importlib.util.find_spec(package) else made_in(Path(folder))
        with scratch(None) as settings:
            # These tools would install packages, ask a hub, and write settings into the home.
            quiet = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}
            places = dict.fromkeys(("YOLO_CONFIG_DIR", "MPLCONFIGDIR", "HF_HOME"), str(settings))
            command = [python, "-I", HERE / exporter, checkpoint, *rest]
            return subprocess.run(command, env={**os.environ, **quiet, **places}).returncode
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
    place = folder / wanted
    python = place / "bin/python"
    if python.exists():
        return str(python)
    folder.mkdir(parents=True, exist_ok=True)
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
        run("venv", sys.executable, "-m", "venv", staging / "made")
        inside = staging / "made/bin/python"
        # pip keeps what it unpacks in the staging folder, which is removed whatever happens.
        install = inside, "-m", "pip", "--no-input", "install", "--no-cache-dir"
        run("pip", *install, "-r", lists[0], TMPDIR=str(staging))
        run("pip", *install, "--no-deps", "-r", lists[1], TMPDIR=str(staging))
        for older in folder.iterdir():
            if older != staging:
                shutil.rmtree(older)
        (staging / "made").rename(place)
    return str(python)


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder that is removed at the end, in another one or among temporary files."""
    with tempfile.TemporaryDirectory(
        prefix=".part-", dir=folder, ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def run(tool: str, *command: str | Path, **environment: str) -> None:
    """Run a tool, whose messages are for people.

    Raises:
        CannotBeMade: it fails.
    """
    if subprocess.run(command, stdout=2, env={**os.environ, **environment}).returncode:
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
