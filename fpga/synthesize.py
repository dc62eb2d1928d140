"""Estimate with yosys what the engine takes of a K26, and write the table into docs/fpga.md.

    python fpga/synthesize.py FOLDER

Each module is synthesized once (`synth_xilinx -family xcup`, hierarchy kept) and counted as often
as it is there. yosys puts no registers and adders into DSP blocks of this family and no output
registers into URAM, as Vivado does: registers and LUTs are upper bounds. The exit status is 1
where a ceiling is exceeded.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from generate import DOCUMENT, ROOT, place_table

RTL = ROOT / "fpga" / "rtl"
BUILDS = {512: 2, 1024: 4}
"""Blocks by MACs."""
AVAILABLE = {"DSP": 1248, "LUT": 117_120, "FF": 234_240, "URAM": 64, "BRAM": 144}
CEILINGS = {"DSP": 0.9, "LUT": 0.7, "FF": 0.7, "URAM": 0.9, "BRAM": 0.9}
"""Of what the K26 has; beyond them a placement at the target clock is not to be expected."""
LOGIC_LUTS = re.compile(r"LUT\d$|INV$")
WEIGHTS: dict[str, tuple[str, float]] = {
    "DSP48E2": ("DSP", 1),
    "URAM288": ("URAM", 1),
    "RAMB36E2": ("BRAM", 1),
    "RAMB18E2": ("BRAM", 0.5),
    "FDRE": ("FF", 1),
    "FDSE": ("FF", 1),
    "FDCE": ("FF", 1),
    "FDPE": ("FF", 1),
    "SRL16E": ("LUT", 1),
    "SRLC32E": ("LUT", 1),
    "RAM32M16": ("LUT", 8),
    "RAM64M8": ("LUT", 8),
    "RAM32M": ("LUT", 4),
}
FREE = re.compile(r"CARRY\d|MUXF\d|BUFG|VCC|GND|IBUF|OBUF")


class Design:
    """The cells of every module, as yosys counts them."""

    def __init__(self, statistics: dict[str, Any]) -> None:
        self._modules = {
            name: entry["num_cells_by_type"] for name, entry in statistics["modules"].items()
        }
        self.top = next(name for name in self._modules if plain(name) == "engine")

    def totals(self, module: str) -> Counter[str]:
        """What a module takes with all within it."""
        found: Counter[str] = Counter()
        for cell, count in self._modules[module].items():
            name = cell if cell in self._modules else "\\" + cell
            if name in self._modules:
                for kind, amount in self.totals(name).items():
                    found[kind] += count * amount
            elif cell in WEIGHTS:
                kind, weight = WEIGHTS[cell]
                found[kind] += count * weight
            elif LOGIC_LUTS.match(cell):
                found["LUT"] += count
            elif not FREE.match(cell):
                raise ValueError(f"{module} has {count} cells {cell}, of an unknown cost")
        return found

    def parts(self) -> list[tuple[str, int, Counter[str]]]:
        """What the top module is made of: name, how many, all of them together."""
        parts = []
        left = self.totals(self.top)
        for cell, count in self._modules[self.top].items():
            name = cell if cell in self._modules else "\\" + cell
            if name not in self._modules:
                continue
            total = Counter({kind: count * n for kind, n in self.totals(name).items()})
            left.subtract(total)
            parts.append((plain(name), count, total))
        named = [part for part in parts if part[0] != "delay"]
        for _, _, total in (part for part in parts if part[0] == "delay"):
            left.update(total)
        named.sort(key=lambda part: (-part[2]["LUT"], part[0]))
        return [*named, ("engine itself", 1, left)]


def plain(name: str) -> str:
    """A module's name without what yosys adds for its parameters."""
    return re.sub(r"^\$paramod(\$[0-9a-f]+)?", "", name).split("\\")[1]


def synthesize(macs: int, folder: Path) -> Design:
    """Run yosys."""
    files = [RTL / "layout.sv", *sorted(set(RTL.glob("*.sv")) - {RTL / "layout.sv"})]
    statistics = folder / f"engine_{macs}.json"
    script = (
        f"read_verilog -sv {' '.join(map(str, files))}; "
        f"chparam -set BLOCKS {BUILDS[macs]} engine; "
        "hierarchy -check -top engine; proc; check -assert; "
        "synth_xilinx -family xcup -top engine -noiopad -noclkbuf; "
        f"check -assert; tee -q -o {statistics} stat -json"
    )
    log = folder / f"engine_{macs}.log"
    print(f"Synthesizing the build of {macs} MACs, one to three minutes; log: {log}", flush=True)
    result = subprocess.run(["yosys", "-q", "-l", str(log), "-p", script], capture_output=True)
    if result.returncode:
        sys.exit(f"yosys failed: {result.stderr.decode()[-2000:]}")
    latches = re.search(r"\$_DLATCH|LDCE|LDPE", statistics.read_text())
    if latches:
        sys.exit(f"the build of {macs} MACs has latches ({latches.group()})")
    return Design(json.loads(statistics.read_text()))


def row(cells: list[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Synthesize both builds, write the table, check the ceilings."""
    folder = Path(sys.argv[1])
    kinds = list(AVAILABLE)
    lines, status = [], 0
    for macs in BUILDS:
        design = synthesize(macs, folder)
        total = design.totals(design.top)
        lines += [row([f"**{macs} MACs**", "count", *kinds]), row(["---"] * (2 + len(kinds)))]
        for name, count, found in design.parts():
            amounts = [f"{found[kind]:,.0f}" for kind in kinds]
            lines.append(row([f"`{name}`", str(count), *amounts]))
        lines.append(row(["all", "", *(f"{total[kind]:,.0f}" for kind in kinds)]))
        shares = {kind: total[kind] / AVAILABLE[kind] for kind in kinds}
        lines.append(row(["of a K26", "", *(f"{100 * shares[kind]:.1f} %" for kind in kinds)]))
        lines.append("")
        for kind, share in shares.items():
            if share > CEILINGS[kind]:
                print(f"{macs} MACs: {kind} at {share:.1%}, ceiling {CEILINGS[kind]:.0%}")
                status = 1
    table = "\n".join(lines[:-1])
    print(table)
    DOCUMENT.write_text(place_table(DOCUMENT.read_text(), "synthesis", table))
    return status


if __name__ == "__main__":
    sys.exit(main())
