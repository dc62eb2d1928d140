"""Frames in shared memory, which the GPU reads in place."""

import ctypes
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda import CudaError, Device, HostMemory

SHARED = "/dev/shm/"
SLOTS = 10
"""Slots of a camera's channel in use at once: waiting, being read, and being written."""


@dataclass
class _Mapping:
    """A mapping of shared memory, whose front part is registered with the driver.

    Attributes:
        first, last: its first address, and the first one behind it.
        read_only: whether this process may only read it.
        offset: offset of its first byte in the file.
        inode, path: of the mapped file.
        memory: the registered part; None if the driver refused to register it.
    """

    first: int
    last: int
    read_only: bool
    offset: int
    inode: int
    path: str
    memory: HostMemory | None = None

    @property
    def end(self) -> int:
        """First address behind the registered part; without one, behind the mapping."""
        return self.last if self.memory is None else self.first + self.memory.nbytes

    def is_current(self) -> bool:
        """Whether these addresses still map this file.

        The memory of a restarted camera may be mapped at the addresses of its predecessor, while
        the device would still read the predecessor's memory.
        """
        return _mapped_file(self.first, self.last) == self.path

    def close(self) -> None:
        if self.memory is not None:
            self.memory.close()


class FrameMemory:
    """Gives the device's address of a frame, after copying the frame if the device cannot see it.

    Shared memory is registered with the driver when the first frame in it arrives. Other memory,
    such as a message's, is short-lived: it is copied into page-locked memory, which the device
    reads. So is all memory where the kernel does not tell which file is mapped at an address
    (gVisor, hardened kernels): a registration could not be known to be still right.

    Attributes:
        registrations: number of times that memory was registered, or the driver refused it.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._mappings_known = _mappings_known()
        self.registrations = 0
        self._mappings: list[_Mapping] = []
        self._copy: HostMemory | None = None

    def reserve(self, nbytes: int) -> None:
        """Allocate memory for frames of this size that have to be copied.

        Raises:
            CudaError: there is not enough memory.
        """
        if self._copy is None or self._copy.nbytes < nbytes:
            if self._copy is not None:
                self._copy.close()
                self._copy = None
            self._copy = self._device.pinned(nbytes)

    def locate(self, frame: memoryview) -> tuple[int, int]:
        """The device's address of a frame, and the number of copies that were needed: 0 or 1.

        `reserve` must have been called for its size, and no running kernel may read an earlier
        frame.
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
        """Unregister all memory, so that it can be registered again."""
        for known in self._mappings:
            known.close()
        self._mappings.clear()

    def _find(self, address: int, nbytes: int) -> tuple[HostMemory | None, int]:
        """The registered memory that holds a frame or None, and its first address."""
        if not self._mappings_known:
            return None, 0
        for known in self._mappings:
            if known.first <= address and address + nbytes <= known.end and known.is_current():
                return known.memory, known.first
        # What a camera that has gone has left stays in memory for as long as it is registered.
        for known in [*self._mappings]:
            if known.first <= address < known.last or not known.is_current():
                known.close()
                self._mappings.remove(known)
        found = _mapping_of(address)
        if found is None or address + nbytes > found.last:
            return None, 0
        # iceoryx2 maps more slots than are ever used; registering would lock them all in memory.
        size = min(found.last - found.first, address - found.first + SLOTS * nbytes)
        self.registrations += 1
        # A refusal is remembered, too, so that it is not repeated for each frame: these are copied.
        with suppress(CudaError):
            found.memory = self._device.register(*_writable_front(found, size))
        self._mappings.append(found)
        return found.memory, found.first


def _mapped_file(first: int, last: int) -> str:
    """Path of the file that is mapped at exactly these addresses, empty if none or not known."""
    try:
        return os.readlink(f"/proc/self/map_files/{first:x}-{last:x}")
    except OSError:
        return ""


def _mappings_known() -> bool:
    """Whether `_mapped_file` works here: tried on a mapping that this process certainly has."""
    file = os.memfd_create("mapping")
    try:
        os.truncate(file, mmap.PAGESIZE)
        ours = np.frombuffer(mmap.mmap(file, mmap.PAGESIZE), np.uint8)
        first = ours.ctypes.data
        return bool(_mapped_file(first, first + mmap.PAGESIZE))
    finally:
        os.close(file)


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


def _writable_front(mapping: _Mapping, size: int) -> tuple[NDArray[np.uint8], bool]:
    """The front of a mapping as an array, and whether it is read-only.

    The file is mapped again for writing if possible: the mapping of a reader is read-only, which
    not every GPU accepts, and iceoryx2 may unmap it at any time.
    """
    try:
        file = os.open(mapping.path, os.O_RDWR)
        try:
            facts = os.fstat(file)
            if facts.st_ino == mapping.inode:
                # A mapping ends with a whole page, the file possibly before that.
                size = min(size, facts.st_size - mapping.offset)
                return np.frombuffer(mmap.mmap(file, size, offset=mapping.offset), np.uint8), False
        finally:
            os.close(file)
    except OSError:
        # The file belongs to another user or is removed by now: use the existing mapping.
        pass
    array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(mapping.first))
    return array, mapping.read_only
