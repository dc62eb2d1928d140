"""The steps of first_light.py: what each expects, and why it may fail."""

from collections.abc import Callable
from typing import NamedTuple

import checks
from checks import Bench

from perception_nodes.fpga.board import ENGINE


class Step(NamedTuple):
    """A step.

    Attributes:
        title, expected: for people.
        look: returns what it found, for people, or raises `Unexpected`.
        causes: why it may fail, the likely cause first.
        on_board: whether a simulation leaves it out.
    """

    title: str
    expected: str
    look: Callable[[Bench], str]
    causes: tuple[str, ...]
    on_board: bool = False


STEPS = (
    Step(
        "files",
        f"a bitstream, and beside it a description (.hwh) of a design with {ENGINE}",
        checks.files,
        (
            "the .hwh was not copied, or has another name than the .bit",
            "the block design was changed: PYNQ finds the engine by this name",
        ),
        on_board=True,
    ),
    Step(
        "board",
        "a KV260, root (user 0), at least 16 MB of contiguous memory",
        checks.board,
        (
            "not root: sudo -i, then source /etc/profile.d/pynq_venv.sh",
            "little memory: a program holds it, or cma= of the kernel's arguments is small",
            "another board: the bitstream is for the K26 of a KV260; on a KR260 too it may work",
        ),
        on_board=True,
    ),
    Step(
        "load",
        "the bitstream is loaded within seconds",
        checks.load,
        (
            "an application of Kria's has the FPGA: xmutil unloadapp",
            "another process of ours has it: it is named",
            "a bitstream for another chip, or of a build that failed its timing",
            "the machine is gone: the FPGA was loaded in the middle of a transfer; power it off",
        ),
    ),
    Step(
        "identity",
        "ID 0x504E4345 and the layout of this checkout; then what was built",
        checks.identity,
        (
            "the machine is gone: the bus never answers, without clock or in reset; look at "
            "pl_clk0 and pl_resetn0 in the block design",
            "0x00000000 or 0xFFFFFFFF: the address in the .hwh is not the bitstream's: two builds",
            "another layout: bitstream and checkout are of different commits",
        ),
    ),
    Step(
        "registers",
        "registers keep every bit, and none changes with another",
        checks.registers,
        (
            "one bit: timing; build with a lower clock_mhz= and compare",
            "a neighbour's value: the address width of HPM0's path",
        ),
    ),
    Step(
        "start without work",
        "the error EMPTY, and after it is cleared STATUS 0",
        checks.empty,
        ("the engine is in reset or its clock stands", "see registers"),
    ),
    Step(
        "memory is read",
        "the errors VERSION and OPCODE, for two descriptors at the same address",
        checks.memory_read,
        (
            "READ: the address is not mapped to memory behind HP0 (assign_bd_address)",
            "TIMEOUT: HP0 is not enabled in the PS, or its width is not 128 bits",
            "VERSION twice: the cache was not written back; allocate(cacheable=1) and flush()",
            "another cause: bytes in another order, so a data width of the path",
        ),
    ),
    Step(
        "one layer",
        "every value of a convolution of 3 x 3 on a small image is the integer network's",
        checks.layer,
        (
            "100 % not written: writes do not arrive, or the outputs' cache is not invalidated",
            "some lines not written: bursts of writes are split wrongly; NUM_WRITE_OUTSTANDING, or "
            "the SmartConnect's settings",
            "all channels of some pixels: the image is read wrongly (HP0's width)",
            "single channels: a multiplier or memory was mapped otherwise than in simulation; "
            "compare the synthesis log's DSP48 and URAM with docs/fpga.md",
            "other values in each run: timing; build with a lower clock_mhz=",
        ),
    ),
    Step(
        "detector",
        "every value of a whole network in three pictures is the integer network's",
        checks.detector,
        (
            "values that change from run to run: timing, or a supply that is too weak",
            "the same wrong values each time: the activation memory (URAM), which a single layer "
            "does not use; simulate the netlist after synthesis",
        ),
    ),
    Step(
        "time",
        "cycles within 25 % of the compiler's, a clock within 2 % of the one that was built for",
        checks.duration,
        (
            "another clock: pynq.Clocks.fclk0_mhz, and PL0_REF_CTRL in the .hwh; a faster one than "
            "built for is an error even if all values were right",
            "more cycles, stall weights or fetch: memory answers late; other masters use it",
            "more cycles, stall drain: outputs are written slowly (NUM_WRITE_OUTSTANDING)",
        ),
    ),
    Step(
        "recovery",
        "a reset in the middle of a frame ends it, and the next frame is right",
        checks.recovery,
        ("still busy: a transfer that the memory never answers; see memory is read",),
    ),
    Step(
        "the processor's time",
        "about the estimate in docs/fpga.md, whose place it takes from now on",
        checks.own_time,
        ("a file of the model is missing",),
    ),
    Step(
        "endurance",
        "the same outputs in every frame",
        checks.endurance,
        (
            "one frame of thousands: timing at the edge; a lower clock_mhz=, or the worst paths in "
            "timing.txt",
            "the more the hotter: the fan; the junction is specified to 85 °C (KV260, commercial)",
        ),
    ),
)
