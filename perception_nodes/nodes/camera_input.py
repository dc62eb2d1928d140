"""Reports what keeps a camera's frames from coming, to the watchdog and in the log."""

import re
import time

from perception_nodes.cameras.awaited import Trouble
from perception_nodes.core.frame import fitting
from perception_nodes.core.records import Changed, InputState
from perception_nodes.nodes.base import Period
from perception_nodes.nodes.redundant import RedundantNode

DISCOVERY_NS = 2_000_000_000
"""Publishers are discovered this long after the start; before, there seem to be none."""
AGAIN_NS = 10_000_000_000
_NUMBER = re.compile(r"\d+")


class CameraInput:
    """Reports troubles with a node's input."""

    def __init__(self, node: RedundantNode) -> None:
        self._node = node
        self._begin_ns = time.monotonic_ns() + DISCOVERY_NS
        self._last = ""
        self._again = Period(AGAIN_NS)

    def report(self, trouble: Trouble | None) -> None:
        """Report a trouble, or that there is none; to be called once a second while at work."""
        if time.monotonic_ns() < self._begin_ns:
            return
        text = "" if trouble is None else str(trouble)
        self._node.records.send(InputState(trouble=fitting(text)))
        if not text:
            if self._last:
                self._node.get_logger().info("the camera's frames come")
        elif _kind(text) != _kind(self._last) or self._again.due():
            self._again = Period(AGAIN_NS)
            self._again.due()
            self._node.get_logger().warning(text)
        self._last = text

    def changed(self, text: str) -> None:
        """Report that the camera's images have become others."""
        self._node.records.send(Changed(change=fitting(text)))
        self._node.get_logger().warning(text)


def _kind(text: str) -> str:
    """The text without the numbers in it, which change each second."""
    return _NUMBER.sub("", text)
