"""What is shipped has its licence, its authors and its terms with it."""

import os
from distutils.core import run_setup
from pathlib import Path

import pytest
import yaml

from perception_nodes.evaluation.datasets import ROOT_VARIABLE

DATA = os.environ.get(ROOT_VARIABLE)


def test_a_wheel_names_all_licences_and_has_their_texts(root, monkeypatch):
    monkeypatch.chdir(root)
    package = run_setup("setup.py", stop_after="init")
    assert package.metadata.license == "Apache-2.0"
    shipped = dict(package.data_files)["share/perception_nodes/models"]
    assert {Path(path).name for path in shipped} == {"NOTICE", "README.md"}
    for name in package.metadata.license_files:
        assert (root / name).is_file(), name


def test_all_that_models_are_made_from_has_its_author_named(root):
    notice = (root / "models/NOTICE").read_text()
    config = yaml.safe_load((root / "model_compression/configs/open.yaml").read_text())
    entries = dict(line.split(": ", 1) for line in notice.splitlines() if ": " in line)
    for source in config["sources"]:
        assert source["name"] in entries
        first = source["license"].partition(",")[0]
        assert first in entries[source["name"]] or "own terms" in entries[source["name"]]
    networks = ("NanoDet-Plus-m", "PP-HGNetV2", "ShuffleNetV2", "ImageNet")
    for network in (*networks, "person-vehicle-bike-detection-2003", "DEIMv2-Femto", "YOLOX-Nano"):
        assert network in notice


def test_each_model_has_its_terms_in_the_table(root):
    text = (root / "models/README.md").read_text()
    for folder in root.glob("models/*/"):
        assert f"`{folder.name}`" in text


@pytest.mark.skipif(DATA is None, reason=f"needs the sets: ${ROOT_VARIABLE}")
def test_a_configuration_has_the_licences_that_the_sets_have(root):
    read, wrong = 0, []
    for path in (root / "model_compression/configs").glob("*.yaml"):
        for source in yaml.safe_load(path.read_text()).get("sources", []):
            file = Path(DATA).joinpath(*Path(source["images"]).parts[:2], "LICENCE.txt")
            if file.is_file():
                first = file.read_text().partition("\n\n")[0]
                read += 1
                if not all(one in first for one in source["license"].split(" and ")):
                    wrong.append((path.name, source["name"], source["license"], first))
    assert read >= 5 and not wrong
