"""The GPU's clocks while something is measured, as nvidia-smi tells them once a second.

A card that idles between frames runs slower than in a tight loop, and a hot one slower than a cold
one: a duration without the clock that it was taken at says little.
"""

import csv
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NUMBERS = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
}
WORDS = {"state": "pstate", "limited_by": "clocks_throttle_reasons.active"}
PERIOD_MS = 1000


@contextmanager
def clocks() -> Iterator[dict[str, Any]]:
    """Log the clocks during the block; the result is filled when the block ends.

    Yields:
        By number of the GPU: least, median and greatest of each of `NUMBERS`, and the different
        values of each of `WORDS`. Empty if nvidia-smi is not there or knows nothing.
    """
    found: dict[str, Any] = {}
    program = shutil.which("nvidia-smi")
    if program is None:
        yield found
        return
    query = ",".join(["index", *NUMBERS.values(), *WORDS.values()])
    command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    process = subprocess.Popen(
        [*command, f"--loop-ms={PERIOD_MS}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield found
    finally:
        process.terminate()
        text, _ = process.communicate()
        found.update(summary(text))


def summary(text: str) -> dict[str, Any]:
    """Sum up what nvidia-smi has written; see `clocks`. What is no number is left out."""
    columns = ["index", *NUMBERS, *WORDS]
    rows = [
        dict(zip(columns, map(str.strip, row), strict=True))
        for row in csv.reader(text.splitlines())
        if len(row) == len(columns)
    ]
    found: dict[str, Any] = {}
    for index in sorted({row["index"] for row in rows}):
        of_gpu = [row for row in rows if row["index"] == index]
        entry = found[index] = {name: sorted({row[name] for row in of_gpu}) for name in WORDS}
        for name in NUMBERS:
            values = sorted(filter(None, (_number(row[name]) for row in of_gpu)))
            if values:
                entry[name] = [values[0], statistics.median(values), values[-1]]
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A]
        return None
