"""The lines of the keys in a YAML file, for error messages."""

from collections.abc import Iterator, Sequence

import yaml

MERGE = "tag:yaml.org,2002:merge"


class DuplicateKey(yaml.MarkedYAMLError):
    """A mapping has the same key twice; a YAML reader would silently use one of them."""


class KeyLines:
    """The lines of the keys of a YAML text."""

    def __init__(self, text: str) -> None:
        """Parse the text.

        Raises:
            yaml.YAMLError: it is not YAML, or has a key twice.
        """
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicates(self._root)

    def find(self, path: Sequence[str | int]) -> tuple[int, str]:
        """The line (from 1) and the dotted name of a value.

        Args:
            path: keys and positions that lead to the value, as pydantic names them. Those that are
                not in the file, such as the tag of a union, are skipped; a missing key at the end
                is part of the name.
        """
        node, line, names = self._root, 1, []
        for key in path:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in _pairs(node) if pair[0].value == str(key)), None)
                if found is not None:
                    line, node = found[0].start_mark.line + 1, found[1]
                    names.append(str(key))
                elif key == path[-1]:
                    names.append(str(key))
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
                node = node.value[key]
                line = node.start_mark.line + 1
                names.append(str(key))
        return line, ".".join(names)


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping: its own first, then those merged into it by `<<`."""
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield key, value
    for other in merged:
        if isinstance(other, yaml.MappingNode):
            yield from _pairs(other)


def _refuse_duplicates(root: yaml.Node | None) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                waiting += (key, value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                name = (key.tag, key.value)
                if name in lines:
                    raise DuplicateKey(
                        problem=f"the key {key.value} is there twice, first in line {lines[name]}",
                        problem_mark=key.start_mark,
                    )
                lines[name] = key.start_mark.line + 1
