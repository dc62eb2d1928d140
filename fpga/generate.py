"""Write what follows from layout.yaml: the RTL's package, the driver's constants, the tables.

    python fpga/generate.py [--check]

With --check nothing is written; the exit status is 1 where a file is not current.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
LAYOUT = ROOT / "fpga" / "layout.yaml"
PACKAGE = ROOT / "fpga" / "rtl" / "layout.sv"
CONSTANTS = ROOT / "perception_nodes" / "fpga" / "layout.py"
DOCUMENT = ROOT / "docs" / "fpga.md"
ORIGIN = "Generated from fpga/layout.yaml by fpga/generate.py."

Layout = dict[str, Any]


def read_layout() -> Layout:
    """Read layout.yaml; fields of one word must not overlap."""
    layout: Layout = yaml.safe_load(LAYOUT.read_text())
    for name, fields in {**layout["descriptors"], "parameters": layout["parameters"]}.items():
        taken: dict[tuple[int, int], str] = {}
        for field, entry in fields.items():
            word, low, bits = entry["at"]
            for bit in range(low, low + bits):
                other = taken.setdefault((word, bit), field)
                if other != field or bit > 31:
                    raise ValueError(f"{name}: {field} takes bit {bit} of word {word} ({other})")
    return layout


def package(layout: Layout) -> str:
    """The SystemVerilog package."""
    lines = [
        f"// {ORIGIN}",
        "",
        "// Not every name is used by the RTL.",
        "/* verilator lint_off UNUSEDPARAM */",
    ]
    lines += ["package layout;", ""]
    lines.append(f"  localparam logic [7:0] VERSION = 8'd{layout['version']};")
    lines += [
        f"  localparam int unsigned {name} = {entry['value']};  // {entry['about']}"
        for name, entry in layout["constants"].items()
    ]
    for kind, bits in (("opcodes", 8), ("activations", 2)):
        lines += [""] + [
            f"  localparam logic [{bits - 1}:0] {kind[:-1].upper()}_{name} = {bits}'d{value};"
            for name, value in layout[kind].items()
        ]
    lines += [""] + [
        f"  localparam logic [7:0] CAUSE_{name} = 8'd{entry['value']};"
        for name, entry in layout["causes"].items()
    ]
    lines += [""] + [
        f"  localparam logic [7:0] REG_{name} = 8'h{entry['offset']:02X};"
        for name, entry in layout["registers"].items()
    ]
    lines += ["", "  // Low bit of every field of a 512-bit descriptor."]
    for opcode, fields in layout["descriptors"].items():
        for field, entry in fields.items():
            word, low, _ = entry["at"]
            name = f"{opcode}_{field.upper()}"
            lines.append(f"  localparam int unsigned {name} = {32 * word + low};")
    lines += ["", "  // The same in the last 128 bits of a parameter record."]
    for field, entry in layout["parameters"].items():
        word, low, _ = entry["at"]
        if word >= 32:
            name = f"PARAMETER_{field.upper()}"
            lines.append(f"  localparam int unsigned {name} = {32 * (word - 32) + low};")
    return "\n".join([*lines, "", "endpackage", "/* verilator lint_on UNUSEDPARAM */", ""])


def constants(layout: Layout) -> str:
    """The Python module."""
    lines = [
        '"""The engine\'s registers, descriptors, parameter records and causes.',
        "",
        ORIGIN,
        '"""',
        "",
        "from enum import IntEnum",
        "from typing import NamedTuple",
        "",
        "",
        "class Field(NamedTuple):",
        '    """Bits of a little-endian 32-bit word; an array takes `words` of them."""',
        "",
        "    word: int",
        "    low: int",
        "    bits: int",
        "    words: int = 1",
        "",
        "    @property",
        "    def mask(self) -> int:",
        '        """The field\'s bits, all set."""',
        "        return ((1 << self.bits) - 1) << self.low",
        "",
        "    def of(self, value: int) -> int:",
        '        """The field\'s value in a word."""',
        "        return (value & self.mask) >> self.low",
        "",
        "",
        f"VERSION = {layout['version']}",
    ]
    lines += [f"{name} = {entry['value']}" for name, entry in layout["constants"].items()]
    enums = {
        "Opcode": ("What a descriptor asks for.", layout["opcodes"]),
        "Activation": ("What follows a convolution.", layout["activations"]),
        "Cause": (
            "Why a frame was abandoned.",
            {name: entry["value"] for name, entry in layout["causes"].items()},
        ),
        "Register": (
            "Byte offsets of the registers.",
            {name: entry["offset"] for name, entry in layout["registers"].items()},
        ),
    }
    for name, (about, members) in enums.items():
        lines += ["", "", f"class {name}(IntEnum):", f'    """{about}"""', ""]
        form = "0x{:02X}" if name == "Register" else "{}"
        lines += [f"    {member} = {form.format(value)}" for member, value in members.items()]
    lines += ["", "", "CAUSES: dict[int, str] = {"]
    lines += [f'    {e["value"]}: "{e["about"]}",' for e in layout["causes"].values()]
    lines += ["}"]
    tables = {
        **{
            f"{name}_FIELDS": {field: [0, *f["at"]] for field, f in entry["fields"].items()}
            for name, entry in layout["registers"].items()
            if "fields" in entry
        },
        **{
            f"{name}_FIELDS": {field: f["at"] for field, f in fields.items()}
            for name, fields in layout["descriptors"].items()
        },
        "PARAMETER_FIELDS": {
            field: [*f["at"], *([f["count"]] if "count" in f else [])]
            for field, f in layout["parameters"].items()
        },
    }
    for name, fields in tables.items():
        lines += ["", f"{name}: dict[str, Field] = {{"]
        lines += [
            f'    "{field}": Field({", ".join(map(str, at))}),' for field, at in fields.items()
        ]
        lines += ["}"]
    return "\n".join([*lines, ""])


