"""Tell which branches of the RTL the tests have run.

    python fpga/sim/coverage.py FOLDER [--least PERCENT]

FOLDER has the counters that Verilator's coverage wrote (*.dat). A branch is one place in a file,
in whatever instances and parameters; those never run are listed.
"""

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path

POINT = re.compile(r"C '(?P<facts>.*)' (?P<count>\d+)$")


def read(folder: Path) -> dict[tuple[str, int, str], int]:
    """How often each branch was run, by file, line and kind."""
    counts: dict[tuple[str, int, str], int] = defaultdict(int)
    for path in sorted(folder.glob("*.dat")):
        for line in path.read_text(errors="replace").splitlines():
            found = POINT.match(line)
            if not found:
                continue
            facts = dict(part.split("\x02", 1) for part in found["facts"].split("\x01") if part)
            if facts["page"].startswith("v_branch"):
                place = (Path(facts["f"]).name, int(facts["l"]), facts["o"])
                counts[place] += int(found["count"])
    return counts


def main() -> int:
    """Print a table and what was never run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--least", type=float, default=0.0, help="percent that must be run")
    arguments = parser.parse_args()
    counts = read(arguments.folder)
    if not counts:
        sys.exit(f"{arguments.folder} has no counters of branches")
    print(f"{'file':24}{'branches':>10}{'run':>8}")
    for name in sorted({file for file, _, _ in counts}):
        values = [count for (file, _, _), count in counts.items() if file == name]
        print(f"{name:24}{len(values):10}{sum(map(bool, values)):8}")
    run = sum(map(bool, counts.values()))
    percent = 100 * run / len(counts)
    print(f"{'all':24}{len(counts):10}{run:8}  {percent:.1f} %")
    for (file, line, kind), count in sorted(counts.items()):
        if not count:
            print(f"never run: fpga/rtl/{file}:{line} {kind}")
    return int(percent < arguments.least)


if __name__ == "__main__":
    sys.exit(main())
