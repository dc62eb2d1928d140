"""The tools that make models: part of a checkout, and not of an installation."""

import importlib
import sys
from typing import Any

from perception_nodes.graph.settings import SettingsError
from perception_nodes.system.environment import share_folder


def compression_tool(module: str, name: str = "") -> Any:
    """Import a build-time tool, which is part of a checkout and not of an installation.

    Args:
        module: the tool's module.
        name: what to take from it; empty for the module itself.

    Raises:
        SettingsError: the tool, or a package that it needs, is missing.
    """
    checkout = str(share_folder())
    if checkout not in sys.path:
        sys.path.append(checkout)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{module} cannot be imported ({error}); in a checkout of the repository, "
            "make compression installs what it needs"
        ) from error
    return getattr(found, name) if name else found
