"""Only calls the backend, at the camera's pace: the cost of inference alone on a vehicle.

In a tight loop the same call is faster, because caches stay warm and threads stay awake; beside a
camera at 30 Hz, as in the pipeline, they do not.
"""

import json
import time
from pathlib import Path

import numpy as np
from vision_msgs.msg import Detection2DArray

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.cameras.channel import camera_reader
from perception_nodes.lab.graphs import BareInferenceSettings
from perception_nodes.networks.model import load_model
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.realtime import RANKS


class BareInferenceNode(PerceptionNode):
    """Infers the same picture whenever the camera has a frame."""

    settings_type = BareInferenceSettings
    rank = RANKS["detector"]  # the graph that it is compared with has it too

    def open(self) -> None:
        """Load the model, listen to the camera."""
        settings: BareInferenceSettings = self.settings
        model = load_model(settings.model)
        self._backend = open_backend(
            settings.backend, BackendSettings(settings.threads, str(cache_folder()))
        )
        self._backend.load(model)
        random = np.random.default_rng(0)
        size = (model.input.height, model.input.width, 3)
        self._image = random.integers(0, 256, size, dtype=np.uint8)
        self._camera = camera_reader(self.endpoint, settings.camera)
        self._durations_ns: list[int] = []
        # The player waits for a listener before it starts the camera.
        topic = settings.topic_of(settings.detections_topic)
        self.add_subscription(Detection2DArray, topic, lambda _: None, 1)

    def step(self) -> None:
        """Infer once for each frame."""
        self._camera.wait(IDLE_WAIT_MS)
        if (sample := self._camera.newest()) is None:
            return
        start_ns = time.monotonic_ns()
        self._backend.infer(self._image)
        self._durations_ns.append(time.monotonic_ns() - start_ns)
        sample.release()

    def close(self) -> None:
        """Write the durations."""
        if self.settings.durations_file and hasattr(self, "_durations_ns"):
            write_whole(Path(self.settings.durations_file), json.dumps(self._durations_ns))


if __name__ == "__main__":
    BareInferenceNode.main()
