"""What was found in the frames of one camera: names, identities and places, for the page."""

from collections import OrderedDict
from typing import Any

from perception_nodes.core.frame import DetectionRecord
from perception_nodes.report.annotate import class_colour
from perception_nodes.report.recording import FrameDetections, nanoseconds
from perception_nodes.view.feed import ShownPicture
from perception_nodes.view.identities import Ids, Place, identified, place_of
from perception_nodes.view.pictures import Shot, keep


class Objects:
    """Joins the detections of shared memory with what topics tell about them.

    Attributes:
        names: of the classes, by number.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._ids: OrderedDict[tuple[int, Place], Ids] = OrderedDict()

    def identify(self, message: Any) -> None:
        """Keep the identities of a `Detection2DArray` of tracked detections."""
        place, ids = identified(message)
        keep(self._ids, (nanoseconds(message.header.stamp), place), ids)

    def found(self, report: Any, record: DetectionRecord | None) -> FrameDetections | None:
        """The objects of a frame; None if nothing was published, or it did not reach us.

        Args:
            report: the frame's, an object with the attributes of `FrameReport`.
            record: its detections; None if there are none.
        """
        if record is None or not report.published_ns or record.count != report.detections:
            return None
        objects, names = record.detections(), self.names
        labels = (names[n] if n < len(names) else f"class {n}" for n in objects.classes)
        return FrameDetections(tuple(labels), objects.scores, objects.boxes)

    def picture(self, report: Any, shot: Shot, found: FrameDetections | None) -> ShownPicture:
        """A frame as the page shows it, with its objects if they are known."""
        if found is None:
            return ShownPicture(shot.jpeg(), None)
        key = nanoseconds(report.header.stamp), place_of(found.boxes)
        ids = self._ids.get(key, (None,) * len(found))
        places = shot.place(found.boxes).round(4).tolist()
        objects = [
            [*place, label, round(score, 2), class_colour(label), track]
            for place, label, score, track in zip(
                places, found.labels, found.scores.tolist(), ids, strict=True
            )
        ]
        return ShownPicture(shot.jpeg(), objects)
