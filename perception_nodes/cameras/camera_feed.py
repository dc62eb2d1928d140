"""Fills a camera's channel from a source, which is opened again if it was gone."""

import time
from collections.abc import Callable

from perception_nodes.cameras.camera_source import CameraFormat, CameraGone, CameraSource
from perception_nodes.cameras.channel import NOTICE_BYTES, CameraHeader, camera_writer
from perception_nodes.cameras.credentials import redacted
from perception_nodes.core.frame import FRAME_ID_BYTES
from perception_nodes.transport.shm import Endpoint, Writer

REOPEN_S = 0.5
"""Time between two attempts to open a source that is gone."""
SILENT_S = 5.0
"""A source that gives no frame for so long is opened again, since some drivers report no end. A
file is not: it would begin anew, and never go on behind a gap."""


class CameraFeed:
    """Numbers a source's frames and sends them.

    Attributes:
        sent: frames so far.
        lost: frames that the sensor or its driver lost.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        camera: str,
        source: CameraSource,
        frame_id: str,
        log: Callable[[str], None],
    ) -> None:
        """Take the source; nothing is opened.

        Args:
            endpoint: ours.
            camera: its name.
            source: that gives the frames.
            frame_id: of all frames.
            log: takes a line when the source is open, gone or back.
        """
        self._endpoint, self._camera, self._source = endpoint, camera, source
        self._frame_id, self._log = frame_id.encode()[:FRAME_ID_BYTES], log
        self._slots: Writer[CameraHeader] | None = None
        self._format = CameraFormat(0, "")
        self.sent = self.lost = 0
        self._is_open = False
        self._retry_s = self._frame_s = 0.0
        self._reason = ""

    def open(self) -> None:
        """Open the source; it gives no frame before `start`.

        Raises:
            CameraGone: it is not there; `step` tries again.
            CameraError: it refuses.
        """
        self._format = self._source.open()

    @property
    def is_file(self) -> bool:
        """Whether the opened source is a file, which begins when it is started."""
        return self._format.is_file

    def start(self) -> None:
        """Have the source give frames from now on.

        The channel is opened here and stays, since its numbers begin at 0: who has been listening
        before that accounts for each of them.

        Raises:
            CameraError: it refuses.
            TransportError: there is no room for its frames.
        """
        if self._slots is None:
            size = self._format.size_bytes, self._format.loaned
            self._slots = camera_writer(self._endpoint, self._camera, *size)
        self._source.start(self._slots)
        self._is_open, self._frame_s, self._reason = True, time.monotonic(), ""
        self._log(f"camera {self._camera}: {redacted(self._format.description)}")

    def step(self, timeout_ms: float) -> None:
        """Send the next frame, or wait for one, or try to open what is gone.

        Raises:
            CameraEnded: a file has been played to its end.
            CameraError: the source fails in a way that does not pass.
        """
        if not self._is_open:
            self._reopen(timeout_ms)
            return
        try:
            frame = self._source.capture(timeout_ms)
            is_silent = frame is None and time.monotonic() > self._frame_s + SILENT_S
            if is_silent and not self._format.is_file:
                raise CameraGone(f"no frame for {SILENT_S:g} s")
        except CameraGone as error:
            self.close()
            self._retry_s = time.monotonic()
            self._say(str(error))
            return
        if frame is None:
            return
        assert self._slots is not None
        # Preprocessing accounts for lost frames by the gap in the numbers.
        self.lost += frame.lost
        if frame.cause:
            self._log(f"camera {self._camera} lost {frame.lost} frames: {frame.cause}")
        if frame.sample is None:
            self._notify(frame.cause, frame.lost)
            return
        self._frame_s = time.monotonic()
        header = frame.sample.header
        header.number, header.lost = self.sent + self.lost, frame.lost
        header.frame_id = self._frame_id
        self._slots.send(frame.sample)
        self.sent += 1

    def close(self) -> None:
        """Stop the source."""
        self._source.close()
        self._is_open = False

    def _reopen(self, timeout_ms: float) -> None:
        wait_s = self._retry_s + REOPEN_S - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, timeout_ms / 1e3))
            return
        self._retry_s = time.monotonic()
        try:
            self.open()
            self.start()
        except CameraGone as error:
            self._source.close()
            self._say(str(error))

    def _say(self, reason: str) -> None:
        """Log why the source is gone, and tell preprocessing, whenever the reason is another."""
        if reason != self._reason:
            self._reason = reason
            self._log(f"camera {self._camera} is gone: {reason}; it is tried again")
            self._notify(reason)

    def _notify(self, text: str, lost: int = 0) -> None:
        """Send a notice, which says why no frame comes."""
        if self._slots is None:
            return
        sample = self._slots.loan(NOTICE_BYTES)
        sample.header.number, sample.header.lost = self.sent + self.lost, lost
        sample.header.note(text, sample.payload)
        self._slots.send(sample)
