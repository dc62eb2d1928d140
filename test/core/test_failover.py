"""The policy for processes that stop working is the one that the documentation prints."""

from perception_nodes.core.failover import as_markdown


def test_the_documentation_prints_it(root):
    assert as_markdown() in (root / "docs/faults.md").read_text(encoding="utf-8")
