"""A recorded drive played as by a camera that has a fault; see `perception_nodes.hil.camera`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from perception_nodes.files import write_whole
from perception_nodes.hil.camera import SentFrame, faulty, of_another_lens
from perception_nodes.hil.scenario import CameraFault
from perception_nodes.hil.settings import FaultCameraSettings
from perception_nodes.nodes.base import run_node
from perception_nodes.nodes.player_node import PlayerNode

FAULTS = TypeAdapter(list[CameraFault])


class FaultCameraNode(PlayerNode):
    """Plays what `faulty` makes of the drive, and tells when it began."""

    settings_type = FaultCameraSettings
    _announced = False

    def open(self) -> None:
        """As the player."""
        self._hits: list[int] = []
        super().open()
        self._true_info = self._info

    def step(self) -> None:
        """As the player; the time of the first frame is told as soon as it is known."""
        super().step()
        if self._first_due_ns and not self._announced and self.settings.started_file:
            self._announced = True
            write_whole(Path(self.settings.started_file), str(self._first_due_ns))

    def _read_frames(self) -> Iterator[SentFrame]:
        faults = FAULTS.validate_json(self.settings.faults)
        return faulty(super()._read_frames(), faults, self._hits)

    def _write_sent(self) -> None:
        if self.settings.hits_file:
            write_whole(Path(self.settings.hits_file), json.dumps(self._hits))
        super()._write_sent()

    def _play(self, frame: SentFrame) -> None:
        self._info = self._told_info(frame)
        if frame.lost:
            self._sent.append((frame.index, self._stamp_ns(frame)))
        else:
            super()._play(frame)

    def _stamp_ns(self, frame: SentFrame) -> int:
        return super()._stamp_ns(frame) + frame.stamp_shift_ns

    def _told_info(self, frame: SentFrame) -> bytes | None:
        if self._true_info is None or frame.distortion is None:
            return self._true_info
        return of_another_lens(self._true_info, frame.distortion)


def main() -> int:
    """Entry point."""
    return run_node(FaultCameraNode, "fault_camera_node")


if __name__ == "__main__":
    sys.exit(main())
