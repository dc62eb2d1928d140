"""`perception`, and `python -m perception_nodes`: loads the commands, which takes a second."""

import signal
import sys


def main() -> int:
    """Entry point. Ctrl-C before there is a command ends the process, without a traceback."""
    # One that a script has put in the background ignores Ctrl-C, and goes on to.
    if (handler := signal.getsignal(signal.SIGINT)) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from perception_nodes.cli.app import main as run

    signal.signal(signal.SIGINT, handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
