"""The shipped message definitions, read by us and by rosbags."""

import pytest

from perception_nodes.drives.schemas import typestore
from perception_nodes.transport.definitions import definitions, fields


def test_every_shipped_definition_is_found(root):
    files = list((root / "interfaces").glob("*/msg/*.msg"))
    assert len(definitions()) == len(files) > 0
    for file in files:
        assert definitions()[f"{file.parts[-3]}/msg/{file.stem}"] == file.read_text()


@pytest.mark.parametrize("name", definitions())
def test_fields_are_those_that_rosbags_finds(name):
    _, expected = typestore().fielddefs[name]
    found = fields(name)
    assert [field.name for field in found] == [field_name for field_name, _ in expected]
    for field, (_, (kind, detail)) in zip(found, expected, strict=True):
        if kind.name == "BASE":
            assert field.type_name == detail[0]
        elif kind.name == "NAME":
            assert field.type_name.replace("/", "/msg/") == detail
        else:
            length = detail[1] if kind.name == "ARRAY" else ""
            assert field.type_name.endswith(f"[{length}]")
