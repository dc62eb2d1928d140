"""YAML of foreign files: whatever is wrong with it is a `yaml.YAMLError`, with its line."""

from typing import Any

import yaml
from yaml.constructor import ConstructorError


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, whose other errors for odd values become `yaml.YAMLError`."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            kind, why = node.tag.rpartition(":")[2], ""
            if isinstance(error, ValueError):
                why = f": {error}"
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
