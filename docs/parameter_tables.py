"""The parameters of all nodes as Markdown, from `perception_nodes/graph/config.py`."""

from pydantic.fields import FieldInfo

from perception_nodes.graph.config import Settings
from perception_nodes.graph.graph import DETECTOR, MONITOR, PLAYER, PREPROCESS, VEHICLE, WATCHDOG
from perception_nodes.graph.node_spec import NodeKind
from perception_nodes.graph.settings import allowed_range, is_changeable

FIRST = (PREPROCESS, DETECTOR, WATCHDOG)
KINDS = (*FIRST, *(kind for kind in (*VEHICLE.kinds, PLAYER, MONITOR) if kind not in FIRST))


def parameter_tables() -> str:
    """A section for the parameters of every node, and one for what each node adds."""
    known = set(Settings.model_fields)
    parts = ["", "## Every node", *_entries(Settings.model_fields)]
    for kind in KINDS:
        own = {
            name: field for name, field in kind.settings.model_fields.items() if name not in known
        }
        known |= set(own)
        if own:
            parts += [f"## {kind.executable}", *_entries(own, kind)]
    return "\n\n".join(parts) + "\n"


def _entries(fields: dict[str, FieldInfo], owner: NodeKind | None = None) -> list[str]:
    return [_entry(name, field, owner) for name, field in fields.items()]


def _entry(name: str, field: FieldInfo, owner: NodeKind | None) -> str:
    others = [
        kind.executable
        for kind in KINDS
        if owner and kind is not owner and name in kind.settings.model_fields
    ]
    default = str(field.default).lower() if isinstance(field.default, bool) else field.default
    facts = [f"default `{default}`" if default != "" else "empty by default", _allowed(field)]
    facts += ["can be changed while the node runs"] if is_changeable(field) else []
    facts += [f"also of {', '.join(others)}"] if others else []
    meaning = _text(field.description)
    return f"`{name}`\n: {'; '.join(facts)}.\n\n  {meaning[:1].upper()}{meaning[1:]}."


def _allowed(field: FieldInfo) -> str:
    words, matches, pattern = allowed_range(field).partition(" that matches ")
    return f"{words}{matches}`{pattern}`" if matches else _text(words)


def _text(text: str | None) -> str:
    """With the signs escaped that Markdown or HTML would take for its own."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>|$" else sign for sign in text or "")
