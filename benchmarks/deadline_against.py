"""Measures the deadline here and in another checkout, in turns: one condition after the other.

    .venv/bin/python benchmarks/deadline_against.py OTHER --html tail.html --frames 900

Other options are those of `perception bench deadline`, for both; without second looks.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from perception_nodes.lab.conditions import CONDITIONS
from perception_nodes.lab.deadline import result_table
from perception_nodes.lab.page import deadline_page

HERE = Path(__file__).parents[1]


def measured(checkout: Path, condition: str, options: list[str]) -> dict:
    """What a checkout measures in a condition."""
    command = [checkout / ".venv/bin/perception", "bench", "deadline", "--conditions", condition]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        # Status 1 is a finding: a frame was lost, or a process grew.
        done = subprocess.run([*command, *options, "--out", file.name], cwd=checkout, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{checkout} could not measure {condition}")
        return json.loads(Path(file.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("other", type=Path, help="a checkout in which `make` was run")
    parser.add_argument("--conditions", default="quiet,one_core,all_cores,memory,disk,build")
    parser.add_argument("--html", type=Path, help="write the page of both here")
    given, options = parser.parse_known_args()
    conditions: dict[str, dict] = {}
    for condition in given.conditions.split(","):
        if condition not in CONDITIONS:
            parser.error(f"condition {condition!r} is unknown")
        for checkout in (HERE, given.other.resolve()):
            found = measured(checkout, condition, options)
            for title, figures in found["conditions"].items():
                name = title if checkout == HERE else f"{checkout.name}: {title}"
                conditions[name] = figures
    result = {**found, "conditions": conditions}
    Console().print(result_table(result))
    if given.html:
        given.html.write_text(deadline_page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
