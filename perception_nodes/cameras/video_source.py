"""Video streams and files as cameras: RTSP and all else that FFmpeg opens, through PyAV.

A thread of its own reads and decodes the frames, since both the network and the codec may block.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import closing
from functools import partial
from threading import Thread
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
from perception_nodes.cameras.mailbox import STOP_S, Arrived, Mailbox
from perception_nodes.cameras.source_for import SDP
from perception_nodes.core.errors import PerceptionError
from perception_nodes.system.signals import ASKED_TO_END
from perception_nodes.transport.shm import Writer
from perception_nodes.video.demux import VideoInput, VideoPicture
from perception_nodes.video.ffmpeg import AS_STORED, Orientation, orientation, pyav, write_nv12
from perception_nodes.video.times import JUMP_NS, FileTimes, LossCounter, StatedEnd, StreamClock

TIMEOUTS_S = (10.0, JUMP_NS / 1e9)
"""How long to wait until a stream is open, and for its next packet."""
SILENT_S = 4.0
"""A stream that gives no picture for so long is opened again."""
NOTICE_S = 0.5
"""Lost frames are reported after this time at the latest, also where no picture comes."""
LOW_DELAY = {"fflags": "nobuffer", "flags": "low_delay", "allowed_media_types": "video"}
TRANSPORTS = {
    "tcp": {
        "rtsp_transport": "tcp",
        "max_delay": "0",
        "reorder_queue_size": "2",  # the least with which FFmpeg looks at the packets' numbers
    },
    "udp": {
        "rtsp_transport": "udp",
        "protocol_whitelist": "file,rtp,udp,tcp,rtsp",
        "max_delay": "20000",  # microseconds
        "reorder_queue_size": "64",
        "buffer_size": str(4 << 20),  # a key frame comes at once
    },
}
"""Options of FFmpeg. Reordering delays a packet only if the one before it is missing, and only
until a second one has come; over UDP, until 64 have come, or for 20 ms."""
NO_TIMES = 1 << 7
"""FFmpeg's AVFMT_NOTIMESTAMPS: the format has no times; packets have invented ones, or none."""
PLAIN_RATE_HZ = 25.0
"""The rate of a file without times that states no rate; FFmpeg assumes the same."""
CUT_OFF = "the file is cut off"
HTTP = "http://", "https://"
OTHER_SIZE = "it now gives frames of another size"


