"""A video file, read as if a camera had been recorded."""

from collections.abc import Collection, Generator
from contextlib import closing
from pathlib import Path

import numpy as np

from perception_nodes.core.errors import PerceptionError
from perception_nodes.drives.bag_file import BagError, Messages
from perception_nodes.drives.image_messages import FRAME_ID, image_message
from perception_nodes.drives.schemas import IMAGE
from perception_nodes.drives.storage import Storage, Topic
from perception_nodes.transport.cdr_writer import write_no_image
from perception_nodes.video.demux import VideoInput, VideoPicture
from perception_nodes.video.ffmpeg import orientation, pyav, upright
from perception_nodes.video.times import FileTimes, StatedEnd

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
PLAIN_RATE_HZ = 10.0
"""Of a file that states no rate."""
START_NS = 1_000_000_000
"""Stamp of the first frame; 0 would mean that it has none."""
TOPIC = "/camera/image_raw"


class VideoStorage(Storage):
    """A video file as a bag with one topic, `sensor_msgs/msg/Image` in bgr8."""

    def __init__(self, path: Path) -> None:
        """Open it and decode its first frame.

        Raises:
            BagError: it holds no frame that can be decoded.
        """
        super().__init__(path)
        if path.stat().st_size == 0:
            raise BagError(f"{path} is an empty file; copy it again, or leave it out")
        with closing(self._decoded()) as decoded:
            video = next((video for video, picture in decoded if picture.frame is not None), None)
            if video is None:
                why = "; ".join(self.warnings) or str(path)
                remedy = "copy it again, or convert it to H.264"
                raise BagError(f"{why}: no frame can be decoded; {remedy}")
            stream = video.stream
            self._rate_hz = video.rate_hz(PLAIN_RATE_HZ)
            self._end = StatedEnd.of(video)
            is_stated = stream.frames > 0
            about = video.frame_count() if is_stated else self._end.at_s * self._rate_hz
        count = max(round(about), 1)
        self.duration_ns = round(self._end.at_s * 1e9 * (count - 1) / count)
        topic = Topic(TOPIC, IMAGE, count, counted=is_stated, estimated=not is_stated)
        self.topics = {TOPIC: topic}

    @property
    def damaged(self) -> bool:
        """Whether some of what was read so far is damaged."""
        return bool(self.warnings)

    def messages(self, topics: Collection[str]) -> Messages:
        """The frames with the video's own times; an image with the cause replaces a lost frame."""
        times = None
        for video, picture in self._decoded():
            times = times or FileTimes(video.stream, self._rate_hz)
            at_ns = START_NS + times.next_ns(picture.pts)
            yield at_ns, TOPIC, _message(at_ns, picture)
        missing_s = self._end.missing_s(times) if times else 0.0
        if self.topics[TOPIC].estimated and missing_s:
            end = f"its last frame is {missing_s:.2f} s before the end that it states"
            self._notes.note(f"{self._path}: {end}")

    def _decoded(self) -> Generator[tuple[VideoInput, VideoPicture], None, None]:
        """Each picture of the file, with the input that it comes from."""
        av = pyav()
        try:
            # Give the scheme, since a name may hold a colon.
            with closing(VideoInput(f"file:{self._path}")) as video:
                for picture in video.pictures():
                    yield video, picture
        except PerceptionError as error:
            self._notes.note(f"{self._path}: it {error}")
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            self._notes.note(f"{self._path}: it cannot be read any further: {error.strerror}")


def _message(stamp_ns: int, picture: VideoPicture) -> bytes:
    """A picture as `image_message`; a lost picture has no size, and states the cause."""
    if picture.frame is None:
        return write_no_image(stamp_ns, FRAME_ID, picture.cause)
    pixels = picture.frame.reformat(format="bgr24", interpolation="BICUBIC").to_ndarray()
    shown = upright(pixels, orientation(picture.frame))
    return image_message(stamp_ns, np.ascontiguousarray(shown))
