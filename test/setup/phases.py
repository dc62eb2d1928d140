"""Runs the tests in phases, nodes last; at the end it names together what has failed in any."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

SIDE_BY_SIDE = ["-n", "2", "--dist", "loadfile"]
PHASES = {
    "without nodes": "not (ros or slow or stream or browser)",
    "with nodes": "ros and not (slow or stream or browser)",
}
LASTS = "about 12 minutes on two quiet cores, and ten times as long on a busy machine"
NONE_CHOSEN = 5
"""Exit status of pytest where its arguments have chosen other tests."""


def main() -> int:
    """Exit status: 0 if all that ran has passed, 1 if not."""
    print(f"Tests of {len(PHASES)} phases; this takes {LASTS}", flush=True)
    bad, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, marks in PHASES.items():
            print(f"== tests {name}", flush=True)
            report = Path(folder) / f"{name}.xml"
            command = [sys.executable, "-m", "pytest", *SIDE_BY_SIDE, "-m", marks]
            command += [f"--junitxml={report}", *sys.argv[1:]]
            status = subprocess.run(command, check=False).returncode
            if status not in (0, NONE_CHOSEN):
                bad.append(f"{name}: status {status}")
                failed += failures(report)
            if status == 2:  # interrupted
                break
    for line in [*bad, *failed]:
        print(line, file=sys.stderr)
    return int(bool(bad))


def failures(report: Path) -> list[str]:
    """The tests that a report of pytest in JUnit's format names as failed."""
    if not report.is_file():
        return []
    cases = ElementTree.parse(report).iter("testcase")
    return [
        f"  {case.get('classname', '').replace('.', os.sep)}.py::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


if __name__ == "__main__":
    sys.exit(main())
