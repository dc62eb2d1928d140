"""Whether this machine can serve the page that shows the graph, and to whom."""

import importlib.util
import os

from perception_nodes.graph.config import ViewSettings
from perception_nodes.graph.settings import SettingsError

TOKEN_VARIABLE = "PERCEPTION_VIEW_TOKEN"
"""The token is an environment variable, because everyone could read a parameter over DDS and in the
list of processes."""
MIN_TOKEN = 16
NEEDS_AIOHTTP = "needs aiohttp, which is not installed: pip install aiohttp"


def page_token(settings: ViewSettings) -> str:
    """The token that browsers must have; empty if the page needs none.

    Raises:
        SettingsError: the network could reach the page without a token of enough characters; or
            there is no aiohttp to serve it.
    """
    if settings.view and importlib.util.find_spec("aiohttp") is None:
        raise SettingsError(f"parameter view: true {NEEDS_AIOHTTP}", "view")
    token = os.environ.get(TOKEN_VARIABLE, "")
    is_needed = settings.view_address != "localhost" or (settings.view and token)
    if is_needed and len(token) < MIN_TOKEN:
        raise SettingsError(
            f"parameter view_address: {settings.view_address!r} is not allowed with a token of "
            f"less than {MIN_TOKEN} characters: export {TOKEN_VARIABLE}=$(openssl rand -hex 16)",
            "view_address",
        )
    return token
