"""The documentation: its Python runs, its links lead somewhere. `make docs` checks the rest."""

import re

from drives import write_labels

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
OURS = ("perception_nodes", "fpga", "systemd", "model_compression")
OURS += ("interfaces", "docs", "calibration")


def files(root, *suffixes):
    """Files of the checkout: those at the top, and those in the folders that have code."""
    found = [*root.glob("*"), *(path for name in OURS for path in (root / name).rglob("*"))]
    return [path for path in found if path.suffix in suffixes]


def test_the_python_of_the_api_page_runs(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "bags").symlink_to(root / "bags")
    write_labels(tmp_path / "my/set", {"0": ["0 0.5 0.5 0.4 0.4"]}, size=(160, 90))
    monkeypatch.chdir(tmp_path)
    page = (root / "docs/reference/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "docs/reference/python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "250 frames, 0 lost" in printed and "by class {'car': 0.0" in printed


def test_links_between_files_lead_somewhere(root):
    lost = [
        f"{page.relative_to(root)}: {link}"
        for page in files(root, ".md")
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert lost == []


def test_code_names_pages_that_are_there(root):
    named = {
        (str(file.relative_to(root)), name)
        for file in files(root, ".py", ".sv", ".yaml", ".h", ".service")
        for name in re.findall(r"\bdocs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert [(file, name) for file, name in named if not (root / name).is_file()] == []


def test_files_that_repeat_an_attack_are_there(root):
    page = (root / "docs/faults.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test/\S+\.py)`", page))
    assert named and [name for name in named if not (root / name).is_file()] == []
