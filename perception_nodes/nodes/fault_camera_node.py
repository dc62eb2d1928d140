"""A recorded drive played as by a camera that has a fault; see `perception_nodes.hil.camera`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from perception_nodes.hil.camera import SentFrame, faulty
from perception_nodes.hil.scenario import CameraFault
from perception_nodes.hil.settings import FaultCameraSettings
from perception_nodes.nodes.base import run_node
from perception_nodes.nodes.player_node import PlayerNode
from perception_nodes.replay.bag import RawFrame


class FaultCameraNode(PlayerNode):
    """Plays what `faulty` makes of the drive, and tells when it began."""

    settings_type = FaultCameraSettings
    _announced = False

    def step(self) -> None:
        """As the player; the time of the first frame is told as soon as it is known."""
        super().step()
        if self._first_due_ns and not self._announced and self.settings.started_file:
            self._announced = True
            target = Path(self.settings.started_file)
            partial = target.with_suffix(".partial")
            partial.write_text(str(self._first_due_ns), encoding="utf-8")
            partial.rename(target)

    def _read_frames(self) -> Iterator[RawFrame]:
        frames = super()._read_frames()
        if not self.settings.fault:
            return frames
        return faulty(frames, CameraFault.model_validate_json(self.settings.fault))

    def _play(self, frame: RawFrame) -> None:
        if isinstance(frame, SentFrame) and frame.lost:
            self._sent.append((frame.index, self._stamp_ns(frame)))
        else:
            super()._play(frame)

    def _stamp_ns(self, frame: RawFrame) -> int:
        shift_ns = frame.stamp_shift_ns if isinstance(frame, SentFrame) else 0
        return super()._stamp_ns(frame) + shift_ns


def main() -> int:
    """Entry point."""
    return run_node(FaultCameraNode, "fault_camera_node")


if __name__ == "__main__":
    sys.exit(main())
