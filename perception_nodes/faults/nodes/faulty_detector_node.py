"""The detector with a backend that fails on demand; see `faults.faulty_backend`."""

import sys

from perception_nodes.faults import faulty_backend
from perception_nodes.faults.graphs import FaultyDetectorSettings
from perception_nodes.nodes.detector_node import DetectorNode
from perception_nodes.nodes.running import run_node


class FaultyDetectorNode(DetectorNode):
    """A detector that knows the backend `faulty`, and no other."""

    settings_type = FaultyDetectorSettings


def main() -> int:
    """Entry point."""
    faulty_backend.register()
    return run_node(FaultyDetectorNode, "detector_node")


if __name__ == "__main__":
    sys.exit(main())
