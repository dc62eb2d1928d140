"""Foreign YAML: whatever is wrong with it is one kind of error, and one that its readers tell."""

import pytest
import yaml

from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.evaluation.labels import DataError
from perception_nodes.evaluation.yolo import load_keys
from perception_nodes.networks.model import ModelError, load_model

IMPOSSIBLE = {
    "date": "2026-02-30",
    "digits": "9" * 5000,
    "truth": "!!bool perhaps",
    "time": "!!timestamp soon",
    "sexagesimal": ":".join("1" * 300) + ".5",
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_value_that_cannot_be_is_named_by_its_line(name):
    with pytest.raises(yaml.YAMLError, match="line 2, column 7"):
        parse_yaml(f"a: 1\nb:   [{IMPOSSIBLE[name]}]")


def test_depth_is_bounded_and_what_is_sound_is_read():
    with pytest.raises(yaml.YAMLError, match="too deeply"):
        parse_yaml("[" * 100_000)
    assert parse_yaml("{a: [1, 2.5, yes], <<: {b: null}}") == {"a": [1, 2.5, True], "b": None}


def test_the_file_is_named_by_its_readers(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(f"names: [car]\nmade: {IMPOSSIBLE['date']}\n")
    with pytest.raises(DataError, match=r"model\.yaml cannot be read"):
        load_keys(file)
    with pytest.raises(ModelError, match=r"model\.yaml cannot be read"):
        load_model(str(tmp_path))


def test_aliases_count_as_what_they_stand_for():
    levels = ["l0: &l0 [1, 2]"]
    levels += [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 60)]
    with pytest.raises(yaml.YAMLError, match="it stands for more than 500,000 values"):
        parse_yaml("\n".join(levels))
    with pytest.raises(yaml.YAMLError, match="it contains itself"):
        parse_yaml("a: &a [1, *a]")
    assert parse_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}
