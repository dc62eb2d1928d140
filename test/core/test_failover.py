"""The documentation says the policy for processes that stop working with the figures it has."""

import re

from perception_nodes.core import failover

FIGURES = """LOOK_NS KILLED_AFTER_NS ABSENT_AFTER_PATIENCES LONG_NS LOOK_NS TURN_NS KILLED_AFTER_NS
SUPERVISOR_LOOK_S STOPPED_S FILES_LOOK_NS SUPERVISOR_SILENT_NS AT_ONCE DEATHS_WITHIN_S DELAY_S
STANDBY_AGAIN_S WORKED_S SAME_CAUSE"""


def test_the_documentation_has_its_figures(root):
    text = (root / "docs/faults.md").read_text(encoding="utf-8")
    section = text.partition("## When a process stops working")[2].partition("**Files")[0]
    named = [(name, getattr(failover, name)) for name in FIGURES.split()]
    figures = [one / failover.MS if name.endswith("_NS") else one for name, one in named]
    assert [float(one) for one in re.findall(r"[\d.]*\d", section)] == figures
