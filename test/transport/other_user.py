"""Another user of this machine: a process that gives up being root, which takes root to start."""

import os
import subprocess
import sys

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOBODY = 65_534
OPEN_ALL = """
import contextlib, os, socket, sys
if sys.argv[1] != "0":
    os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
for path in sys.argv[2:]:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags))
            print(path)
        except PermissionError:
            pass
        except OSError:  # a socket
            refused = contextlib.suppress(PermissionError, FileNotFoundError)
            with refused, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
                peer.connect(path)
                print(path)
"""


def opened_by(user, paths):
    """Which files and sockets a user can open."""
    command = [sys.executable, "-I", "-S", "-c", OPEN_ALL, str(user), *map(str, paths)]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return set(listed.stdout.split())
