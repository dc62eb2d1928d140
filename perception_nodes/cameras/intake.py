"""Takes a camera's frames in: each gets a record, and a slot or the reason why it has none."""

import time
from collections.abc import Callable, Container
from contextlib import suppress

from perception_nodes.cameras.channel import CameraHeader, notice_of, view_camera_frame
from perception_nodes.cameras.frame_numbers import FrameNumbers
from perception_nodes.cameras.requested_regions import RequestedRegions
from perception_nodes.core import frame
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.transport.channels import NumberedRecords
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.memory import TransportError
from perception_nodes.transport.shm import Sample, Writer
from perception_nodes.video.packet_decoder import VideoDecoder

LOST = "lost by the camera or its driver"
LOST_ON_THE_WAY = "lost or pushed out by newer frames on the way here"
NEWER_WAITS = "a newer frame was waiting before preprocessing"


class Intake:
    """Numbers frames, notices those that are missing, and fills slots.

    Attributes:
        notice: why the camera sends no frame, as its sender says; empty since its last frame.
        changed_to: endpoints that frames in shared memory came from when that changed.
        earlier: endpoints at the camera's channel that were there before us. The others have begun
            while we listened, so each of their frames from number 0 on is accounted for.
    """

    def __init__(
        self,
        ingest: Ingest,
        slots: Writer[frame.FrameHeader],
        shape: tuple[int, int, int] | None,
        video: VideoDecoder | None,
        records: NumberedRecords,
        lease: Lease,
        on_change: Callable[[str], None],
        regions: RequestedRegions | None = None,
    ) -> None:
        """Take what frames go through.

        Args:
            ingest: numbers frames and writes them.
            slots: channel to the detector.
            shape: of a slot's pixels; None where slots name frames that a GPU reads in place.
            video: decodes frames that are packets of video.
            records: take the reports for the watchdog.
            lease: notes for a successor how far this process got.
            on_change: called with a line when size, encoding or frame_id of the images have
                changed.
            regions: writes what the detector looks at again; None if it does not.
        """
        self._regions = regions
        self._ingest, self._slots, self._shape, self._video = ingest, slots, shape, video
        self._records, self._lease, self._on_change = records, lease, on_change
        self._kind: tuple[int, int, str, str] | None = None
        self._numbers, self._sender = FrameNumbers(), 0
        self._stamp_ns, self._around = 0, (0, 0)
        self.notice = ""
        self.changed_to: list[int] = []
        self.earlier: Container[int] = ()

    def take_over(self, died: bool) -> None:
        """Go on behind the last frame of a predecessor, which may have died before reporting it."""
        note = self._lease.note
        self._sender = 0  # our decoder has not seen what the predecessor has taken
        self._numbers.take_over(self._lease.taken())
        if died and note.source:
            if note.entered_number == note.number:
                self._records.send(frame.FrameRecord.from_buffer_copy(note.entered))
            else:
                self.reject("preprocess died before it entered this frame", time.monotonic_ns())

    def take_sample(self, sample: Sample[CameraHeader], received_ns: int, superseded: bool) -> None:
        """Take a frame from the camera's channel in shared memory; see `take`."""
        header = sample.header
        begins_at = None if sample.node in self.earlier else 0
        self.notice = notice_of(header, sample.payload)
        if self.notice:
            # The last of the numbers stands for itself, the others are lost before it.
            last = sample.source, header.number - 1, received_ns, header.lost - 1, 0, begins_at
            if header.lost and self.is_new(*last):
                self.reject(f"{LOST}: {self.notice}", received_ns)
            return
        if self._sender not in (0, sample.source):
            self.changed_to.append(sample.node)
        # A camera that was restarted is another source, with numbers of its own.
        name = sample.source, header.number
        if self.is_new(*name, received_ns, header.lost, header.stamp_ns, begins_at):
            try:
                image = view_camera_frame(header, sample.payload)
            except frame.FrameRejected as error:
                self.reject(str(error), received_ns)
            else:
                waited_ns = header.since_filled_ns(received_ns)
                self.take(image, received_ns, waited_ns, superseded, name=name)

    def is_new(
        self,
        source: int,
        number: int,
        received_ns: int,
        lost: int = 0,
        stamp_ns: int = 0,
        begins_at: int | None = None,
    ) -> bool:
        """Whether the predecessor has not taken a frame; reports the missing ones before it.

        A frame is superseded if it was sent, but lost or pushed out before we could read it. One
        that the camera itself lost has failed.

        Args:
            source: identifies who numbers the frames; not 0.
            number: number of the frame.
            received_ns: CLOCK_MONOTONIC of its receipt.
            lost: frames directly before it that the camera lost.
            stamp_ns: of the frame, 0 if not known.
            begins_at: see `FrameNumbers.missing_before`.
        """
        missing = self._numbers.missing_before(source, number, lost, begins_at)
        if missing is None:
            return False
        gap = missing.stop - missing.start
        self._around, self._stamp_ns = (self._stamp_ns, stamp_ns), stamp_ns
        is_other, self._sender = source != self._sender, source
        if self._video is not None and (gap or is_other):
            self._video.interrupt("packets were lost on the way here" if gap else "a new publisher")
        if gap > frame.MAX_GAP:
            self._lease.take(source, number - 1)
            self._lose(received_ns, f"one report for {gap} frames that were lost in a row")
            missing = range(number, number)
        for one in missing:
            self._lease.take(source, one)
            if one >= number - lost:
                self._lose(received_ns, LOST)
            else:
                self._lose(received_ns, LOST_ON_THE_WAY, frame.FrameStatus.SUPERSEDED)
        self._lease.take(source, number)
        return True

    def take(
        self,
        image: frame.ImageView,
        received_ns: int,
        waited_ns: int,
        superseded: bool,
        copies: int = 0,
        name: tuple[int, int] = (0, 0),
    ) -> None:
        """Report a frame, and send it to the detector.

        Args:
            image: the frame.
            received_ns: CLOCK_MONOTONIC of its receipt.
            waited_ns: how long it had waited for that.
            superseded: whether a newer frame is waiting, so that this one is only reported.
            copies: how often its pixels were copied on the way here.
            name: its source and number in the camera's channel.
        """
        record = self._enter(image.stamp_ns, image.frame_id, received_ns, waited_ns)
        status, reason = frame.FrameStatus.SUPERSEDED, NEWER_WAITS
        try:
            if self._video is not None:
                # A newer frame that is waiting is drawn on top of this one.
                image = self._video.decode(image)
            if not superseded:
                return self._send(record, image, copies, name)
        except (frame.FrameRejected, TransportError) as error:
            status, reason = frame.FrameStatus.FAILED, str(error)
        self._end(record, status, reason)

    def reject(self, reason: str, received_ns: int, stamp_ns: int = 0, frame_id: str = "") -> None:
        """Report a frame that cannot be read as FAILED."""
        self._end(self._enter(stamp_ns, frame_id, received_ns), frame.FrameStatus.FAILED, reason)

    def _lose(
        self, received_ns: int, reason: str, status: frame.FrameStatus = frame.FrameStatus.FAILED
    ) -> None:
        """Report a frame that never came, with the stamps of those around it."""
        record = self._enter(0, "", received_ns)
        record.lost_after_ns, record.lost_before_ns = self._around
        self._end(record, status, reason)

    def _send(
        self, record: frame.FrameRecord, image: frame.ImageView, copies: int, name: tuple[int, int]
    ) -> None:
        slot, wanted = self._slots.loan(), list[tuple[int, int]]()
        try:
            if self._shape is None:
                self._ingest.point_to(record, image, slot.header, name)
            else:
                pixels = slot.payload.reshape(self._shape)
                if self._regions is not None:
                    self._regions.receive()
                decoded = self._ingest.fill(record, image, slot.header, pixels)
                if self._regions is not None:
                    wanted = self._regions.take(decoded, slot.header)
        except frame.FrameRejected:
            slot.release()
            raise
        slot.header.copies += copies
        size = slot.header.source_width, slot.header.source_height
        header = frame.FrameHeader.from_buffer_copy(slot.header) if wanted else None
        self._slots.send(slot)
        self._lease.end()
        if header and self._regions is not None:
            with suppress(frame.FrameRejected, TransportError):  # the detector goes without
                self._regions.send(decoded, header, wanted)
        kind = (*size, image.encoding, image.frame_id)
        if kind != self._kind:
            before, self._kind = self._kind, kind
            if before is not None:
                self._on_change(f"the camera's images were {_text(before)}, now {_text(kind)}")

    def _enter(
        self, stamp_ns: int, frame_id: str, received_ns: int, waited_ns: int = 0
    ) -> frame.FrameRecord:
        record = self._ingest.enter(stamp_ns, frame_id, received_ns, waited_ns)
        self._lease.enter(record)
        self._records.send(record)
        return record

    def _end(self, record: frame.FrameRecord, status: frame.FrameStatus, reason: str) -> None:
        self._records.send(self._ingest.end(record, status, reason))
        self._lease.end()


def _text(kind: tuple[int, int, str, str]) -> str:
    width, height, encoding, frame_id = kind
    return f"{width}x{height} {encoding} of frame_id {frame_id!r}"
