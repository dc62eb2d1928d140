"""Fields of ctypes structures, declared as C does."""

import ctypes
import re
from typing import Any


def fields(declared: str) -> list[tuple[str, Any]]:
    """The fields of a structure, such as of `uint32 index, size[2]; char name[32]`."""
    found = []
    for declaration in declared.split("; "):
        kind, _, names = declaration.partition(" ")
        one = getattr(ctypes, f"c_{kind}")
        for name, count in re.findall(r"(\w+)(?:\[(\d+)\])?", names):
            found.append((name, one * int(count) if count else one))
    return found
