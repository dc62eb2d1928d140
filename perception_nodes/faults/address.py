"""The address of a unit: HOST:PORT."""

import ipaddress
import re
from contextlib import suppress

from perception_nodes.graph.settings import SettingsError

PORT = 7737
MAX_PORT = 65_535
_ADDRESS = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,9}))?"
    r"|(?P<bare>[^:\[\]]*:[^:\[\]]*:[^\[\]]*)"
)
"""A host with two colons or more is an IPv6 address without a port."""


def split_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPV6]:PORT; without a port, the usual one.

    Raises:
        SettingsError: it has another form.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise SettingsError(f"{text!r} is not of the form HOST:PORT, or [HOST]:PORT for IPv6")
    port = int(match["port"] or PORT)
    if port > MAX_PORT:
        raise SettingsError(f"{text!r}: there is no port {port}, the last one is {MAX_PORT}")
    return match["bracketed"] or match["bare"] or match["host"], port


def joined_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach a host's address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return host == "localhost"
