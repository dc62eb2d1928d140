"""Regions of a camera's frames that the detector asks for, in slots of their own.

They are written after the frame itself was sent, and only while no newer frame waits.
"""

from collections.abc import Callable, Sequence

from perception_nodes.core.frame import FrameHeader, FrameRecord, FrameRejected, ImageView
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.regions import Regions, is_in_full
from perception_nodes.transport import channels
from perception_nodes.transport.shm import Endpoint


class RequestedRegions:
    """Answers the requests of a camera's detector; each is for one frame."""

    def __init__(
        self,
        endpoint: Endpoint,
        camera: str,
        size: tuple[int, int],
        padding: int,
        preprocessor: Preprocessor,
        waits: Callable[[], bool],
    ) -> None:
        """Join the channels.

        Args:
            endpoint: entry to shared memory.
            camera: its name.
            size: width and height of a slot's pixels.
            padding: see `Preprocessor`.
            preprocessor: writes the whole frames.
            waits: whether a newer frame of the camera waits.
        """
        self._requests = channels.request_reader(endpoint, camera)
        self._slots = channels.look_writer(endpoint, camera, *size)
        self._shape = size[1], size[0], 3
        self._preprocessor, self._waits = preprocessor, waits
        self._regions = Regions(*size, padding)
        self._wanted: FrameRecord | None = None

    def receive(self) -> None:
        """Take in what is asked for of the next frame, before it is written into its slot.

        If that is a JPEG, it is then decoded in full: once, instead of once more for its regions.
        """
        requests = self._requests.records()
        self._wanted = requests[-1] if requests else None
        self._preprocessor.in_full = self._wanted is not None

    def take(self, image: ImageView, header: FrameHeader) -> list[tuple[int, int]]:
        """The regions to write of a frame, whose slot's header receives their number.

        Args:
            image: the frame, uncompressed.
            header: the header of its slot, which is not sent yet.
        """
        wanted = self._wanted
        if wanted is None or not is_in_full(image, header) or not is_in_full(image, wanted):
            return []
        header.looks = wanted.look_count
        return [(look.x_offset, look.y_offset) for look in wanted.looks]

    def send(
        self, image: ImageView, header: FrameHeader, regions: Sequence[tuple[int, int]]
    ) -> None:
        """Write regions of a frame whose slot was sent.

        Args:
            image: the frame, uncompressed.
            header: a copy of its slot's header.
            regions: those that `take` gave.

        Raises:
            TransportError: no slot is free.
            FrameRejected: see `Regions.write`.
        """
        bits = self._preprocessor.sample_bits
        for region in regions:
            if self._waits():
                return
            slot = self._slots.loan()
            try:
                pixels = slot.payload.reshape(self._shape)
                self._regions.write(image, header, region, bits, pixels, slot.header)
            except FrameRejected:
                slot.release()
                raise
            self._slots.send(slot)
