"""Place and route parts of the engine with open tools, and write the table into docs/fpga.md.

    python fpga/place_and_route.py FOLDER [PART ...]

Each part is synthesized for an ECP5 (`synth_ecp5`) and placed and routed alone by nextpnr, on an
85F of speed grade 8, with a register before each input and behind each output, so that every path
of it lies between registers. That does not tell what clock a K26 reaches; it tells which paths are
the longest, and whether a change has made them longer. The exit status is 1 where a clock is below
its floor. Where parts are named, only those are done and no table is written.
"""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from generate import DOCUMENT, ROOT, place_table

RTL = ROOT / "fpga" / "rtl"
SEEDS = (1,)
"""Of the placement; the best one counts. One alone scatters by a tenth."""
FLOORS_MHZ = {
    "accumulators": 135,
    "fetch": 165,
    "image_loader": 125,
    "mac_pair": 125,
    "reader": 185,
    "registers": 160,
    "requantize": 125,
    "sequencer": 185,
    "source": 165,
    "streamer": 155,
    "weights": 135,
    "writer": 125,
}
"""The parts, and what each must reach: a tenth less than it does."""


class Result(NamedTuple):
    """What came out of a part.

    Attributes:
        mhz: highest clock.
        levels: LUTs, carry chains and multipliers one behind the other on the longest path.
        path: the registers between which that lies.
        luts, registers: how many there are.
    """

    mhz: float
    levels: int
    path: str
    luts: int
    registers: int


def run(log: Path, *command: str) -> None:
    """Run a tool, with all that it says in a log."""
    with log.open("w") as file:
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"{command[0]} failed: {log}")


def registered(part: str, ports: dict[str, Any]) -> str:
    """Verilog of a module with the part, and a register at each port of it."""
    widths = {"input": 0, "output": 0}
    connections = [".clk(clk)"]
    for name, port in ports.items():
        if name != "clk":
            way, bits = port["direction"], len(port["bits"])
            inner = "held" if way == "input" else "made"
            connections.append(f".{name}({inner}[{widths[way]} +: {bits}])")
            widths[way] += bits
    return f"""
module registered(
    input clk, input [{widths["input"]}-1:0] in, output reg [{widths["output"]}-1:0] out
);
  reg [{widths["input"]}-1:0] held;
  wire [{widths["output"]}-1:0] made;
  always @(posedge clk) begin held <= in; out <= made; end
  {part} part({", ".join(connections)});
endmodule
"""


def synthesize(part: str, folder: Path) -> Path:
    """The netlist of a part with its registers."""
    files = [RTL / "layout.sv", *sorted(set(RTL.glob("*.sv")) - {RTL / "layout.sv"})]
    read = f"read_verilog -sv {' '.join(map(str, files))}"
    ports, wrapper, netlist = (folder / f"{part}{end}" for end in (".ports", ".v", ".json"))
    script = f"{read}; hierarchy -top {part}; proc; write_json {ports}"
    run(folder / f"{part}.ports.log", "yosys", "-p", script)
    wrapper.write_text(registered(part, json.loads(ports.read_text())["modules"][part]["ports"]))
    script = f"{read} {wrapper}; synth_ecp5 -top registered -json {netlist}"
    run(folder / f"{part}.yosys.log", "yosys", "-p", script)
    return netlist


def place_and_route(part: str, folder: Path) -> Result:
    """The best placement of a part."""
    netlist = synthesize(part, folder)
    results = []
    for seed in SEEDS:
        report = folder / f"{part}.{seed}.report"
        run(
            folder / f"{part}.{seed}.nextpnr.log",
            *("nextpnr-ecp5", "--85k", "--speed", "8", "--out-of-context", "--freq", "250"),
            *("--timing-allow-fail", "--seed", str(seed), "--json", str(netlist)),
            *("--report", str(report)),
        )
        results.append(read_report(json.loads(report.read_text())))
    return max(results, key=lambda result: result.mhz)


def read_report(report: dict[str, Any]) -> Result:
    """The figures of a report of nextpnr."""
    ((clock, fmax),) = report["fmax"].items()
    (path,) = (
        entry["path"]
        for entry in report["critical_paths"]
        if entry["from"] == entry["to"] == f"posedge {clock}"
    )
    # Within a carry chain the way from one cell to the next takes no time.
    levels = sum(
        step["type"] == "logic" and way["delay"] > 0
        for way, step in zip(path, path[1:], strict=False)
    )
    ends = " to ".join(f"`{plain(step['to']['cell'])}`" for step in (path[0], path[-1]))
    used = {kind: count["used"] for kind, count in report["utilization"].items()}
    return Result(fmax["achieved"], levels, ends, used["TRELLIS_COMB"], used["TRELLIS_FF"])


def plain(cell: str) -> str:
    """A register's name without what the tools put to it."""
    return re.sub(r"_(TRELLIS|LUT4|CCU2C|PFUMX|L6MUX|MULT18|DP16).*", "", cell).removeprefix(
        "part."
    )


def main() -> int:
    """Place and route the parts, two at a time; check them; write the table."""
    folder, parts = Path(sys.argv[1]), sys.argv[2:] or list(FLOORS_MHZ)
    folder.mkdir(parents=True, exist_ok=True)
    status = 0
    lines = [
        "| part | clock | levels | longest path | LUT | FF |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda part: place_and_route(part, folder), parts)
        for part, found in zip(parts, results, strict=True):
            cells = [f"`{part}`", f"{found.mhz:.0f} MHz", str(found.levels), found.path]
            cells += [f"{found.luts:,}", f"{found.registers:,}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
            if found.mhz < FLOORS_MHZ[part]:
                print(f"{part}: {found.mhz:.0f} MHz, at least {FLOORS_MHZ[part]} are wanted")
                status = 1
    if parts == list(FLOORS_MHZ):
        table = "\n".join(lines)
        DOCUMENT.write_text(place_table(DOCUMENT.read_text(), "place and route", table))
    return status


if __name__ == "__main__":
    sys.exit(main())
