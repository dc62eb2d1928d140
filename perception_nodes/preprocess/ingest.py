"""The first half of a frame's way: it gets a number and a deadline, and is written into a slot."""

import zlib
from collections.abc import Iterator
from itertools import count
from math import gcd

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.budget import Budget
from perception_nodes.core.clock import Clock, capture_time
from perception_nodes.core.frame import (
    FrameFlag,
    FrameHeader,
    FrameRecord,
    FrameStatus,
    ImageView,
    RecordKind,
    fitting,
)
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.formats import check_in_place
from perception_nodes.preprocess.plausibility import PictureJudge

SAMPLES = 5000
"""Number of bytes of a frame by which a repeated picture is recognized, about as many as are taken
from a slot of `open-n`."""


class Ingest:
    """Takes in the frames of one camera, and numbers them."""

    def __init__(
        self,
        preprocessor: Preprocessor,
        camera: str,
        budget: Budget,
        clock: Clock,
        numbers: Iterator[int] | None = None,
        incarnation: int = 0,
        judge: PictureJudge | None = None,
    ) -> None:
        """Take what frames of this camera need.

        Args:
            preprocessor: writes them into slots.
            camera: its name.
            budget: deadline of a frame.
            clock: that of the stamps.
            numbers: numbers of the frames; by default from 0. Where this process has numbered
                others before, they must go on behind those.
            incarnation: of this process; 0 outside a graph, where nobody else numbers frames.
            judge: looks at the pictures of a live camera.
        """
        self._preprocessor, self._judge = preprocessor, judge
        self._camera = camera.encode()
        self._deadline_ns = budget.deadline_ns
        self._clock = clock
        self._incarnation = incarnation
        self._numbers = count() if numbers is None else numbers

    def enter(
        self, stamp_ns: int, frame_id: str, received_ns: int, waited_ns: int = 0
    ) -> FrameRecord:
        """Give a frame its number, capture time and deadline.

        Args:
            stamp_ns: the message's stamp; 0 if it could not be read.
            frame_id: coordinate frame of the camera.
            received_ns: CLOCK_MONOTONIC when the frame was taken.
            waited_ns: how long it had waited for that; it counts where the stamp is not believed.

        Returns:
            The record that announces the frame to the ledger.
        """
        now_ns, now_realtime_ns = self._clock.monotonic_ns(), self._clock.realtime_ns()
        received_realtime_ns = now_realtime_ns - (now_ns - received_ns)
        capture = capture_time(stamp_ns, received_ns, received_realtime_ns, self._clock.behind_ns)
        record = FrameRecord(kind=RecordKind.ENTERED, stamp_ns=stamp_ns)
        record.sequence = next(self._numbers)
        record.capture_ns = capture.capture_ns - waited_ns * capture.clock_suspect
        record.ingested_ns = now_ns
        record.deadline_ns = record.capture_ns + self._deadline_ns
        record.flags = FrameFlag.CLOCK_SUSPECT if capture.clock_suspect else 0
        record.incarnation = self._incarnation
        record.camera = self._camera
        record.frame_id = frame_id.encode(errors="replace")[: FrameRecord.frame_id.size - 1]
        return record

    def fill(
        self, record: FrameRecord, image: ImageView, header: FrameHeader, pixels: NDArray[np.uint8]
    ) -> ImageView:
        """Write a frame into a slot.

        Args:
            record: the frame's record, from `enter`.
            image: the frame as it came.
            header: the slot's header.
            pixels: uint8 [height, width, 3], the slot's pixels.

        Returns:
            As `Preprocessor.write`.

        Raises:
            FrameRejected: the frame cannot be read.
        """
        header.facts = record.facts
        image = self._preprocessor.write(image, pixels, header)
        if self._judge is not None:
            self._judge.look(header, pixels)
        self._end(header, pixels[4::8, 4::8])
        return image

    def point_to(
        self, record: FrameRecord, image: ImageView, header: FrameHeader, name: tuple[int, int]
    ) -> None:
        """Describe in a slot a frame that stays in the camera's channel, where a GPU will read it.

        Args:
            record: the frame's record, from `enter`.
            image: the frame as it came.
            header: the slot's header.
            name: name of the frame in the camera's channel: its sender and its number.

        Raises:
            FrameRejected: the frame cannot be read.
        """
        header.facts = record.facts
        header.camera_source, header.camera_number = name
        check_in_place(image)
        self._preprocessor.placer.place(image.width, image.height).describe(header, image.copies)
        data = np.frombuffer(image.data, np.uint8)
        step = max(1, data.size // SAMPLES)
        while gcd(step, image.step) > 1:  # else some columns or colours would have no sample
            step += 1
        self._end(header, data[::step])

    def _end(self, header: FrameHeader, sample: NDArray[np.uint8]) -> None:
        header.picture = zlib.crc32(np.ascontiguousarray(sample))
        header.preprocessed_ns = self._clock.monotonic_ns()

    @staticmethod
    def end(record: FrameRecord, status: FrameStatus, reason: str) -> FrameRecord:
        """Complete the record of a frame that does not reach the detector."""
        record.kind = RecordKind.OUTCOME
        record.status = status
        record.reason = fitting(reason)
        return record
