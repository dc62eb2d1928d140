"""Prints the table of scenarios in faults.md: `python docs/scenario_table.py`."""

from perception_nodes.faults.loading import load_scenario, shipped
from perception_nodes.lab.results import expected

HEAD = (
    "scenario", "what happens", "what must be reported", "within", "health mode",
    "what may be lost", "detections again within", "NOMINAL again within",
)  # fmt: skip


def scenario_table() -> str:
    """The scenarios that come with the package, one row each, as Markdown."""
    rows = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    rows += [f"| `{name}` | {' | '.join(expected(load_scenario(name)))} |" for name in shipped()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(scenario_table(), end="")
