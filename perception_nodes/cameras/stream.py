"""Video streams and files as cameras: RTSP and all else that FFmpeg opens, through PyAV.

A decoder takes frames in a thread of its own, since both the network and the codec may keep it
waiting.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import median
from typing import Any

from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.cameras.mailbox import Arrived, Mailbox
from perception_nodes.cameras.source import (
    CameraEnded,
    CameraError,
    CameraFormat,
    CameraGone,
    CapturedFrame,
)
from perception_nodes.core.frame import FrameRejected
from perception_nodes.transport.shm import Writer
from perception_nodes.video.decode import VideoDecoder, pyav, write_nv12
from perception_nodes.video.demux import (
    CODECS,
    FileTimes,
    Picture,
    WholePictures,
    quarter_turns,
    rate_of,
)

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0
JUMP_NS = round(READ_TIMEOUT_S * 1e9)
"""A stream whose times go on from further away has set its clock: else reading had timed out."""
LOW_DELAY = {
    "fflags": "nobuffer",
    "flags": "low_delay",
    "rtsp_transport": "tcp",
    "max_delay": "0",
    "reorder_queue_size": "0",
}
ANNEX_B = ("rtsp", "rtp", "sdp", "mpegts", "h264", "hevc")
"""FFmpeg's names of the formats whose packets have start codes."""
NO_TIMES = 1 << 7
"""FFmpeg's AVFMT_NOTIMESTAMPS: the format has no times; the packets' are invented, or none."""
INTERVALS, ENOUGH = 30, 5
"""Times between frames by which a missing one is noticed: how many are kept, and needed."""
OFFSET_WINDOW_NS = 30_000_000_000
PLAIN_RATE_HZ = 25.0
"""Of a file without times that states no rate, which is FFmpeg's own assumption."""


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
    and is in them: stamps are late by it. Clocks that are set are tied anew. Frames whose times
    fall behind are old, since what a network holds up cannot be told from a clock that is slow.
    """

    def __init__(self) -> None:
        """Know nothing of the stream yet."""
        self._offsets: list[tuple[int, int]] = []
        self._last_ns: int | None = None

    def stamp_ns(self, presented_ns: int | None, arrived_ns: int) -> int:
        """The stamp of a frame.

        Args:
            presented_ns: its time in the stream; None where it has none.
            arrived_ns: wall clock of its arrival, before it was decoded.
        """
        if presented_ns is None:
            return arrived_ns
        offset_ns = arrived_ns - presented_ns
        is_back = self._last_ns is not None and presented_ns < self._last_ns
        # Reading had timed out before a network could hold a frame up for so long.
        if is_back or (self._offsets and offset_ns > self._offsets[-1][1] + JUMP_NS):
            self._offsets.clear()
        self._last_ns = presented_ns
        kept = [
            (at_ns, offset)
            for at_ns, offset in self._offsets
            if offset < offset_ns and at_ns > arrived_ns - OFFSET_WINDOW_NS
        ]
        self._offsets = [*kept, (arrived_ns, offset_ns)]
        return presented_ns + self._offsets[0][1]


class Losses:
    """Counts the frames of a stream that gave no picture."""

    def __init__(self) -> None:
        """None yet."""
        self._lost, self._cause = 0, ""
        self.begin()

    def begin(self) -> None:
        """Expect a stream with other times."""
        self._intervals_ns: deque[int] = deque(maxlen=INTERVALS)
        self._last_ns: int | None = None
        self._gap_ns = 0

    def packet(self, presented_ns: int, trouble: str) -> None:
        """Take a packet.

        Frames of which nothing arrived show in the times of the others. Where these have no steady
        rate, their number is told from that only if the decoder misses something.

        Args:
            presented_ns: its time in the stream.
            trouble: why it gives no picture; empty if it does.
        """
        gap_ns = presented_ns - (presented_ns if self._last_ns is None else self._last_ns)
        if abs(gap_ns) > JUMP_NS:
            self.begin()
            gap_ns = 0
        missing = 0
        if len(self._intervals_ns) >= ENOUGH:
            is_steady = max(self._intervals_ns) < 1.5 * min(self._intervals_ns)
            if is_steady or (trouble and not self._cause):
                missing = max(round(gap_ns / median(self._intervals_ns)) - 1, 0)
        # Twice the same gap is another rate.
        if gap_ns > 0 and (not missing or abs(gap_ns - self._gap_ns) < gap_ns / 10):
            self._intervals_ns.append(gap_ns)
        self._last_ns, self._gap_ns = presented_ns, gap_ns
        if missing or trouble:
            self.add(missing + bool(trouble), trouble or "packets are missing")

    def add(self, lost: int, cause: str) -> None:
        """Count frames whose loss is known."""
        self._lost += lost
        self._cause = self._cause or cause

    def take(self) -> tuple[int, str]:
        """The number since the last call, and the cause of the first of them."""
        taken = self._lost, self._cause
        self._lost, self._cause = 0, ""
        return taken


class VideoSource:
    """A stream or file, see `CameraSource`."""

    def __init__(self, settings: VideoSettings) -> None:
        """Take what is to be played; nothing is opened."""
        self._settings = settings
        self._is_live = "://" in settings.url
        # A stream comes back, and a loop begins anew; a file is not played twice.
        self._broken = CameraGone if self._is_live or settings.loop else CameraEnded
        self._container: Any = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._decoded, self._losses = Mailbox(), Losses()
        self._turns = 0
        self._slots: Writer[CameraHeader] | None = None

    def open(self) -> CameraFormat:
        """Open the stream, see `CameraSource`."""
        self.close()
        # A file's pictures may have to be turned, which only they tell.
        self._turns = 0 if self._is_live else self._turns_of_first()
        self._container = self._opened()
        video = self._container.streams.video[0]
        self._pictures = self._decoder(video)
        self._has_times = not self._container.format.flags & NO_TIMES
        width, height = video.codec_context.width & ~1, video.codec_context.height & ~1
        if self._turns % 2:
            width, height = height, width
        if not width or not height:
            raise CameraGone(f"{self._settings.url}: no frame size is known yet")
        rate_hz = rate_of(video, 0.0)
        stamps = "of arrival" + ", without its jitter" * self._has_times if self._is_live else "now"
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
            f"decoded, one copy; stamps are {stamps}",
            may_pause=not self._is_live,
        )

    def _turns_of_first(self) -> int:
        with self._opened() as container:
            video = container.streams.video[0]
            taken = map(self._decoder(video).take, container.demux(video))
            pictures = chain.from_iterable(taken)
            try:
                first = next((one.frame for one in pictures if one.frame is not None), None)
            except pyav().FFmpegError:
                return 0  # it is told of when the file is played
            return 0 if first is None else quarter_turns(first)

    def _decoder(self, video: Any) -> WholePictures:
        return WholePictures(video, f"the {'stream' if self._is_live else 'file'} is damaged")

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
                self._settings.url,
                options=options,
                timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
                metadata_errors="ignore",
            )
        except av.FFmpegError as error:
            kind = CameraGone if self._is_live else CameraError
            raise kind(f"{self._settings.url} cannot be opened: {error.strerror}") from error
        trouble = "has no video stream"
        for video in container.streams.video[:1]:
            trouble = "" if video.codec_context else "is of a codec that no decoder is known for"
        if trouble:
            container.close()
            raise CameraError(f"{self._settings.url} {trouble}")
        return container

    def start(self, slots: Writer[CameraHeader]) -> None:
        """Start to decode, see `CameraSource`."""
        self._slots, self._decoded = slots, Mailbox()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._decode, name="decoding", daemon=True)
        self._thread.start()

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The newest decoded frame, see `CameraSource`."""
        assert self._slots is not None
        found = self._decoded.take(timeout_ms / 1e3)
        if found is None:
            return None
        width, height = self._size
        size = found.frame.width & ~1, found.frame.height & ~1
        if (size[::-1] if self._turns % 2 else size) != self._size:
            self.close()  # its thread counts losses too
            self._kept(self._pictures.drop("the size of the frames changed"))
            self._losses.add(found.lost + 1, found.cause or "the size of the frames changed")
            raise self._broken(f"{self._settings.url} now gives frames of another size")
        sample = self._slots.loan(width * height * 3 // 2)
        write_nv12(found.frame, sample.payload.reshape(height * 3 // 2, width), self._turns)
        sample.header.describe(found.stamp_ns, "nv12", width, height, width, sample.payload.size)
        return CapturedFrame(sample, found.lost, found.cause)

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
        self._losses.begin()
        try:
            for arrived in self._live() if self._is_live else self._played():
                if self._stop.is_set():
                    return
                self._decoded.put(arrived)
            if self._is_live:  # what was lost at last is told with the first frame when it is back
                self._decoded.put(CameraGone(f"{self._settings.url} has ended"))
                return
            self._decoded.put(CameraEnded(f"{self._settings.url} has ended{self._last_lost()}"))
        except Exception as error:  # PyAV's errors have many types; the reader is told of all
            text = getattr(error, "strerror", None) or str(error)
            self._kept(self._pictures.drop(text))
            last = "" if self._broken is CameraGone else self._last_lost()
            self._decoded.put(self._broken(f"{self._settings.url}: {text}{last}"))

    def _last_lost(self) -> str:
        """What to say of frames that no other one follows, which could tell of them."""
        lost, cause = self._losses.take()
        return f"; the last {lost} frames are lost: {cause}" if lost else ""

    def _live(self) -> Iterator[Arrived]:
        (video,) = self._container.streams.video[:1]
        clock, tick = StreamClock(), video.time_base * 1_000_000_000
        decode = self._whole
        codec = CODECS.get(video.codec_context.name)
        if codec is not None and self._container.format.name in ANNEX_B:
            decoder = VideoDecoder()
            decoder.begin(codec, video.codec_context.extradata or b"")
            decode = partial(self._checked, decoder, codec)
        for packet in self._container.demux(video):
            arrived_ns = time.time_ns()
            # The last one is empty: what the decoder has held back comes now.
            for frame in decode(packet) if packet.size or decode == self._whole else ():
                has_time = self._has_times and frame.pts is not None
                stamp_ns = clock.stamp_ns(round(frame.pts * tick) if has_time else None, arrived_ns)
                yield Arrived(frame, stamp_ns, *self._losses.take())

    def _whole(self, packet: Any) -> list[Any]:
        """The pictures of a packet, of which none is damaged or drawn on a damaged one."""
        return self._kept(self._pictures.take(packet))

    def _kept(self, pictures: list[Picture]) -> list[Any]:
        """The frames of pictures; those that are lost are counted."""
        for one in pictures:
            if one.frame is None:
                self._losses.add(1, one.cause)
        return [one.frame for one in pictures if one.frame is not None]

    def _checked(self, decoder: VideoDecoder, codec: str, packet: Any) -> list[Any]:
        """The pictures of a packet, of which none is drawn on top of one that is missing."""
        frames, trouble = [], ""
        try:
            frames = decoder.pictures(codec, bytes(packet), packet.pts or 0)
        except FrameRejected as error:
            trouble = str(error)
        presented_ns = round((packet.pts or 0) * packet.time_base * 1_000_000_000)
        self._losses.packet(presented_ns, trouble)
        return frames

    def _played(self) -> Iterator[Arrived]:
        """Frames of a file at the file's own pace; they are taken when they are due."""
        (video,) = self._container.streams.video[:1]
        start_ns = 0
        while True:
            times = FileTimes(video, rate_of(video, PLAIN_RATE_HZ))
            due_ns = 0
            for picture in chain.from_iterable(
                map(self._pictures.take, self._container.demux(video))
            ):
                at_ns = times.next_ns(picture.pts)
                for frame in self._kept([picture]):
                    if not due_ns:
                        start_ns = max(time.monotonic_ns() - at_ns, start_ns)
                    due_ns = start_ns + at_ns
                    if self._stop.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
                        return
                    # The wall clock may have been set; only the stamps follow it.
                    stamp_ns = time.time_ns() - (time.monotonic_ns() - due_ns)
                    yield Arrived(frame, stamp_ns, *self._losses.take())
            if not self._settings.loop or not due_ns:
                return
            start_ns += times.next_ns(None)
            self._container.seek(0)
