"""`perception`, and `python -m perception_nodes`: loads the commands, which takes a second."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line. Until it is loaded, Ctrl-C and SIGTERM end the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A process that a script has put in the background ignores Ctrl-C, and shall go on to.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from perception_nodes.cli.app import main as run

    return run()


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
