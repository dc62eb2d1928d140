"""Pictures for people: a camera frame, scaled, with its boxes, status and latency."""

import zlib
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import IN_TIME, FrameStatus, ImageView, latency_ms
from perception_nodes.preprocess.compressed import source_size
from perception_nodes.preprocess.converter import Converter
from perception_nodes.report.changes import Change
from perception_nodes.report.palette import LOOK_COLOUR, STATUS_COLOURS
from perception_nodes.report.recording import DetectedObject, FrameDetections, ReportedFrame

Picture = NDArray[np.uint8]
MAX_WIDTH, MAX_HEIGHT = 960, 1920
MIN_WIDTH = 320
"""Smaller pictures are enlarged to this width, since labels need room."""

CLASS_COLOURS = {
    "person": "#ff4d6d",
    "bicycle": "#ffb703",
    "car": "#3a9dff",
    "motorcycle": "#c77dff",
    "bus": "#2dd4bf",
    "truck": "#80ed99",
    "traffic light": "#ffd60a",
    "stop sign": "#ff7b39",
}
OTHER_COLOURS = tuple(CLASS_COLOURS.values())
NO_REPORT_COLOUR = "#343a40"
BEFORE_COLOUR = "#ff3b5c"
AFTER_COLOUR = "#2ee66b"
_FONT = cv2.FONT_HERSHEY_SIMPLEX
"""OpenCV 5 draws it by a font of many scripts, OpenCV 4 draws "?" for what is not ASCII."""


class PictureMaker:
    """Makes BGR pictures from the frames of one camera."""

    def __init__(self, scaled: bool = True, sample_bits: int = 0) -> None:
        """Prepare.

        Args:
            scaled: whether to scale pictures to a width that suits people, instead of keeping the
                frames' size.
            sample_bits: see `Preprocessor`.
        """
        self._scaled, self._converter = scaled, Converter(sample_bits)

    def of(self, view: ImageView) -> tuple[Picture, float]:
        """Make the picture of a frame.

        Returns:
            uint8 [h, w, 3] BGR with even sizes, as video needs them; picture pixels per source
            pixel.

        Raises:
            FrameRejected: the frame cannot be read.
        """
        width, height = source_size(view)
        scale = 1.0
        if self._scaled:
            scale = min(min(MAX_WIDTH, max(width, MIN_WIDTH)) / width, MAX_HEIGHT / height)
        size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
        return self._converter.convert(view, size), scale


def decoded(jpeg: bytes) -> Picture:
    """Decode a JPEG."""
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def blank(width: int, height: int, text: str) -> Picture:
    """A grey picture with a text, in place of a frame that cannot be decoded."""
    picture = np.full((height, width, 3), 40, np.uint8)
    text = text[:90].encode(errors="replace").decode()  # file names need not be text
    cv2.putText(picture, text, (12, height // 2), _FONT, 0.5, (235,) * 3, 1, cv2.LINE_AA)
    return picture


def draw(
    picture: Picture, scale: float, found: FrameDetections | None, report: ReportedFrame | None
) -> None:
    """Draw the second looks, objects, status and latency of a frame, in place.

    Args:
        picture: uint8 [h, w, 3] BGR.
        scale: picture pixels per source pixel.
        found: objects; None if no detections were published.
        report: report of the frame; None if there is none.
    """
    for look in [] if report is None else report.looks:
        region = [round(side * scale) for side in look[:4]]
        cv2.rectangle(picture, region, bgr(LOOK_COLOUR), 1)
    if found is not None:
        # The best object comes first; it is drawn last, so that its label is not covered.
        for label, score, box in reversed(found.objects(scale)):
            _draw_box(picture, f"{label} {score:.2f}", class_colour(label), box)
    caption, colour = status_of(report)
    if report is not None and (latency := latency_ms(report)):
        caption += f"  {latency:.1f} ms"  # under simulated time it is 0
    if report is None or report.status not in IN_TIME:
        height, width = picture.shape[:2]
        cv2.rectangle(picture, (2, 2), (width - 3, height - 3), bgr(colour), 5)
    _draw_label(picture, caption, (8, 8), bgr(colour), 0.55)


def draw_changes(picture: Picture, scale: float, changes: Sequence[Change]) -> None:
    """Draw the changes against a golden, in place: the object before, and the object now."""
    for item, colour, text in changed_objects(changes):
        box = (np.array(item.box, np.float32) * scale).tolist()
        _draw_box(picture, f"{item.label} {item.score:.2f} {text}", colour, box)
    texts = [change.kind.value for change in changes if not (change.before or change.after)]
    for text in texts[:1]:
        _draw_label(picture, text, (8, 8), bgr(BEFORE_COLOUR), 0.55)


def changed_objects(changes: Iterable[Change]) -> Iterator[tuple[DetectedObject, str, str]]:
    """The objects of changes, each with its colour and its text in a picture."""
    for change in changes:
        for item, colour in ((change.before, BEFORE_COLOUR), (change.after, AFTER_COLOUR)):
            if item is not None:
                is_last = item is (change.after or change.before)
                yield item, colour, change.kind.value if is_last else "before"


def status_of(report: ReportedFrame | None) -> tuple[str, str]:
    """The status of a frame in words, and its colour."""
    if report is None:
        return "NO REPORT", NO_REPORT_COLOUR
    status = FrameStatus(report.status)
    return status.name.replace("_", " "), STATUS_COLOURS[status]


def class_colour(label: str) -> str:
    """The colour of a class as `#rrggbb`, the same in every picture."""
    return CLASS_COLOURS.get(label, OTHER_COLOURS[zlib.crc32(label.encode()) % len(OTHER_COLOURS)])


def bgr(colour: str) -> tuple[int, int, int]:
    """Blue, green, red of `#rrggbb`."""
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)


def _draw_box(picture: Picture, text: str, colour_name: str, box: Sequence[float]) -> None:
    colour = bgr(colour_name)
    x1, y1, x2, y2 = map(round, box)
    cv2.rectangle(picture, (x1, y1), (x2, y2), (20, 20, 20), 4)
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2)
    _draw_label(picture, text, (x1 - 1, y1 - 17), colour, 0.4)


def _draw_label(
    picture: Picture, text: str, corner: tuple[int, int], colour: tuple[int, int, int], size: float
) -> None:
    """Draw a text on a filled rectangle, moved so that it lies within the picture."""
    (width, height), baseline = cv2.getTextSize(text, _FONT, size, 1)
    margin = round(8 * size)
    chip_width, chip_height = width + 2 * margin, height + baseline + margin
    x = min(max(corner[0], 0), max(picture.shape[1] - chip_width, 0))
    y = min(max(corner[1], 0), max(picture.shape[0] - chip_height, 0))
    cv2.rectangle(picture, (x, y), (x + chip_width, y + chip_height), colour, cv2.FILLED)
    blue, green, red = colour
    dark = 0.114 * blue + 0.587 * green + 0.299 * red < 140
    ink = (255, 255, 255) if dark else (20, 20, 20)
    at = (x + margin, y + margin // 2 + height + 1)
    cv2.putText(picture, text, at, _FONT, size, ink, 1, cv2.LINE_AA)
