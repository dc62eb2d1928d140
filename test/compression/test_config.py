"""A configuration is refused before hours of work, and the error says where."""

from pathlib import Path

import numpy as np
import pytest

from model_compression.config import read_config
from model_compression.deploy import without_labels
from model_compression.errors import CompressionError
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet


def classes_of(checkpoint):
    assert checkpoint.name == "random.pt"
    return ["forklift", "pallet"]


SOURCE = {"name": "a", "images": "*.jpg", "license": "CC0"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 100}, "100 is not a multiple of 32"),
        ({"epochs": 3}, "epochs"),
        ({"teacher": "none.pt"}, "none.pt is not there"),
        ({"dense": {"epochs": 0}}, "dense.epochs"),
        ({"swap": None}, "swap: it must be"),
        ({"labeller": None, "sources": [SOURCE]}, "set a has no labels"),
        ({"quantize": {"images": 1}}, "quantize.images"),
        ({"sources": [{**SOURCE, "license": " "}]}, "sources.0.license: it is empty; name"),
        ({"license": ""}, "license: it is empty; name the licence"),
        ({"parent": "tiny"}, "give the parent another name"),
        ({"name": "tiny-dense-int8"}, "give the parent another name"),
        ({"sources": [{**SOURCE, "classes": {0: "tank"}}]}, "set a is 'tank', which is none of"),
        ({"sources": [SOURCE, SOURCE]}, "two sets are named 'a'"),
        ({"base": "config.yaml"}, "base config.yaml is this file again"),
        ({"gate": {"unproven": ["tank"]}}, "class 'tank' is none of person, car"),
        ({"data": "${NOWHERE_SET}"}, "that variable is not set"),
    ],
)
def test_refuses(values, write_config, change, said):
    with pytest.raises(CompressionError, match="config.yaml") as refused:
        read_config(write_config({**values, **change}), classes_of)
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00"])
def test_refuses_what_is_no_configuration(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CompressionError, match="config.yaml"):
        read_config(path, classes_of)


def test_takes_keys_from_its_base(values, write_config, tmp_path):
    write_config(values)
    other = tmp_path / "other.yaml"
    other.write_text("base: config.yaml\nname: other\nseed: 3\n")
    config = read_config(other, classes_of)
    assert (config.name, config.seed, config.size) == ("other", 3, (96, 64))
    assert config.prune.healing.epochs == 1


def test_evidence_of_a_class_is_none_of_its_synonym():
    image = LabelledImage(Path("a"), np.ones((12, 4)), np.zeros(12, int), np.zeros(12, bool))
    labelled = LabelledSet("set", ("pedestrian", "people"), (image,))
    assert without_labels(["pedestrian", "people"], [labelled]) == ["people"]
    assert without_labels(["person"], [labelled]) == []
