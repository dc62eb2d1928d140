"""Frames in shared memory, read by the GPU where they lie."""

import ctypes
import os
from dataclasses import dataclass

import numpy as np

from perception_nodes.backends.cuda import CudaError, Device, HostMemory

SHARED = "/dev/shm/"
SLOTS = 10
"""Of a camera's channel that are in use at once: those that wait, are read and are written."""


@dataclass
class _Segment:
    """A mapping of shared memory, and the front of it that the device sees.

    Attributes:
        first, last: addresses; the last is the first one behind it.
        path: the file mapped.
        memory: what is registered; None where the driver refused.
    """

    first: int
    last: int
    path: str
    memory: HostMemory | None

    @property
    def end(self) -> int:
        """The first address behind what the device sees."""
        return self.last if self.memory is None else self.first + self.memory.nbytes

    def is_there(self) -> bool:
        """Whether these addresses still map this file.

        A camera that was started again may be mapped where its predecessor was, while the device
        would go on to read the predecessor's memory.
        """
        try:
            path = os.readlink(f"/proc/self/map_files/{self.first:x}-{self.last:x}")
        except OSError:
            return False
        return path == self.path

    def close(self) -> None:
        if self.memory is not None:
            self.memory.close()


class FrameMemory:
    """Tells where the device finds a frame; copies it to where it can be found if need be.

    Shared memory is registered with the driver when its first frame comes. Other memory, such as a
    message's, comes and goes: it is copied into page-locked memory that the device reads.
    """

    def __init__(self, device: Device) -> None:
        """Nothing is registered yet."""
        self._device = device
        self._segments: list[_Segment] = []
        self._copy: HostMemory | None = None

    def reserve(self, nbytes: int) -> None:
        """Make room for frames of this size that have to be copied.

        Raises:
            CudaError: there is not enough memory.
        """
        if self._copy is None or self._copy.nbytes < nbytes:
            if self._copy is not None:
                self._copy.close()
            self._copy = self._device.pinned(nbytes)

    def locate(self, frame: memoryview) -> tuple[int, int]:
        """Where the device finds a frame, and how often that took copying it: 0 or 1.

        Nothing may be running that reads an earlier one. `reserve` was called for its size.
        """
        pixels = np.frombuffer(frame, np.uint8)
        address = int(pixels.__array_interface__["data"][0])
        memory, first = self._find(address, pixels.nbytes)
        if memory is not None:
            return memory.address + address - first, 0
        assert self._copy is not None
        np.copyto(self._copy.array[: pixels.nbytes], pixels)
        return self._copy.address, 1

    def close(self) -> None:
        """Let go of what is registered, so that another may register it."""
        for segment in self._segments:
            segment.close()
        self._segments.clear()

    def _find(self, address: int, nbytes: int) -> tuple[HostMemory | None, int]:
        """What is registered around a frame, and its first address."""
        for segment in self._segments:
            if segment.first <= address < segment.last:
                if address + nbytes <= segment.end and segment.is_there():
                    return segment.memory, segment.first
                segment.close()
                self._segments.remove(segment)
                break
        found = self._register(address, nbytes)
        if found is None:
            return None, 0
        self._segments.append(found)
        return found.memory, found.first

    def _register(self, address: int, nbytes: int) -> _Segment | None:
        mapping = _mapping_of(address)
        if mapping is None or address + nbytes > mapping[1]:
            return None
        first, last, path, read_only = mapping
        # iceoryx2 maps room for more slots than are ever used: locked, they would take memory.
        size = min(last - first, address - first + SLOTS * nbytes)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(first))
        try:
            memory = self._device.register(array, read_only)
        except CudaError:
            # Asked again for each frame it would be refused again: these are copied.
            return _Segment(first, last, path, None)
        return _Segment(first, last, path, memory)


def _mapping_of(address: int) -> tuple[int, int, str, bool] | None:
    """First and last address of a mapping of shared memory, its file, whether it is read-only."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(maxsplit=5)
            first, last = (int(text, 16) for text in fields[0].split("-"))
            if first <= address < last:
                if len(fields) < 6 or not fields[5].startswith(SHARED):
                    return None
                return first, last, fields[5], fields[1][1] == "-"
    return None
