"""Video streams and files as cameras: RTSP and all else that FFmpeg opens, through PyAV.

A decoder takes frames in a thread of its own, since both the network and the codec may keep it
waiting. At most two decoded frames wait; an older one is dropped, and counted as lost.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.cameras.source import (
    CameraEnded,
    CameraError,
    CameraFormat,
    CameraGone,
    CapturedFrame,
)
from perception_nodes.preprocess.video import write_nv12
from perception_nodes.transport.shm import Writer

WAITING = 2
OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0
LOW_DELAY = {
    "fflags": "nobuffer",
    "flags": "low_delay",
    "rtsp_transport": "tcp",
    "max_delay": "0",
    "reorder_queue_size": "0",
}
LIVE = ("rtsp://", "rtsps://", "udp://", "rtp://", "srt://", "http://", "https://")
OFFSET_WINDOW_NS = 30_000_000_000


@dataclass(frozen=True)
class VideoSettings:
    """What is played.

    Attributes:
        url: a file, or a stream with its scheme.
        loop: begin a file anew at its end.
    """

    url: str
    loop: bool = False


class StreamClock:
    """Wall-clock stamps of a stream whose presentation times have an unknown origin.

    The frame with the least delay of the last half minute ties the two clocks together, so that the
    jitter of network and decoder does not reach the stamps. The least delay itself cannot be known
    and is in them: stamps are late by it.
    """

    def __init__(self) -> None:
        """Know nothing of the stream yet."""
        self._offsets: list[tuple[int, int]] = []

    def stamp_ns(self, presented_ns: int, arrived_ns: int) -> int:
        """The stamp of a frame.

        Args:
            presented_ns: its time in the stream.
            arrived_ns: wall clock of its arrival, before it was decoded.
        """
        offset_ns = arrived_ns - presented_ns
        kept = [
            (at_ns, offset)
            for at_ns, offset in self._offsets
            if offset < offset_ns and at_ns > arrived_ns - OFFSET_WINDOW_NS
        ]
        self._offsets = [*kept, (arrived_ns, offset_ns)]
        return presented_ns + self._offsets[0][1]


@dataclass(frozen=True)
class _Decoded:
    frame: Any
    stamp_ns: int
    lost: int


class VideoSource:
    """A stream or file, see `CameraSource`."""

    def __init__(self, settings: VideoSettings) -> None:
        """Take what is to be played; nothing is opened."""
        self._settings = settings
        self._is_live = settings.url.startswith(LIVE)
        self._container: Any = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._decoded: queue.Queue[_Decoded | Exception] = queue.Queue()
        self._slots: Writer[CameraHeader] | None = None

    def open(self) -> CameraFormat:
        """Open the stream, see `CameraSource`."""
        self.close()
        self._container = self._opened()
        video = self._container.streams.video[0]
        video.thread_type = "NONE"  # threads of the decoder would each hold a frame back
        width, height = video.codec_context.width & ~1, video.codec_context.height & ~1
        if not width or not height:
            raise CameraGone(f"{self._settings.url}: no frame size is known yet")
        rate_hz = float(video.average_rate or video.guessed_rate or 0)
        self._size = width, height
        return CameraFormat(
            "nv12",
            width,
            height,
            width,
            width * height * 3 // 2,
            rate_hz,
            1,
            2,
            f"{self._settings.url}, {video.codec_context.name} {width}x{height} at {rate_hz:g} Hz, "
            "decoded, one copy; "
            + ("stamps are of arrival, without its jitter" if self._is_live else "stamps are now"),
        )

    def _opened(self) -> Any:
        try:
            import av
        except ImportError as error:
            raise CameraError(
                f"{self._settings.url}: video needs PyAV; install it with: pip install av"
            ) from error
        options = {**LOW_DELAY} if self._is_live else {}
        try:
            container = av.open(
                self._settings.url, options=options, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S)
            )
        except av.FFmpegError as error:
            kind = CameraGone if self._is_live else CameraError
            raise kind(f"{self._settings.url} cannot be opened: {error.strerror}") from error
        if not container.streams.video:
            container.close()
            raise CameraError(f"{self._settings.url} has no video stream")
        return container

    def start(self, slots: Writer[CameraHeader]) -> None:
        """Start to decode, see `CameraSource`."""
        self._slots, self._decoded = slots, queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._decode, name="decoding", daemon=True)
        self._thread.start()

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The newest decoded frame, see `CameraSource`."""
        assert self._slots is not None
        try:
            found = self._decoded.get(timeout=timeout_ms / 1e3)
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        width, height = self._size
        if (found.frame.width & ~1, found.frame.height & ~1) != self._size:
            raise CameraGone(f"{self._settings.url} now gives frames of another size")
        sample = self._slots.loan(width * height * 3 // 2)
        write_nv12(found.frame, sample.payload.reshape(height * 3 // 2, width))
        sample.header.describe(found.stamp_ns, "nv12", width, height, width, sample.payload.size)
        return CapturedFrame(sample, found.lost)

    def close(self) -> None:
        """Stop, see `CameraSource`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _decode(self) -> None:
        lost = 0
        try:
            for frame, stamp_ns in self._live() if self._is_live else self._played():
                if self._stop.is_set():
                    return
                while self._decoded.qsize() >= WAITING:
                    try:
                        oldest = self._decoded.get_nowait()
                    except queue.Empty:
                        break
                    if isinstance(oldest, _Decoded):
                        lost += 1 + oldest.lost
                self._decoded.put(_Decoded(frame, stamp_ns, lost))
                lost = 0
            ended = CameraGone if self._is_live else CameraEnded
            self._decoded.put(ended(f"{self._settings.url} has ended"))
        except Exception as error:  # PyAV's errors have many types; the reader is told of all
            text = getattr(error, "strerror", None) or str(error)
            self._decoded.put(CameraGone(f"{self._settings.url}: {text}"))

    def _live(self) -> Iterator[tuple[Any, int]]:
        clock, tick = StreamClock(), Fraction(0)
        for packet in self._container.demux(video=0):
            arrived_ns = time.time_ns()
            for frame in packet.decode():
                tick = frame.time_base or tick
                presented_ns = round((frame.pts or 0) * tick * 1_000_000_000)
                yield frame, clock.stamp_ns(presented_ns, arrived_ns)

    def _played(self) -> Iterator[tuple[Any, int]]:
        """Frames of a file at the file's own pace; they are taken when they are due."""
        start_ns = 0
        while True:
            first_ns = -1
            due_ns = 0
            for frame in self._container.decode(video=0):
                at_ns = round((frame.time or 0.0) * 1e9)
                if first_ns < 0:
                    first_ns = at_ns
                    start_ns = max(time.time_ns(), start_ns)
                due_ns = start_ns + at_ns - first_ns
                if self._stop.wait(max(0.0, (due_ns - time.time_ns()) / 1e9)):
                    return
                yield frame, due_ns
            if not self._settings.loop or first_ns < 0:
                return
            start_ns = due_ns + 1
            self._container.seek(0)
