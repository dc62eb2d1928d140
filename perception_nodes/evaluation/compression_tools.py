"""The tools that make models: part of a checkout, and not of an installation."""

import importlib
import sys
from typing import Any

from perception_nodes.graph.settings import SettingsError
from perception_nodes.system.environment import share_folder

IN_CHECKOUT = "in a checkout of the repository, make compression"


def compression_tool(module: str, name: str = "", remedy: str = IN_CHECKOUT) -> Any:
    """Import a build-time tool, which is part of a checkout and not of an installation.

    Args:
        module: the tool's module.
        name: what to take from it; empty for the module itself.
        remedy: what installs the packages that it needs.

    Raises:
        SettingsError: the tool, or a package that it needs, is missing.
    """
    checkout = str(share_folder())
    if checkout not in sys.path:
        sys.path.append(checkout)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        why = f"cannot be imported ({error}); {remedy} installs what it needs"
        raise SettingsError(f"{module} {why}") from error
    return getattr(found, name) if name else found
