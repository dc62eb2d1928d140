"""Resources of kernels, as the assembler of CUDA reports them with `-v`."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """Resources that a compiled kernel uses.

    Attributes:
        registers: registers per thread.
        stack_bytes: local memory per thread.
        spilled_bytes: bytes per thread stored and loaded because of too few registers.
        shared_bytes: shared memory per block.
    """

    registers: int
    stack_bytes: int
    spilled_bytes: int
    shared_bytes: int


def usage_of(report: str) -> dict[str, Usage]:
    """Resources of each kernel, by its name."""
    return {
        part.split("'")[0]: Usage(
            _number(part, "registers"),
            _number(part, "bytes stack frame"),
            _number(part, "bytes spill stores") + _number(part, "bytes spill loads"),
            _number(part, "bytes smem"),
        )
        for part in report.split("Compiling entry function '")[1:]
    }


def _number(part: str, text: str) -> int:
    match = re.search(rf"(\d+) {text}", part)
    return int(match.group(1)) if match else 0
