"""The one OpenVINO core of a process, and the instructions that it may use."""

import os
from functools import cache
from typing import Any

VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Read by OpenVINO when the process compiles its first network."""
WITH_TILES, WITHOUT_TILES = "ALL", "AVX512_CORE_FP16"


@cache
def core() -> Any:
    """The one OpenVINO core of this process, which lives until the process ends.

    The CPU plugin gives the calling thread a signal stack and frees it together with its core. With
    several cores the thread may keep a freed stack, and the next signal, such as the SIGINT that
    should end the process in good order, kills it.
    """
    import openvino as ov  # those who only set the instructions need not have it

    os.environ.setdefault(VARIABLE, WITHOUT_TILES)
    return ov.Core()


def last_line(error: RuntimeError) -> str:
    """OpenVINO's message about an error, without the places in its source."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
