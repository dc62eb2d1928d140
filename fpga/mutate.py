"""Change each `assign` of the RTL once: do the tests and the proofs notice it?

    python fpga/mutate.py FOLDER [MODULE ...]

A change is one operator or one constant; of several it is one drawn by chance, the same in every
run. All changes are in one simulation, each behind a condition, and FOLDER/chosen names the one in
force: it is built once. What is a mere connection is left as it is. Without modules all are
changed, and the table in docs/fpga.md is written. The exit status is 1 where nothing notices a
change, and `UNNOTICED` has no reason for that.
"""

import multiprocessing
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from generate import DOCUMENT, ROOT, place_table

import perception_nodes.backends.qdq  # noqa: F401  once, and not for each change

RTL = ROOT / "fpga" / "rtl"
PROVEN = {path.stem for path in (ROOT / "fpga" / "formal").glob("*.sv")}
MACS = 1024
"""The larger build has all that the smaller one has."""
TESTS = ("test/fpga/test_engine.py", "test/fpga/test_layers.py")
HANGS_S = 1800
UNNOTICED = {
    "drain residual_read": "what is read then belongs to no pixel, or is multiplied by 0",
    "engine fetch_ready": "the queue holds one more, in the register behind its memory",
    "engine m_axi_arcache": "no memory here looks at it",
    "engine m_axi_arprot": "no memory here looks at it",
    "engine m_axi_awcache": "no memory here looks at it",
    "engine m_axi_awprot": "no memory here looks at it",
    "engine reads": "what a bank reads without being asked goes nowhere",
    "engine request_tag[1:0]": "only the tag of weights is looked at",
    "engine request_tag[3]": "only the tag of weights is looked at",
    "reader take": "requests only come a cycle apart",
    "sequencer tile": "the bits above those of a row, which nothing reads",
}
"""Why, by module and signal."""

ASSIGN = re.compile(r"^ *assign\s+(?!unused)([^=;]+?)\s*=\s*([^;]+);", re.MULTILINE)
COMMENT = re.compile(r"//.*")
SIZES = re.compile(r"\[[^][]*\]|\([^()]*\)'|\{\([^()]*\)|\{\d+(?=\{)")
"""Indices, widths and counts: they stay."""
CHANGEABLE = re.compile(r"\d*'[bd]?\d+|&&|\|\||[=!<>]=|<<|>>|[-+<>!?]")
OPERATORS = {
    "&&": "||",
    "||": "&&",
    "==": "!=",
    "!=": "==",
    "<=": "<",
    "<": "<=",
    ">=": ">",
    ">": ">=",
    "<<": ">>",
    ">>": "<<",
    "+": "-",
    "-": "+",
    "!": "",
    "?": "== '0 ?",
}
CHOSEN = """
  function automatic int read_chosen();
    int file, number;
    file = $fopen("{path}", "r");
    void'($fscanf(file, "%d", number));
    $fclose(file);
    return number;
  endfunction
  int chosen = read_chosen();
endpackage
"""


class Mutant(NamedTuple):
    """A changed assignment.

    Attributes:
        module, line, signal: what is assigned, and where.
        begin, end: of its expression in the file.
        old, new: the expression, and the changed one.
        change: for people.
    """

    module: str
    line: int
    signal: str
    begin: int
    end: int
    old: str
    new: str
    change: str


def blank(match: re.Match[str]) -> str:
    """As many spaces."""
    return " " * len(match.group())


def changed(text: str) -> str:
    """An operator or a constant, changed."""
    if text in OPERATORS:
        return OPERATORS[text]
    return text[:-1] + str(int(text[-1]) ^ 1)


def mutants(modules: list[str]) -> list[Mutant]:
    """A mutant of each assignment in which there is anything to change."""
    chance, found = random.Random(1), []
    for path in sorted(RTL.glob("*.sv")):
        text = COMMENT.sub(blank, path.read_text())
        for match in ASSIGN.finditer(text):
            signal, old = match.groups()
            options = list(CHANGEABLE.finditer(SIZES.sub(blank, old)))
            if not options:
                continue
            place = chance.choice(options)
            what, other = place.group(), changed(place.group())
            found.append(
                Mutant(
                    module=path.stem,
                    line=1 + text.count("\n", 0, match.start(2)),
                    signal=signal,
                    begin=match.start(2),
                    end=match.end(2),
                    old=old,
                    new=old[: place.start()] + other + old[place.end() :],
                    change=f"{what} to {other or 'nothing'}",
                )
            )
    return [mutant for mutant in found if not modules or mutant.module in modules]


