"""The address of a unit: HOST:PORT."""

import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit

from perception_nodes.graph.settings import SettingsError

PORT = 7737


def split_address(text: str) -> tuple[str, int]:
    """Split HOST:PORT or [IPV6]:PORT into host and port; without a port, take the default one.

    Raises:
        SettingsError: it has another form.
    """
    if text.count(":") > 1 and "[" not in text:  # an IPv6 address without a port
        return text, PORT
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"{text!r} is not of the form HOST:PORT: {error}") from error
    if not host or parts.netloc != text or text.endswith(":"):
        raise SettingsError(f"{text!r} is not of the form HOST:PORT, or [HOST]:PORT for IPv6")
    return host, PORT if port is None else port


def joined_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach a host's address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return host == "localhost"
