"""Decides who may look at the page: each request is checked before it is answered.

On localhost every user of this machine may look, but no page of another site in a browser. Such a
page cannot open our stream (`Origin`). Nor can it pass for us by a name of its own that resolves to
this machine (`Host`, DNS rebinding). On any other interface a token is needed as well.
"""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

LOCALHOST = "localhost"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Server": "perception",
}
"""Every answer has these headers: nothing is loaded from elsewhere, and only our script runs."""


def is_own_host(host: str, address: str) -> bool:
    """Whether the name by which a request reached us can only be ours.

    Args:
        host: the request's `Host`, perhaps with a port; any port, since a tunnel may map ours.
        address: what the page is served on.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in (LOCALHOST, "127.0.0.1", "::1"):
        return True
    if address == LOCALHOST:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        ours = socket.gethostname().lower()
        return name in (address.lower(), ours, f"{ours}.local")
    return True  # no name that somebody could resolve to us


def is_own_page(headers: Mapping[str, str]) -> bool:
    """Whether our page opens a stream; a browser does not forge `Origin`."""
    try:
        return urlsplit(headers.get("Origin", "")).netloc == headers.get("Host")
    except ValueError:
        return False


def cookie_of(token: str) -> str:
    """Name of the cookie that holds a token.

    A browser sends a cookie to all ports of a host, and each port may serve another page.
    """
    digest = hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
    return f"perception_view_{digest[:16]}"


def is_same(given: str | None, token: str) -> bool:
    """Compare a token, in a time that does not depend on how much of it is right."""
    # Bytes that are not UTF-8 reach us as surrogates, which surrogatepass keeps apart.
    one, other = ((text or "").encode(errors="surrogatepass") for text in (given, token))
    return hmac.compare_digest(one, other)
