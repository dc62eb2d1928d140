"""What to run on a KV260 in the first hour: each step says what it expects and what it finds.

    python3 fpga/board/first_light.py perception_512.bit
    python3 fpga/board/first_light.py build/fpga/libengine_512.so    a rehearsal, in simulation

As root, with PYNQ's Python and this repository installed (fpga/vivado/README.md, "On the board").
The steps build on each other: the first one that fails ends the run, and what it prints says where
to look. Exit status 0: all is as expected; 1: a step failed; 2: it cannot begin.
"""

import argparse
import sys
from pathlib import Path

from checks import Bench, Unexpected
from steps import STEPS

from perception_nodes.core.errors import PerceptionError


def run(bench: Bench) -> int:
    """Run the steps; the exit status."""
    for number, step in enumerate(STEPS, 1):
        print(f"{number:2} {step.title}\n   expected: {step.expected}", flush=True)
        if step.on_board and bench.simulated:
            print("   left out: it is about the board", flush=True)
            continue
        try:
            print(f"   found:    {step.look(bench)}", flush=True)
        except (Unexpected, PerceptionError) as error:
            print(f"   found:    {error}\n   FAILED; what it may be, the likely first:")
            print("\n".join(f"   - {cause}" for cause in step.causes), flush=True)
            return 1
    print(f"all {len(STEPS)} steps are as expected")
    return 0


def main(arguments: list[str]) -> int:
    """Read the arguments, run the steps."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path, help="a bitstream (.bit) or a simulated engine (.so)")
    parser.add_argument("--model", default="open-xs", help="detector of the later steps (open-xs)")
    parser.add_argument(
        "--frames", type=int, default=2000, help="frames of the last step (2000; 10 s)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.engine.suffix not in (".bit", ".so") or not chosen.engine.is_file():
        print(
            f"{chosen.engine} is no bitstream (.bit) and no simulated engine (.so); "
            "fpga/vivado/README.md says how to build one",
            file=sys.stderr,
        )
        return 2
    bench = Bench(chosen.engine, chosen.model, chosen.frames)
    try:
        return run(bench)
    except KeyboardInterrupt:
        return 130
    finally:
        bench.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
