"""The detector with a backend that fails on demand; see `faults.faulty_backend`."""

from perception_nodes.faults import faulty_backend
from perception_nodes.faults.graphs import FaultyDetectorSettings
from perception_nodes.nodes.detector_node import DetectorNode


class FaultyDetectorNode(DetectorNode):
    """A detector that knows the backend `faulty`, and no other."""

    settings_type = FaultyDetectorSettings
    executable = "detector_node"


if __name__ == "__main__":
    faulty_backend.register()
    FaultyDetectorNode.main()
