"""Recorded calibrations: each frame is rectified by the one in force when it was logged."""

from contextlib import suppress

from perception_nodes.core.frame import FrameRejected
from perception_nodes.drives.bag import RawFrame
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.lens import UnknownLens
from perception_nodes.transport.cdr_reader import read_camera_info

STAMP_END = 12
"""Bytes of encapsulation and stamp in a `CameraInfo`; what follows them is the calibration."""
MOST_WARNINGS = 10


class RecordedCalibration:
    """Follows the calibrations of a drive, as preprocess does on the vehicle.

    Attributes:
        warnings: what is wrong with them, one line each.
        unfit: from which frames on the lens was ignored, and why; empty where it no longer was.
    """

    def __init__(self, preprocessor: Preprocessor) -> None:
        self.warnings: list[str] = []
        self._in_force: bytes | None = None
        self.unfit: list[tuple[int, str]] = []
        self._preprocessor = preprocessor
        self._last: bytes | None = None
        self._changes = 0
        self._first_change = 0

    def follow(self, frame: RawFrame) -> bytes | None:
        """Use the calibration of a frame; to be called for all frames in order.

        Returns:
            The one in force: the last one that could be read, a serialized `CameraInfo`.
        """
        info = frame.camera_info
        if info is None or info[STAMP_END:] == self._last:
            return self._in_force
        if self._last is not None:
            self._changes += 1
            self._first_change = self._first_change or frame.index
        self._last = info[STAMP_END:]
        try:
            read = read_camera_info(info)
        except FrameRejected as error:
            self._warn(
                f"the CameraInfo of frame {frame.index} is not used, what was known before stays "
                f"in force: {error}"
            )
            return self._in_force
        self._in_force = info
        with suppress(UnknownLens):  # `check` takes note of it
            self._preprocessor.calibrate(read)
        if not read.matrix[0]:
            self._warn(
                f"from frame {frame.index} on frames are not rectified: the CameraInfo says that "
                "the camera is not calibrated (K = 0)"
            )
        return info

    def check(self, index: int) -> None:
        """Note whether a frame, just preprocessed, was rectified."""
        self.note_unfit(index, self._preprocessor.placer.unfit)

    def note_unfit(self, index: int, reason: str) -> None:
        """Note why a frame was not rectified although its lens is known; empty if it was."""
        if not self.unfit or reason != self.unfit[-1][1]:
            self.unfit.append((index, reason))

    def notes(self) -> list[str]:
        """The warnings, and how often the calibration changed."""
        unfit = [f"from frame {index} on {reason}" for index, reason in self.unfit if reason]
        notes = [*self.warnings, *unfit[:MOST_WARNINGS]]
        if self._changes:
            times = "once" if self._changes == 1 else f"{self._changes} times"
            notes.append(
                f"the CameraInfo changes {times}, first at frame {self._first_change}; each frame "
                "is rectified by the one that was last logged before it"
            )
        return notes

    def _warn(self, text: str) -> None:
        if len(self.warnings) < MOST_WARNINGS:
            self.warnings.append(text)