class VideoSource:
    """A stream or file, see `CameraSource`."""

    _slots: Writer[CameraHeader]
    """Of the channel; from `start` on."""

    def __init__(self, url: str, loop: bool = False, transport: str = "tcp") -> None:
        """Nothing is opened yet.

        Args:
            url: a file, a stream with its scheme, or the SDP file of one.
            loop: whether a file begins anew at its end.
            transport: what packets of RTSP come by, one of `TRANSPORTS`.
        """
        self._url, self._loop = url, loop
        self._is_sdp = url.endswith(SDP)
        self._transport = "udp" if self._is_sdp else transport
        self._video: VideoInput | None = None
        self._decoded = Mailbox()
        self._orientation = AS_STORED

    def open(self) -> CameraFormat:
        """Open the stream, see `CameraSource`."""
        self.close()
        self._is_live = "://" in self._url or self._is_sdp
        video = self._opened_beside() if self._is_live else self._opened()
        if self._url.startswith(HTTP) and video.container.duration:
            self._is_live = False  # a server sends a file as fast as it can
        # A stream comes back, as a server does, and a loop begins anew; a file is not played twice.
        is_back = self._is_live or "://" in self._url or self._loop
        self._broken = CameraGone if is_back else CameraEnded
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
        if self._is_sdp or self._url.startswith("rtsp"):
            stamps += ", or the sender's where it reports a clock like ours"
        what = f"{context.name} {width}x{height} at {rate_hz:g} Hz, decoded, one copy"
        description = f"{self._url}, {what}; stamps are {stamps}"
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

    def _opened_beside(self) -> VideoInput:
        """Open in a thread: a process that is asked to end does not wait for a host that is not."""
        opened: Future[VideoInput] = Future()

        def run() -> None:
            try:
                opened.set_result(self._opened())
            except BaseException as error:
                opened.set_exception(error)

        Thread(target=run, name="opening", daemon=True).start()
        while not wait_for([opened], STOP_S).done:
            if ASKED_TO_END.is_set():
                raise CameraGone(f"{self._url} is not open yet")
        return opened.result()

    def _opened(self) -> VideoInput:
        options = {"options": LOW_DELAY | TRANSPORTS[self._transport]} if self._is_live else {}
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
        self._decoded.fill(partial(self._decode, self._video, self._decoded))
        self._video = None  # the thread closes it

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The newest decoded frame, see `CameraSource`."""
        if (found := self._decoded.take(timeout_ms / 1e3)) is None:
            return None
        if found.frame is None:
            return CapturedFrame(None, found.lost, found.cause)
        _, width, height, _, size_bytes = self._frame
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

    def _decode(self, video: VideoInput, decoded: Mailbox) -> None:
        """Fill the mailbox, in the thread that the video belongs to from here on."""
        losses = LossCounter()
        end, kind = " has ended", CameraGone if self._is_live else CameraEnded
        frames = self._live if self._is_live else self._played
        with closing(video):
            try:
                for arrived in frames(video, decoded, losses):
                    decoded.put(arrived)
            except Exception as error:  # PyAV's errors have many types; the reader gets all
                reason = getattr(error, "strerror", None) or str(error)
                _kept(video.whole.drop(reason), losses)
                end, kind = f": {reason}", self._broken
        lost, cause = losses.take()
        if lost:
            decoded.put(Arrived(None, time.time_ns(), lost, cause))
        decoded.put(kind(f"{self._url}{end}"))

    def _live(self, video: VideoInput, decoded: Mailbox, losses: LossCounter) -> Iterator[Arrived]:
        clock, tick_ns = StreamClock(), video.stream.time_base * 1_000_000_000
        shown_s = told_s = time.monotonic()
        for found in video.live_pictures(decoded.closed):
            if found.has_gap:
                losses.expect_gap()
            now_s = time.monotonic()
            for picture in found.pictures:
                has_time = self._has_times and picture.pts is not None
                presented_ns = round(picture.pts * tick_ns) if has_time else None
                if presented_ns is not None:
                    losses.follow(presented_ns, picture.cause)
                elif picture.frame is None:
                    losses.add(1, picture.cause)
                if picture.frame is not None:
                    self._check_size(picture.frame, losses)
                    arrival = found.arrived_ns, found.sender_offset_ns
                    stamp_ns = clock.stamp_ns(presented_ns, *arrival)
                    shown_s = told_s = now_s
                    yield Arrived(picture.frame, stamp_ns, *losses.take())
            if now_s > told_s + NOTICE_S:
                told_s, (lost, cause) = now_s, losses.take()
                if lost:
                    yield Arrived(None, found.arrived_ns, lost, cause)
            if now_s > shown_s + SILENT_S:
                raise CameraGone(f"no picture for {SILENT_S:g} s")

    def _played(
        self, video: VideoInput, decoded: Mailbox, losses: LossCounter
    ) -> Iterator[Arrived]:
        """The frames of a file, each when it is due."""
        start_ns, stated_end = 0, StatedEnd.of(video)
        while True:
            times = FileTimes(video.stream, video.rate_hz(PLAIN_RATE_HZ))
            due_ns = 0
            for picture in video.pictures():
                at_ns = times.next_ns(picture.pts)
                for frame in _kept([picture], losses):
                    self._check_size(frame, losses)
                    if not due_ns:
                        start_ns = max(time.monotonic_ns() - at_ns, start_ns)
                    due_ns = start_ns + at_ns
                    if decoded.closed.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
                        return
                    # The wall clock may have been set; only the stamps follow it.
                    stamp_ns = time.time_ns() - (time.monotonic_ns() - due_ns)
                    yield Arrived(frame, stamp_ns, *losses.take())
            if missing_s := stated_end.missing_s(times):
                stated = video.frame_count() if video.stream.frames else 0
                by_time = round(missing_s * video.rate_hz(PLAIN_RATE_HZ)) - 1
                losses.add(max(stated - times.count if stated else by_time, 0), CUT_OFF)
            if not self._loop or not due_ns:
                return
            start_ns += times.next_ns(None)
            video.container.seek(0)

    def _check_size(self, frame: Any, losses: LossCounter) -> None:
        if self._upright(frame.width & ~1, frame.height & ~1) != self._frame[1:3]:
            losses.add(1, OTHER_SIZE)
            raise self._broken(OTHER_SIZE)


def _kept(pictures: Iterable[VideoPicture], losses: LossCounter) -> list[Any]:
    """The frames of pictures; those that are lost are counted."""
    for one in pictures:
        if one.frame is None:
            losses.add(1, one.cause)
    return [one.frame for one in pictures if one.frame is not None]
