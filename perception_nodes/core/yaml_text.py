"""YAML of foreign files: whatever is wrong with it is a `yaml.YAMLError`, with its line."""

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

MAX_VALUES = 500_000
"""Limit of a text's values, where an alias (`*name`) counts as often as it is written."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, whose other errors for odd values become `yaml.YAMLError`.

    A few lines of aliases of aliases can stand for more values than any memory holds.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._values_of: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before = self._values
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if node is not None and not isinstance(event, yaml.AliasEvent):
            self._values += 1
            self._values_of[node] = self._values - before
        elif node is not None:
            if node not in self._values_of:
                raise ComposerError(None, None, "it contains itself", event.start_mark)
            self._values += self._values_of[node]
        if self._values > MAX_VALUES:
            problem = f"it stands for more than {MAX_VALUES:,} values"
            raise ComposerError(None, None, problem, event.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            kind, why = node.tag.rpartition(":")[2], f": {error}" * isinstance(error, ValueError)
            problem = f"{node.value!r} is no {kind}{why}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: the text is no YAML, holds an impossible value such as the date 2026-02-30,
            or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)  # it is a subclass of a safe loader
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
