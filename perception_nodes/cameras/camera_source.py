"""The interface of a source of live frames: open it once, then capture frame after frame."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from perception_nodes.cameras.credentials import redacted
from perception_nodes.core.errors import PerceptionError

if TYPE_CHECKING:  # the doctor looks for cameras where shared memory cannot be imported, too
    from perception_nodes.cameras.channel import CameraHeader
    from perception_nodes.transport.shm import Sample, Writer

YUV = ("nv12", "nv21", "yuyv", "uyvy")


class CameraError(PerceptionError):
    """A source cannot be used; the text names it without passwords, the reason and the remedy."""

    def __init__(self, text: str) -> None:
        super().__init__(redacted(text))


class CameraGone(CameraError):
    """A source that worked is gone, such as an unplugged camera; it may come back."""


class CameraEnded(CameraError):
    """A file that is not begun anew has been played to its end."""


@dataclass(frozen=True)
class CameraFormat:
    """What an opened source needs, and states.

    Attributes:
        size_bytes: of a frame, at most.
        description: device, encoding, size, rate and number of copies, for people.
        loaned: slots that the source fills at once.
        is_file: whether it is a file, which begins when it is started, and pauses where its times
            have a gap.
    """

    size_bytes: int
    description: str
    loaned: int = 2
    is_file: bool = False


def colour_note(encoding: str, matrix: str, is_full_range: bool) -> str:
    """A note on YUV that states other colours than those it is read as; else an empty text.

    Args:
        encoding: ROS name.
        matrix: name of the matrix that the source states, such as "BT.709"; empty if it does not.
        is_full_range: whether it states that black is 0 and white 255.
    """
    stated = [matrix] if matrix not in ("", "BT.601") else []
    stated += ["full range"] if is_full_range else []
    if encoding not in YUV or not stated:
        return ""
    return f"; it states {' in '.join(stated)}, and is read as BT.601 in limited range"


@dataclass(frozen=True)
class CapturedFrame:
    """A frame in its slot, not sent yet.

    Attributes:
        sample: the slot; its header has size, encoding and stamp, but no number. None if there are
            only lost frames so far.
        lost: frames that the sensor, its driver or the network lost since the frame before.
        cause: of the loss, where it is known.
    """

    sample: "Sample[CameraHeader] | None"
    lost: int
    cause: str = ""


class CameraSource(Protocol):
    """A camera, a stream, or a file that is played as one."""

    def open(self) -> CameraFormat:
        """Open the device and agree on a format.

        Raises:
            CameraError: it is not there, in use, or cannot give what is asked for.
        """

    def start(self, slots: "Writer[CameraHeader]") -> None:
        """Start to fill slots of `size_bytes`.

        Raises:
            CameraError: the device refuses.
        """

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The next frame; None if none comes in time.

        Raises:
            CameraGone: the source was unplugged, or its stream ended.
            CameraEnded: there is nothing left to play.
            CameraError: it failed.
        """

    def close(self) -> None:
        """Stop and give everything back; may be called at any time, and twice."""
