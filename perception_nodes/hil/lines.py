"""Where in a YAML file a key is."""

from collections.abc import Sequence

import yaml


class Lines:
    """The lines of a YAML text's keys."""

    def __init__(self, text: str) -> None:
        """Parse it.

        Raises:
            yaml.YAMLError: it is not YAML.
        """
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)

    def find(self, path: Sequence[str | int]) -> tuple[int, str]:
        """Line, from 1, and dotted name of a value.

        Args:
            path: keys and positions that lead to it, as pydantic names them; those that are not in
                the file, such as the tag of a union or a missing key at the end, are passed over.
        """
        node, line, names = self._root, 1, []
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == part), None)
                if found is not None:
                    line, node = found[0].start_mark.line + 1, found[1]
                    names.append(str(part))
                elif part == path[-1]:
                    names.append(str(part))
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                line = node.start_mark.line + 1
                names.append(str(part))
        return line, ".".join(names)