def write_rtl(folder: Path, changes: dict[int, Mutant], conditional: bool) -> list[Path]:
    """The RTL with changes: in force where conditions say so, or all of them; layout first."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path in sorted(RTL.glob("*.sv"), key=lambda path: (path.stem != "layout", path)):
        text = path.read_text()
        # From the end, so that the places of the others stay right.
        for number, mutant in sorted(changes.items(), reverse=True):
            if mutant.module == path.stem:
                new = mutant.new
                if conditional:
                    new = f"layout::chosen == {number} ? ({mutant.new}) : ({mutant.old})"
                text = text[: mutant.begin] + new + text[mutant.end :]
        if conditional and path.stem == "layout":
            text = text.replace("endpackage\n", CHOSEN.format(path=folder / "chosen"))
        files.append(folder / path.name)
        if not files[-1].is_file() or files[-1].read_text() != text:
            files[-1].write_text(text)
    return files


def make(target: str, folder: Path, files: list[Path]) -> bool:
    """Make a target of fpga.mk in a folder from other RTL; whether that went well."""
    command = ["make", "-s", f"FPGA_BUILD={folder}", f"RTL={' '.join(map(str, files))}"]
    command += ["OPTIMIZE=-O1"]
    with (folder / "make.log").open("w") as log:
        done = subprocess.run([*command, f"{folder}/{target}"], stdout=log, stderr=log, cwd=ROOT)
    return done.returncode == 0


def run_tests(folder: Path) -> None:
    """Run the tests of layers and faults until one fails."""
    os.chdir(ROOT)
    os.environ["FPGA_ENGINES"] = str(folder)
    log = os.open(folder / "tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "first failure"]
    sys.exit(pytest.main([*options, *TESTS]))


def tests_notice(folder: Path) -> bool:
    """Whether the tests fail with the chosen change, or do not end."""
    tests = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder,))
    tests.start()
    tests.join(HANGS_S)
    if tests.is_alive():
        tests.kill()
        tests.join()
    return tests.exitcode != 0


def proofs_notice(folder: Path, number: int, mutant: Mutant) -> bool:
    """Whether the proof of the module fails with the change."""
    files = write_rtl(folder, {number: mutant}, conditional=False)
    target = f"formal/{mutant.module}"
    (folder / target).unlink(missing_ok=True)
    if make(target, folder, files):
        return False
    if "asserted in frame" not in (folder / f"{target}.log").read_text():
        sys.exit(f"the proof of {mutant.module} could not be tried: {folder}/make.log")
    return True


def main() -> int:
    """Try the mutants one by one."""
    folder = Path(sys.argv[1]).resolve()
    found = dict(enumerate(mutants(sys.argv[2:]), 1))
    files = write_rtl(folder, found, conditional=True)
    print(f"{len(found)} changes; building a simulation with all of them, minutes", flush=True)
    (folder / "chosen").write_text("0")
    if not make(f"libengine_{MACS}.so", folder, files):
        sys.exit(f"the simulation could not be built: {folder}/make.log")
    if tests_notice(folder):
        sys.exit(f"the tests fail without any change: {folder}/tests.log")
    counts: dict[str, Counter[str]] = {}
    status = 0
    for number, mutant in found.items():
        (folder / "chosen").write_text(str(number))
        by_tests = tests_notice(folder)
        proven = mutant.module in PROVEN
        by_proof = proven and proofs_notice(folder / "proof", number, mutant)
        notice = [name for name, yes in (("tests", by_tests), ("proof", by_proof)) if yes]
        where = f"fpga/rtl/{mutant.module}.sv:{mutant.line} {mutant.signal}: {mutant.change}"
        reason = UNNOTICED.get(f"{mutant.module} {mutant.signal}", "UNNOTICED")
        print(f"{where}: {' and '.join(notice) or reason}", flush=True)
        counts.setdefault(mutant.module, Counter()).update(["changes", *notice])
        if not notice and f"{mutant.module} {mutant.signal}" not in UNNOTICED:
            status = 1
    lines = [
        "| module | changes | noticed by the tests | by the proof |",
        "| --- | --- | --- | --- |",
    ]
    for module, count in counts.items():
        proof = str(count["proof"]) if module in PROVEN else ""
        lines.append(f"| `{module}` | {count['changes']} | {count['tests']} | {proof} |")
    total = sum(counts.values(), Counter[str]())
    lines.append(f"| all | {total['changes']} | {total['tests']} | {total['proof']} |")
    table = "\n".join(lines)
    print(table)
    if len(sys.argv) == 2:
        DOCUMENT.write_text(place_table(DOCUMENT.read_text(), "mutants", table))
    return status


if __name__ == "__main__":
    sys.exit(main())
