"""Regions of a camera's frames that the detector asks for, in slots of their own.

They are written after the frame itself was sent, and only while no newer frame waits.
"""

from collections.abc import Callable, Sequence

from perception_nodes.core.frame import FrameHeader, FrameRejected, ImageView, LookRecord
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.regions import Regions, can_be_cropped
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

    def take(self, image: ImageView, header: FrameHeader) -> list[tuple[int, int]]:
        """The regions to write of a frame, whose slot's header receives their number.

        Args:
            image: the frame, uncompressed.
            header: the header of its slot, which is not sent yet.
        """
        looks: list[LookRecord] = []
        for request in self._requests.records():
            is_same = (request.source_width, request.source_height) == (image.width, image.height)
            looks = request.looks if is_same and can_be_cropped(image, header) else []
        header.looks = len(looks)
        return [(look.x_offset, look.y_offset) for look in looks]

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
            FrameRejected: the encoding has no region of this size.
        """
        bits = self._preprocessor.sample_bits
        for region in regions:
            if self._waits():
                return
            slot = self._slots.loan()
            try:
                pixels = slot.payload.reshape(self._shape)
                self._regions.write(image, region, bits, pixels, slot.header)
            except FrameRejected:
                slot.release()
                raise
            slot.header.facts = header.facts
            self._slots.send(slot)
