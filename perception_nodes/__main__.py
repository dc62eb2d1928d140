"""`perception`, and `python -m perception_nodes`: loads the commands, which takes a second."""

import os
import sys
from contextlib import nullcontext
from types import FrameType

from perception_nodes.system.output import Relay, make_unfailing, open_missing
from perception_nodes.system.signals import handled_stopping

RUN_ON = ("run", "view", "camera")
"""Commands that run until they are stopped, and so must not wait for readers of their messages."""


def main() -> int:
    """Run the command line. Until it is loaded, the signals that end it do so at once."""
    open_missing()
    make_unfailing()
    runs_on = sys.argv[1:2] and sys.argv[1] in RUN_ON
    with handled_stopping(_end), Relay() if runs_on else nullcontext():
        from perception_nodes.cli.app import main as run
        from perception_nodes.system.environment import leave_out_working_folder

        leave_out_working_folder()
        return run()


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
