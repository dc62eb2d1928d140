"""A few of the checks under NVIDIA's compute-sanitizer, which sees races and wild addresses."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "synccheck")
CLEAN = "no errors"
FOUND = 3
"""Exit status when the tool has found something."""


def sanitize(progress: Callable[[int, int], None]) -> dict[str, str]:
    """Run the checks under each tool.

    Returns:
        For each tool `CLEAN`, or what it says; empty if compute-sanitizer is not installed.
    """
    program, found = shutil.which("compute-sanitizer"), {}
    for number, tool in enumerate(TOOLS if program else (), 1):
        command = [str(program), "--tool", tool, "--error-exitcode", str(FOUND), sys.executable]
        command += [str(Path(__file__).with_name("gpu.py")), "--check", "--few"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).strip().splitlines()
        found[tool] = said[-1] if done.returncode and said else CLEAN
        progress(number, len(TOOLS))
    return found
