"""`perception`, and `python -m perception_nodes`: loads the commands, which takes a second."""

import os
import sys
from types import FrameType

from perception_nodes.system.signals import handled_stopping


def main() -> int:
    """Run the command line. Until it is loaded, the signals that end it do so at once."""
    with handled_stopping(_end):
        from perception_nodes.cli.app import main as run
        from perception_nodes.system.environment import leave_out_working_folder

        leave_out_working_folder()
        return run()


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
