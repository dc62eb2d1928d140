"""Print the lines of code of each room, and fail where one exceeds its budget in CONTRIBUTING.md.

A line of code is no blank, no comment and no docstring. Only files that git tracks count.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NO_CODE = "COMMENT DEDENT ENDMARKER INDENT NEWLINE NL"
NO_CODE = {getattr(tokenize, name) for name in _NO_CODE.split()}
WITHOUT_BUDGET = ("perception_nodes/fpga", "test/fpga")


def lines_of_code(source: str) -> int:
    """Count the lines of a Python file that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for item in body if isinstance(body, list) else []:
            if isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant):
                if isinstance(item.value.value, str):
                    lines -= set(range(item.lineno, (item.end_lineno or item.lineno) + 1))
    return len(lines)


def rooms(root: Path = ROOT) -> Counter[str]:
    """Count the lines of code by room, such as `test/core`; files beside the rooms by tree."""
    tracked = ["git", "ls-files", "perception_nodes/*.py", "test/*.py"]
    names = subprocess.run(tracked, cwd=root, check=True, capture_output=True, text=True).stdout
    count: Counter[str] = Counter()
    for name in names.splitlines():
        count["/".join(name.split("/")[:-1][:2])] += lines_of_code((root / name).read_text())
    return count


def budgets(contributing: str) -> dict[str, int]:
    """Read the rows `| room | lines |` of the table of budgets."""
    row = re.compile(r"^\| `((?:perception_nodes|test)/?\w*)/?` \| ([\d,]+) \|", re.M)
    return {room: int(lines.replace(",", "")) for room, lines in row.findall(contributing)}


def main() -> int:
    """Print a row a room; return 1 where a room has no budget or exceeds it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="print only what breaks a budget")
    check = parser.parse_args().check
    allowed, failures = budgets((ROOT / "CONTRIBUTING.md").read_text()), []
    count = rooms()
    counted = {room: lines for room, lines in count.items() if room not in WITHOUT_BUDGET}
    for tree in ("perception_nodes", "test"):
        count[tree] = sum(n for room, n in counted.items() if room.split("/")[0] == tree)
    for room, lines in count.most_common():
        if not check:
            print(f"{lines:7,} of {allowed.get(room, 0):7,}  {room}")
        if room not in WITHOUT_BUDGET and lines > allowed.get(room, 0):
            failures.append(f"{room}: {lines} lines of code, budget {allowed.get(room, 'none')}")
    if failures:
        failures.append("Make it smaller, or raise the budget in CONTRIBUTING.md and say why")
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
