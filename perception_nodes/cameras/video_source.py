"""Video streams and files as cameras: RTSP and all else that FFmpeg opens, through PyAV.

A thread of its own reads and decodes the frames, since both the network and the codec may block.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

from perception_nodes.cameras.camera_source import (
    CameraEnded,
    CameraError,
    CameraFormat,
    CameraGone,
    CapturedFrame,
)
from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.cameras.credentials import with_passwords
from perception_nodes.cameras.mailbox import Arrived, Mailbox
from perception_nodes.core.errors import PerceptionError
from perception_nodes.transport.shm import Writer
from perception_nodes.video.demux import VideoInput, VideoPicture
from perception_nodes.video.ffmpeg import AS_STORED, Orientation, orientation, pyav, write_nv12
from perception_nodes.video.times import JUMP_NS, FileTimes, LossCounter, StatedEnd, StreamClock

TIMEOUTS_S = (10.0, JUMP_NS / 1e9)
"""How long to wait until a stream is open, and for its next packet."""
LOW_DELAY = {
    "fflags": "nobuffer",
    "flags": "low_delay",
    "rtsp_transport": "tcp",
    "max_delay": "0",
    "reorder_queue_size": "2",  # the least with which FFmpeg looks at the packets' numbers
    "allowed_media_types": "video",
}
"""Options of FFmpeg. Reordering delays a packet only if the one before it is missing, and only
until a second one has come."""
NO_TIMES = 1 << 7
"""FFmpeg's AVFMT_NOTIMESTAMPS: the format has no times; packets have invented ones, or none."""
PLAIN_RATE_HZ = 25.0
"""The rate of a file without times that states no rate; FFmpeg assumes the same."""
CUT_OFF = "the file is cut off"
HTTP = "http://", "https://"
OTHER_SIZE = "the size of the frames changed"


