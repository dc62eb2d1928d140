"""Fields of the structures that kernels take as arguments."""

import ctypes
from typing import Any

Field = tuple[str, Any]


def addresses(*names: str) -> list[Field]:
    """Fields with addresses of the device, or of the host if the kernel runs there."""
    return [(name, ctypes.c_uint64) for name in names]


def integers(*names: str) -> list[Field]:
    """Fields of type int32."""
    return [(name, ctypes.c_int32) for name in names]
