"""`perception messages`: the ROS message packages, where no distribution brings them."""

import os
import sys

from perception_nodes.cli import options
from perception_nodes.system.environment import SAFE_PATH, share_folder


def messages(wheel: options.WrittenFolder = None) -> None:
    """Build the ROS message packages into this Python's virtual environment; takes a minute.

    It is for environments that have ROS from wheels. On a full ROS installation colcon builds them.
    Needs a C++ compiler, the headers of Python, and pip install 'perception_nodes[messages]'.

    Options:
        wheel: Folder that gets a wheel of them too, for machines of the same Python and processor
            that have no compiler.

    Example: perception messages --wheel dist
    """
    own = [] if wheel is None else ["--wheel", str(wheel)]
    script = str(share_folder() / "interfaces/build.py")
    # The script imports modules from its own folder.
    environment = {name: value for name, value in os.environ.items() if name != SAFE_PATH}
    os.execve(sys.executable, [sys.executable, script, *own], environment)
