"""Write the tree that a release into ROS's index is made from: make ros-release

Each package is a folder of its own. Packages of messages that ROS has are left out, and the weights
of the models are a package, since they are large and under terms of their own.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
OURS = ("perception_interfaces", "perception_consumer")
"""Packages in `interfaces/` that are not in ROS."""
LEFT_OUT = ("models/", "interfaces/", "packaging/", ".github/", ".devcontainer/", ".ci/")
URL = "https://perception-nodes.invalid"
"""Until the project has a public address, as the maintainer's."""
NOTICE = """\
# Copyright 2026 The perception_nodes maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""
WEIGHTS = """\
<?xml version="1.0"?>
{model}
<package format="3">
  <name>perception_models</name>
  <version>{version}</version>
  <description>Weights of perception_nodes, each with its data and terms.</description>
  <maintainer email="{email}">{maintainer}</maintainer>
  <license file="LICENSE">Apache-2.0</license>
  <url type="website">{url}</url>

  <buildtool_depend>ament_cmake</buildtool_depend>

  <export>
    <build_type>ament_cmake</build_type>
  </export>
</package>
"""
INSTALL_WEIGHTS = """\
cmake_minimum_required(VERSION 3.16)
project(perception_models NONE)
find_package(ament_cmake REQUIRED)
# perception_nodes looks there in every prefix.
install(DIRECTORY models DESTINATION share/perception_nodes)
ament_package()
"""
LINTERS = '''\
"""ROS's linters of what ruff does not check."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_files_begin_with_a_notice():
    main = pytest.importorskip("ament_copyright.main").main
    assert main([str(ROOT / "perception_nodes"), str(ROOT / "launch")]) == 0


def test_manifests_are_valid():
    main = pytest.importorskip("ament_xmllint.main").main
    assert main([str(ROOT / "package.xml")]) == 0
'''


def main() -> int:
    """Write the tree; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out/ros_release")
    parser.add_argument("--url", default=URL, help="of the project, for package.xml")
    arguments = parser.parse_args()
    out = arguments.out
    if out.exists() and not (out / "perception_nodes/package.xml").exists():
        print(f"{out} is there and no such tree; name another folder with --out", file=sys.stderr)
        return 2
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial, arguments.url)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    print(f"{out} has " + ", ".join(sorted(path.name for path in out.iterdir())))
    return 0


def write(out: Path, url: str) -> None:
    """Write all packages."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, names):
        package = name.split("/")[1] if name.startswith("interfaces/") else ""
        if package in OURS:
            copy(name, out / name.removeprefix("interfaces/"))
        elif name.startswith("models/"):
            copy(name, out / "perception_models" / name)
        elif not name.startswith(LEFT_OUT):
            copy(name, out / "perception_nodes" / name)
    manifest = ROOT / "package.xml"
    package = ElementTree.parse(manifest).getroot()
    version, maintainer = package.findtext("version"), package.find("maintainer")
    facts = {
        "model": manifest.read_text().split("\n")[1],
        "version": version,
        "maintainer": maintainer.text,
        "email": maintainer.get("email"),
        "url": url,
    }
    models = out / "perception_models"
    (models / "package.xml").write_text(WEIGHTS.format(**facts))
    (models / "CMakeLists.txt").write_text(INSTALL_WEIGHTS)
    text = without_weights(manifest.read_text())
    (out / "perception_nodes/package.xml").write_text(text)
    setup = out / "perception_nodes/setup.py"
    setup.write_text(
        re.sub(r"license_files=\[.*?\]", 'license_files=["LICENSE"]', setup.read_text())
    )
    (out / "perception_nodes/test/test_linters.py").write_text(LINTERS)
    for python in out.rglob("*.py"):
        with_notice(python)
    head, changes = changelog((ROOT / "CHANGELOG.md").read_text())
    for folder in out.iterdir():
        if folder.name != "perception_nodes":
            copy("LICENSE", folder / "LICENSE")
        copy("packaging/QUALITY_DECLARATION.md", folder / "QUALITY_DECLARATION.md")
        at = folder / "package.xml"
        text = at.read_text()
        if "<url" not in text:
            line = rf'\1  <url type="website">{url}</url>\n'
            at.write_text(re.sub(r"(</license>\n)(?!  <)", line, text, count=1))
        title = f"Changelog for package {folder.name}"
        rule = "^" * len(title)
        own = changes if folder.name == "perception_nodes" else f"* As perception_nodes {version}\n"
        (folder / "CHANGELOG.rst").write_text(
            f"{rule}\n{title}\n{rule}\n\n{head}\n{'-' * len(head)}\n{own}"
        )


def copy(name: str, to: Path) -> None:
    """Copy a file of the repository, with its mode."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, to)


def without_weights(manifest: str) -> str:
    """The manifest of a package that depends on the weights instead of having them."""
    manifest = re.sub(
        r"  <!-- Of most models'.*?-->\n  <license file.*?</license>\n", "", manifest, flags=re.S
    )
    interfaces = "  <exec_depend>perception_interfaces</exec_depend>\n"
    models = interfaces.replace("interfaces", "models")
    manifest = manifest.replace(interfaces, interfaces + models)
    linters = (
        "  <test_depend>ament_copyright</test_depend>\n  <test_depend>ament_xmllint</test_depend>\n"
    )
    manifest = re.sub(r"  <!-- Of ament's linters.*?-->\n", linters, manifest, flags=re.S)
    return manifest


def with_notice(python: Path) -> None:
    """Put the notice at the beginning of a file, behind the line that names the interpreter."""
    text = python.read_text()
    first, newline, rest = text.partition("\n")
    head = first + newline if first.startswith("#!") else ""
    body = rest if head else text
    python.write_text(head + (NOTICE + body if body else NOTICE.rstrip() + "\n"))


def changelog(markdown: str) -> tuple[str, str]:
    """Title of the newest version by REP 132, and its entries in reStructuredText, a line each."""
    newest = markdown.split("\n## ")[1]
    version, date = newest.partition("\n")[0].split(", ")
    title = "Forthcoming" if date == "unreleased" else f"{version} ({date})"
    entries = re.findall(r"^- (.*(?:\n  .*)*)", newest, re.M)
    lines = []
    for entry in entries:
        text = re.sub(r"\s+", " ", entry)
        text = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", text).replace("`", "``")
        lines.append(f"* {text}\n")
    return title, "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
