"""A ROS domain of its own for each test that starts a graph."""

import fcntl
import os
import random
from unittest.mock import patch

from observe import until

from perception_nodes.transport.domain import presence_file
from perception_nodes.transport.lock import Locked, open_locked
from perception_nodes.transport.memory import SHM_FOLDER
from perception_nodes.transport.remains import sweep

DOMAINS = range(1, 102)
"""Those whose ports are free on every platform."""
ENDED_S = 60.0


def own_domain():
    """A domain that no other test, nor another run beside this one, is in; empty at both ends.

    What the test changes of the environment is undone: nodes that run in this process set it.
    """
    number, path, lock = _claimed()
    try:
        with patch.dict(os.environ, ROS_DOMAIN_ID=str(number)):
            _empty(number)
            yield number
            # Nodes whose supervisor was killed end some moments after it.
            until(lambda: _empty(number), within_s=ENDED_S, why=lambda: f"domain {number} is used")
    finally:
        path.unlink()
        os.close(lock)


def _claimed():
    while True:
        # Two containers may share a network and give the same process ids, but not the locks.
        number = random.SystemRandom().choice(DOMAINS)
        path = SHM_FOLDER / f"perceptiontest_domain{number}.lock"
        try:
            return number, path, open_locked(path, fcntl.LOCK_EX)
        except Locked:
            continue


def _empty(number):
    """Remove what is left in a domain; whether nobody uses it any more."""
    sweep(number)
    # A supervisor that was killed leaves the files of its claims, free for the next one to take.
    for claim in SHM_FOLDER.glob(f"perception_graph{number}_*"):
        claim.unlink(missing_ok=True)
    return not presence_file(number).exists()
