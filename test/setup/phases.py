"""Runs the tests in phases, nodes last; at the end it names together what has failed in any.

A few tests that fail run once more, alone. What passes then is named too: it is unsteady, most
often because the machine was busy, and worth mending.
"""

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
MOST_AGAIN = 5
"""More failures are no accident."""
NONE_CHOSEN = 5
"""Exit status of pytest where its arguments have chosen other tests."""


def main() -> int:
    """Exit status: 0 if all that ran has passed, 1 if not."""
    print(f"Tests of {len(PHASES)} phases; this takes {LASTS}", flush=True)
    bad, failed, unsteady = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, marks in PHASES.items():
            print(f"== tests {name}", flush=True)
            report = Path(folder) / f"{name}.xml"
            command = [sys.executable, "-m", "pytest", *SIDE_BY_SIDE, "-m", marks]
            command += [f"--junitxml={report}", *sys.argv[1:]]
            status = subprocess.run(command, check=False).returncode
            found = failures(report)
            is_whole = status == 1 and not sys.argv[1:]  # -x would leave out the others
            if is_whole and 0 < len(found) <= MOST_AGAIN and passes_alone(found):
                unsteady += found
            elif status not in (0, NONE_CHOSEN):
                bad.append(f"{name}: status {status}")
                failed += found
            if status == 2:  # interrupted
                break
    for line in [*bad, *failed, *(f"passed only alone: {one}" for one in unsteady)]:
        print(line, file=sys.stderr)
    return int(bool(bad))


def passes_alone(tests: list[str]) -> bool:
    """Whether tests that have failed beside others pass one after the other."""
    print(f"== once more, alone: {', '.join(tests)}", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", *tests], check=False).returncode == 0


def failures(report: Path) -> list[str]:
    """The tests that a report of pytest in JUnit's format names as failed."""
    if not report.is_file():
        return []
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            module, is_class, rest = case.get("classname", "").partition(".Test")
            path = module.replace(".", os.sep) + ".py" + ("::Test" + rest if is_class else "")
            found.append(f"{path}::{case.get('name')}")
    return found


if __name__ == "__main__":
    sys.exit(main())
