"""The tracks of a replay: as tracker_node makes them by default, but without coasted messages."""

from collections.abc import Sequence

import numpy as np

from perception_nodes.core.frame import Detections, FrameRecord
from perception_nodes.drives.schemas import TRACKS
from perception_nodes.report.recording import TRACKS_TOPIC, FrameDetections, Recorder
from perception_nodes.tracking.tracker import Tracker
from perception_nodes.tracking.tracks import TrackState
from perception_nodes.transport.cdr_writer import write_tracks


class Followed:
    """Follows the objects of a drive and records their tracks.

    Attributes:
        objects: identities that were seen in more than one frame.
    """

    def __init__(self, recorder: Recorder, class_names: Sequence[str]) -> None:
        """Nothing is followed yet."""
        self.objects: set[int] = set()
        self._recorder = recorder
        self._numbers = {name: number for number, name in enumerate(class_names)}
        self._names = [name.encode() for name in class_names]
        self._tracker = Tracker(len(class_names))
        self._without = 0

    def add(self, record: FrameRecord, found: FrameDetections | None, at_ns: int) -> None:
        """Take in the next frame.

        Args:
            record: its complete record.
            found: its objects; None if it gave no detections.
            at_ns: log time of the message.
        """
        if found is None:
            self._without += 1
            return
        classes = np.array([self._numbers[label] for label in found.labels], np.int64)
        time_ns = record.stamp_ns or at_ns  # some cameras give no stamps
        self._tracker.take(time_ns, Detections(found.boxes, found.scores, classes), self._without)
        self._without = 0
        tracks = self._tracker.at(time_ns + record.published_ns - record.capture_ns)
        self.objects |= set(tracks.ids[tracks.states != TrackState.NEW].tolist())
        message = write_tracks(record, record.camera.decode(), tracks, self._names)
        self._recorder.write(TRACKS_TOPIC, TRACKS, at_ns, message)
