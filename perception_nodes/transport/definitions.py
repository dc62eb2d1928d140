"""Message definitions of this project, read from the `.msg` files that ROS builds them from.

The files lie in `interfaces/<package>/msg/`. setup.py installs them below `share/perception_nodes/`
with `config/` and `models/`, so that `share_folder()` leads to them in a checkout, after
`colcon build`, and where a wheel is installed.
"""

import re
from typing import NamedTuple

from perception_nodes.system.environment import share_folder

_FIELD = re.compile(r"([\w/\[\]]+)\s+([a-z]\w*)\s*(?:#.*)?")
"""A line that declares a field; a constant has an upper-case name and a value."""


class MessageField(NamedTuple):
    """A field of a message; `type_name` is written as in the `.msg` file."""

    type_name: str
    name: str


def definitions() -> dict[str, str]:
    """Text of each `.msg` file by the name of its message, such as `vision_msgs/msg/Point2D`."""
    folder = share_folder() / "interfaces"
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(folder.glob("*/msg/*.msg"))
    }


def fields(message_type: str) -> list[MessageField]:
    """The fields of a message in the order of its definition, which is the order on the wire.

    Raises:
        FileNotFoundError: there is no such definition.
    """
    file = share_folder() / "interfaces" / f"{message_type}.msg"
    lines = file.read_text(encoding="utf-8").splitlines()
    found = (_FIELD.fullmatch(line.strip()) for line in lines)
    return [MessageField(*match.groups()) for match in found if match]
