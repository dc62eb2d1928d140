"""Frames in shared memory, read by the GPU where they lie."""

import ctypes
import mmap
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda import CudaError, Device, HostMemory

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
                self._copy = None
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
        if mapping is None or address + nbytes > mapping.last:
            return None
        # iceoryx2 maps room for more slots than are ever used: locked, they would take memory.
        size = min(mapping.last - mapping.first, address - mapping.first + SLOTS * nbytes)
        try:
            memory = self._device.register(*_to_be_registered(mapping, size))
        except CudaError:
            # Asked again for each frame it would be refused again: these are copied.
            return _Segment(mapping.first, mapping.last, mapping.path, None)
        return _Segment(mapping.first, mapping.last, mapping.path, memory)


@dataclass(frozen=True)
class _Mapping:
    """A line of /proc/self/maps."""

    first: int
    last: int
    read_only: bool
    offset: int
    inode: int
    path: str


def _mapping_of(address: int) -> _Mapping | None:
    """The mapping of shared memory around an address."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(maxsplit=5)
            first, last = (int(text, 16) for text in fields[0].split("-"))
            if first <= address < last:
                if len(fields) < 6 or not fields[5].startswith(SHARED):
                    return None
                read_only, offset = fields[1][1] == "-", int(fields[2], 16)
                return _Mapping(first, last, read_only, offset, int(fields[4]), fields[5])
    return None


def _to_be_registered(mapping: _Mapping, size: int) -> tuple[NDArray[np.uint8], bool]:
    """The front of a mapping, and whether it may only be read.

    Mapped once more by us, for writing: a reader's mapping is read-only, which not every GPU takes,
    and goes when iceoryx2 likes.
    """
    try:
        file = os.open(mapping.path, os.O_RDWR)
        try:
            facts = os.fstat(file)
            if facts.st_ino == mapping.inode:
                # A mapping ends with its last page, the file before that.
                size = min(size, facts.st_size - mapping.offset)
                ours = mmap.mmap(file, size, offset=mapping.offset)
                return np.frombuffer(ours, np.uint8), False
        finally:
            os.close(file)
    except OSError:
        # Of another user, or removed by now: as it is.
        pass
    array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(mapping.first))
    return array, mapping.read_only
