"""The detector with a backend that fails on demand; see `faults.faulty_backend`."""

from perception_nodes.faults import faulty_backend
from perception_nodes.faults.graphs import FaultyDetectorSettings
from perception_nodes.nodes import detector_node


class DetectorNode(detector_node.DetectorNode):
    """A detector that knows the backend `faulty`, and no other."""

    settings_type = FaultyDetectorSettings


if __name__ == "__main__":
    faulty_backend.register()
    DetectorNode.main()