class VideoSource:
    """A stream or file, see `CameraSource`."""

    def __init__(self, url: str, loop: bool = False) -> None:
        """Nothing is opened yet.

        Args:
            url: a file, or a stream with its scheme.
            loop: whether a file begins anew at its end.
        """
        self._url, self._loop = url, loop
        self._video: VideoInput | None = None
        self._decoded, self._losses = Mailbox(), LossCounter()
        self._orientation = AS_STORED
        self._slots: Writer[CameraHeader] | None = None

    def open(self) -> CameraFormat:
        """Open the stream, see `CameraSource`."""
        self.close()
        self._is_live = "://" in self._url
        video = self._opened()
        if self._url.startswith(HTTP) and video.container.duration:
            self._is_live = False  # a server sends a file as fast as it can
        # A stream comes back, as a server does, and a loop begins anew; a file is not played twice.
        self._broken = CameraGone if "://" in self._url or self._loop else CameraEnded
        self._orientation = AS_STORED
        if not self._is_live:
            self._orientation = self._orientation_of_first(video)
            video = self._opened()
        self._video = video
        context = video.stream.codec_context
        self._has_times = not video.container.format.flags & NO_TIMES
        width, height = self._upright(context.width & ~1, context.height & ~1)
        if not width or not height:
            raise CameraGone(f"{self._url}: no frame size is known yet")
        self._frame = "nv12", width, height, width, width * height * 3 // 2
        rate_hz = video.rate_hz(0.0)
        stamps = "of arrival" + ", without its jitter" * self._has_times if self._is_live else "now"
        description = (
            f"{self._url}, {context.name} {width}x{height} at {rate_hz:g} Hz, decoded, one copy; "
            f"stamps are {stamps}"
        )
        return CameraFormat(self._frame[-1], description, is_file=not self._is_live)

    def _upright(self, width: int, height: int) -> tuple[int, int]:
        return (width, height) if self._orientation[0] else (height, width)

    def _orientation_of_first(self, video: VideoInput) -> Orientation:
        """How the pictures of a file, which is closed, are to be shown: only they state it."""
        with closing(video):
            try:
                frames = (one.frame for one in video.pictures() if one.frame is not None)
                return next(map(orientation, frames), AS_STORED)
            except pyav().FFmpegError:
                return AS_STORED  # playing the file reports the error

    def _opened(self) -> VideoInput:
        options = {"options": {**LOW_DELAY}} if self._is_live else {}
        try:
            url = with_passwords(self._url) if "://" in self._url else self._url
            video = VideoInput(url, self._is_live, timeout=TIMEOUTS_S, **options)
        except PerceptionError as error:
            raise CameraError(f"{self._url}: {error}") from error
        except pyav().FFmpegError as error:
            kind = CameraGone if self._is_live else CameraError
            raise kind(f"{self._url} cannot be opened: {error.strerror}") from error
        if video.container.format.name == "hls":
            video.close()
            raise CameraError(f"{self._url}: HLS delays pictures by seconds; use the camera's RTSP")
        return video

    def start(self, slots: Writer[CameraHeader]) -> None:
        """Start to decode, see `CameraSource`."""
        assert self._video is not None
        self._slots, self._decoded = slots, Mailbox()
        self._decoded.fill(partial(self._decode, self._video))

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The newest decoded frame, see `CameraSource`."""
        assert self._slots is not None and self._video is not None
        found = self._decoded.take(timeout_ms / 1e3)
        if found is None:
            return None
        _, width, height, _, size_bytes = self._frame
        if self._upright(found.frame.width & ~1, found.frame.height & ~1) != (width, height):
            whole = self._video.whole
            self.close()  # its thread counts losses too
            self._kept(whole.drop(OTHER_SIZE))
            self._losses.add(found.lost + 1, found.cause or OTHER_SIZE)
            raise self._broken(f"{self._url} now gives frames of another size")
        sample = self._slots.loan(size_bytes)
        write_nv12(found.frame, sample.payload.reshape(height * 3 // 2, width), self._orientation)
        sample.header.describe(found.stamp_ns, *self._frame)
        return CapturedFrame(sample, found.lost, found.cause)

    def close(self) -> None:
        """Stop, see `CameraSource`."""
        self._decoded.close()
        if self._video is not None:
            self._video.close()
            self._video = None

    def _decode(self, video: VideoInput) -> None:
        self._losses.begin()
        end, kind = " has ended", CameraGone if self._is_live else CameraEnded
        try:
            for arrived in self._live(video) if self._is_live else self._played(video):
                if self._decoded.closed.is_set():
                    return
                self._decoded.put(arrived)
        except Exception as error:  # PyAV's errors have many types; the reader gets all
            reason = getattr(error, "strerror", None) or str(error)
            self._kept(video.whole.drop(reason))
            end, kind = f": {reason}", self._broken
        # The next frame reports the losses at the end of what comes back.
        lost, cause = self._losses.take() if kind is CameraEnded else (0, "")
        rest = f"; the last {lost} frames are lost: {cause}" if lost else ""
        self._decoded.put(kind(f"{self._url}{end}{rest}"))

    def _live(self, video: VideoInput) -> Iterator[Arrived]:
        clock, tick_ns = StreamClock(), video.stream.time_base * 1_000_000_000
        for pictures, arrived_ns, has_gap in video.live_pictures():
            if self._decoded.closed.is_set():  # a stream may go on without a picture
                return
            if has_gap:
                self._losses.expect_gap()
            for picture in pictures:
                has_time = self._has_times and picture.pts is not None
                presented_ns = round(picture.pts * tick_ns) if has_time else None
                if presented_ns is not None:
                    self._losses.follow(presented_ns, picture.cause)
                elif picture.frame is None:
                    self._losses.add(1, picture.cause)
                if picture.frame is not None:
                    stamp_ns = clock.stamp_ns(presented_ns, arrived_ns)
                    yield Arrived(picture.frame, stamp_ns, *self._losses.take())

    def _kept(self, pictures: Iterable[VideoPicture]) -> list[Any]:
        """The frames of pictures; those that are lost are counted."""
        for one in pictures:
            if one.frame is None:
                self._losses.add(1, one.cause)
        return [one.frame for one in pictures if one.frame is not None]

    def _played(self, video: VideoInput) -> Iterator[Arrived]:
        """The frames of a file, each when it is due."""
        start_ns, stated_end = 0, StatedEnd.of(video)
        while True:
            times = FileTimes(video.stream, video.rate_hz(PLAIN_RATE_HZ))
            due_ns = 0
            for picture in video.pictures():
                at_ns = times.next_ns(picture.pts)
                for frame in self._kept([picture]):
                    if not due_ns:
                        start_ns = max(time.monotonic_ns() - at_ns, start_ns)
                    due_ns = start_ns + at_ns
                    if self._decoded.closed.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
                        return
                    # The wall clock may have been set; only the stamps follow it.
                    stamp_ns = time.time_ns() - (time.monotonic_ns() - due_ns)
                    yield Arrived(frame, stamp_ns, *self._losses.take())
            if missing_s := stated_end.missing_s(times):
                stated = video.frame_count() if video.stream.frames else 0
                by_time = round(missing_s * video.rate_hz(PLAIN_RATE_HZ)) - 1
                self._losses.add(max(stated - times.count if stated else by_time, 0), CUT_OFF)
            if not self._loop or not due_ns:
                return
            start_ns += times.next_ns(None)
            video.container.seek(0)