def _bits(low: int, bits: int) -> str:
    return str(low) if bits == 1 else f"{low + bits - 1}:{low}"


def tables(layout: Layout) -> dict[str, str]:
    """The tables of the documentation, by the name of their place."""
    registers = ["| Offset | Register | Bits | Access | Meaning |", "|---|---|---|---|---|"]
    for name, entry in layout["registers"].items():
        offset = f"0x{entry['offset']:02X}"
        registers.append(f"| {offset} | `{name}` | | {entry['access']} | {entry['about']} |")
        for field, f in entry.get("fields", {}).items():
            registers.append(f"| | `{field}` | {_bits(*f['at'])} | | {f['about']} |")
    causes = ["| Cause | Name | Meaning |", "|---|---|---|"]
    causes += [f"| {e['value']} | `{n}` | {e['about']} |" for n, e in layout["causes"].items()]
    found = {"registers": registers, "causes": causes}
    places = {**layout["descriptors"], "PARAMETERS": layout["parameters"]}
    for name, fields in places.items():
        rows = ["| Word | Bits | Field | Meaning |", "|---|---|---|---|"]
        for field, entry in fields.items():
            word, low, bits = entry["at"]
            count = entry.get("count", 1)
            words = str(word) if count == 1 else f"{word} to {word + count - 1}"
            rows.append(f"| {words} | {_bits(low, bits)} | `{field}` | {entry['about']} |")
        found[name.lower()] = rows
    return {name: "\n".join(rows) for name, rows in found.items()}


def place_table(text: str, name: str, table: str) -> str:
    """The documentation with one generated table renewed."""
    begin, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
    head, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{DOCUMENT} has no place {begin} ... {end}")
    return f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def document(layout: Layout, text: str) -> str:
    """The documentation with its generated tables renewed."""
    for name, table in tables(layout).items():
        text = place_table(text, name, table)
    return text


def main() -> int:
    """Write the files, or tell which are not current."""
    layout = read_layout()
    files = {
        PACKAGE: package(layout),
        CONSTANTS: constants(layout),
        DOCUMENT: document(layout, DOCUMENT.read_text()),
    }
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not current: run python fpga/generate.py")
        return int(bool(stale))
    for path in stale:
        path.write_text(files[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
