"""The lines of the keys in a YAML file, for error messages."""

from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase


def with_lines(text: str) -> Any:
    """The content of a YAML text, whose mappings and lists know their lines.

    Raises:
        ruamel.yaml.error.YAMLError: it is not YAML, or has a key twice, of which other readers
            silently use one.
    """
    return YAML().load(text)


def find(content: Any, path: Sequence[str | int]) -> tuple[int, str]:
    """The line (from 1) and the dotted name of a value.

    Args:
        content: of the file, by `with_lines`.
        path: keys and positions that lead to the value, as pydantic names them. Those that are not
            in the file, such as the tag of a union, are skipped; a missing key at the end is part
            of the name. A key that is merged in (`<<`) has the line of the mapping.
    """
    line, names = 1, list[str]()
    for place, key in enumerate(path, 1):
        lines = (content.lc.data or {}) if isinstance(content, CommentedBase) else {}
        there = next((k for k in (key, str(key)) if k in lines), None)
        if there is not None:
            line, content = lines[there][0] + 1, content[there]
        if there is not None or place == len(path):
            names.append(str(key))
    return line, ".".join(names)
