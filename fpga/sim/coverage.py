"""Tell which branches of the RTL the tests have run, and which bits of its signals they changed.

    python fpga/sim/coverage.py FOLDER ... [--least PERCENT]

FOLDER has the counters that Verilator's coverage wrote (*.dat). A branch is one place in a file,
a bit one of a signal there, in whatever instances and parameters; those never run or changed are
listed.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

POINT = re.compile(r"C '(?P<facts>.*)' (?P<count>\d+)$")
BIT = re.compile(r"(?P<signal>.*?)(\[(?P<bit>\d+)\])?$")
KINDS = {"v_branch": "branches", "v_toggle": "bits"}
Place = tuple[str, int, str]


def read(folders: Iterable[Path]) -> dict[str, Counter[Place]]:
    """How often each branch and bit was run or changed, by kind, file, line and name."""
    counts: dict[str, Counter[Place]] = defaultdict(Counter)
    for path in sorted(path for folder in folders for path in folder.glob("*.dat")):
        for line in path.read_text(errors="replace").splitlines():
            found = POINT.match(line)
            if not found:
                continue
            facts = dict(part.split("\x02", 1) for part in found["facts"].split("\x01") if part)
            kind = KINDS.get(facts["page"].split("/")[0])
            if kind:
                place = (Path(facts["f"]).name, int(facts["l"]), facts["o"])
                counts[kind][place] += int(found["count"])
    return counts


def signals(bits: Iterable[Place]) -> list[str]:
    """Bits by their signals, for people."""
    found: dict[Place, list[int]] = defaultdict(list)
    for file, line, name in bits:
        match = BIT.match(name)
        assert match
        found[file, line, match["signal"]] += [int(match["bit"])] if match["bit"] else []
    return [
        f"fpga/rtl/{file}:{line} {signal} {' '.join(map(str, sorted(indices)))}".rstrip()
        for (file, line, signal), indices in sorted(found.items())
    ]


def main() -> int:
    """Print a table, and what was never run or changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--least", type=float, default=0.0, help="percent of the branches")
    arguments = parser.parse_args()
    counts = read(arguments.folders)
    if "branches" not in counts:
        sys.exit("there are no counters of branches")
    files = sorted({file for places in counts.values() for file, _, _ in places})
    print(f"{'file':24}{'branches':>10}{'run':>8}{'bits':>10}{'changed':>9}")
    for name in [*files, "all"]:
        cells = f"{name:24}"
        for kind, width in (("branches", 8), ("bits", 9)):
            values = [n for (file, _, _), n in counts[kind].items() if name in (file, "all")]
            cells += f"{len(values):10}{sum(map(bool, values)):{width}}"
        print(cells)
    never = {kind: [place for place, n in counts[kind].items() if not n] for kind in counts}
    for file, line, kind in sorted(never["branches"]):
        print(f"never run: fpga/rtl/{file}:{line} {kind}")
    for signal in signals(never.get("bits", [])):
        print(f"never changed: {signal}")
    run = 1 - len(never["branches"]) / len(counts["branches"])
    return int(100 * run < arguments.least)


if __name__ == "__main__":
    sys.exit(main())
