"""A network on a GPU as one stage of a graph."""

from collections.abc import Callable
from dataclasses import dataclass

from perception_nodes.gpu.cuda.device import Device
from perception_nodes.gpu.cuda.stream import Stream


@dataclass(frozen=True)
class DeviceNetwork:
    """Where a network reads and writes, and what puts it on a stream.

    Attributes:
        device: that it is on.
        image: the device's address of its input.
        heads: the device's addresses of a level's box and class logits, float32.
        enqueue: puts a run on a stream; no other may use the same memory until it has ended.
    """

    device: Device
    image: int
    heads: list[tuple[int, int]]
    enqueue: Callable[[Stream], None]
