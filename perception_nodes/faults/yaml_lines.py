"""The lines of the keys in a YAML file, for error messages."""

from collections.abc import Sequence

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
        self._lines: dict[tuple[str | int, ...], int] = {}
        self._seen: set[int] = set()
        self._add(yaml.compose(text, Loader=yaml.SafeLoader), ())

    def find(self, path: Sequence[str | int]) -> tuple[int, str]:
        """The line (from 1) and the dotted name of a value.

        Args:
            path: keys and positions that lead to the value, as pydantic names them. Those that are
                not in the file, such as the tag of a union, are skipped; a missing key at the end
                is part of the name.
        """
        known, names = tuple[str | int, ...](), list[str]()
        for place, key in enumerate(path, 1):
            there = next((k for k in (key, str(key)) if (*known, k) in self._lines), None)
            if there is not None:
                known = (*known, there)
            if there is not None or place == len(path):
                names.append(str(key))
        return self._lines.get(known, 1), ".".join(names)

    def _add(self, node: yaml.Node | None, path: tuple[str | int, ...]) -> None:
        """Note the lines of a node's keys, but not again those of a node that an alias repeats."""
        is_new = id(node) not in self._seen
        self._seen.add(id(node))
        children: list[tuple[str | int, int, yaml.Node]] = []
        if isinstance(node, yaml.SequenceNode):
            children = [(n, v.start_mark.line, v) for n, v in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if isinstance(k, yaml.ScalarNode)]
            _refuse_duplicates([key for key, _ in pairs])
            children = [(k.value, k.start_mark.line, v) for k, v in pairs if k.tag != MERGE]
        for key, line, value in children:
            self._lines.setdefault((*path, key), line + 1)
            if is_new:
                self._add(value, (*path, key))
        if isinstance(node, yaml.MappingNode) and is_new:
            # Keys that are merged in follow the mapping's own keys.
            for value in (v for k, v in node.value if k.tag == MERGE):
                for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    self._add(other, path)


def _refuse_duplicates(keys: Sequence[yaml.ScalarNode]) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key in keys:
        if (key.tag, key.value) in lines:
            line = lines[key.tag, key.value]
            raise DuplicateKey(
                problem=f"the key {key.value} is there twice, first in line {line}",
                problem_mark=key.start_mark,
            )
        lines[key.tag, key.value] = key.start_mark.line + 1
