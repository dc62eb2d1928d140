"""Passwords of cameras: taken from the environment or a file, kept out of arguments and logs."""

import netrc
import os
import re
from collections.abc import Callable
from urllib.parse import quote

from perception_nodes.core.errors import InputError

PLACES = re.compile(
    r"(?P<before>\b\w+://[^\s/:@]*:)(?P<password>[^\s/]+)(?=@)"
    r"|(?P<property>\b(?:user-pw|proxy-pw|passphrase)\s*=\s*)(?P<value>\"[^\"]*\"|[^\s!\"]+)"
    r"|(?P<key>[?&](?i:pass|password|passphrase|passwd|pwd)=)(?P<secret>[^\s&#!\"]+)"
)
"""Where a password stands: in a URL's login or query, or as a property of GStreamer's sources.

Others give us the text, so the time to search it must not grow with the square of its length.
"""
VARIABLE = "PERCEPTION_SOURCE_PASSWORD"
"""Beginning of the variables that hold what was taken out of a source for another process."""
NETRC = "PERCEPTION_NETRC"
"""Names a file of lines `machine HOST login USER password PASSWORD`."""


def redacted(text: str) -> str:
    """A text without the passwords in it."""
    return _replaced(text, lambda password: "***")


def without_passwords(source: str) -> tuple[str, dict[str, str]]:
    """A source for another process, and the environment that this process needs.

    Returns:
        The source with the name of a variable in the place of each password, and the variables.
    """
    variables: dict[str, str] = {}

    def moved(password: str) -> str:
        name = f"{VARIABLE}_{len(variables)}"
        variables[name] = password
        return f"${name}"

    return _replaced(source, moved), variables


def with_passwords(source: str) -> str:
    """A source as it is opened, with the passwords that the environment or a file holds.

    Raises:
        InputError: a variable is not set, or the file cannot be read.
    """

    def found(match: re.Match[str]) -> str:
        before, password = _parts(match)
        if not password.startswith("$"):
            return match[0]
        if (value := os.environ.get(password[1:])) is None:
            raise InputError(f"the environment variable {password[1:]} is not set")
        if password.startswith(f"${VARIABLE}_"):
            return before + value  # as it was written
        if match["property"]:
            escaped = value.replace("\\", r"\\").replace('"', r"\"")
            return f'{before}"{escaped}"'
        return before + quote(value, safe="")

    source = PLACES.sub(found, source)
    scheme, mark, rest = source.partition("://")
    login, _, host = rest.partition("/")[0].rpartition("@")
    file = os.environ.get(NETRC, "")
    if not (file and mark and scheme.isalnum()) or ":" in login:
        return source
    try:
        known = netrc.netrc(file).authenticators(host.partition(":")[0])
    except OSError as error:
        raise InputError(f"{NETRC}={file} cannot be read: {error}") from error
    except netrc.NetrcParseError as error:  # its text may have a password
        place = f"line {error.lineno} or one before it"
        raise InputError(f"{NETRC}={file} cannot be read: correct {place}") from None
    if known is None or (login and login != known[0]):
        return source
    user, _, password = known
    place = rest[len(login) + 1 :] if login else rest
    return f"{scheme}://{quote(user, safe='')}:{quote(password or '', safe='')}@{place}"


def _replaced(text: str, replace: Callable[[str], str]) -> str:
    """A text in which each password, but none that names a variable, is replaced."""

    def replaced(match: re.Match[str]) -> str:
        before, password = _parts(match)
        return match[0] if password.startswith("$") else before + replace(password)

    return PLACES.sub(replaced, text)


def _parts(match: re.Match[str]) -> tuple[str, str]:
    """The text before the password in a match of `PLACES`, and the password."""
    before, password = filter(None, match.groups())
    return before, password
