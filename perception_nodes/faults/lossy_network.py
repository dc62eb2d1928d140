"""A private network between bench and unit that delays, loses and reorders packets on demand.

Bench and unit are in two network namespaces with a TAP device each. A thread passes packets from
one to the other, so no kernel with tc netem is needed, and a seed determines which are lost.
Namespaces and devices disappear with the processes that hold them.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from perception_nodes.core.errors import PerceptionError
from perception_nodes.faults.inject import NotInjected
from perception_nodes.faults.scenario import NetworkConditions

VARIABLE = "PERCEPTION_HIL_NETWORK"
"""Set in a bench that runs in a network namespace of its own."""
OWN_NETWORK = ("unshare", "--user", "--map-root-user", "--net")
BENCH_ADDRESS, UNIT_ADDRESS = "10.77.0.1", "10.77.0.2"
NETMASK = "255.255.255.0"
DEVICE = "hil0"
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 1
PACKET_BYTES = 65_536
_LIBC = ctypes.CDLL(None, use_errno=True)
Result = TypeVar("Result")


class NetworkUnavailable(PerceptionError):
    """A private network cannot be made; the text says why."""


def why_unavailable() -> str:
    """Why no private network can be made on this machine; empty if one can."""
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun does not exist (a container gets it by --device /dev/net/tun)"
    try:
        command = [*OWN_NETWORK, "true"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError as error:
        return f"unshare (of util-linux) cannot be run: {error}"
    return f"no namespace is granted: {result.stderr.strip()}" if result.returncode else ""


class LossyLink(AbstractContextManager["LossyLink"]):
    """Connects the network namespace of this thread to a new one; a context manager."""

    def __init__(self, conditions: NetworkConditions) -> None:
        """Make the devices and start to pass packets on.

        Args:
            conditions: initial conditions of the network.

        Raises:
            NetworkUnavailable: the kernel refuses it.
        """
        self._now = self._first = conditions
        self._changed = 0
        self._random = random.Random(0)
        # Each thread of a process can be in a namespace of its own.
        self._far = ThreadPoolExecutor(1, "hil_unit")
        near = _open_device(BENCH_ADDRESS)
        far = self.in_unit_namespace(_open_device_in_new_namespace)
        self._other = {near: far, far: near}
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._hand_over, name="hil_link", daemon=True)
        self._thread.start()

    def in_unit_namespace(self, call: Callable[[], Result]) -> Result:
        """Call a function in the namespace of the unit; processes that it starts are in it too."""
        return self._far.submit(call).result()

    @contextmanager
    def under(self, conditions: NetworkConditions) -> Iterator[None]:
        """A context in which the network has other conditions.

        Raises:
            NotInjected: the conditions affected no packet.
        """
        changed, self._now = self._changed, conditions
        yield
        self._now = self._first
        if self._changed == changed:
            raise NotInjected("it changed the way of no packet")

    def __exit__(self, *_: object) -> None:
        os.close(self._stopped)
        self._thread.join()
        for descriptor in (*self._other, self._stop):
            os.close(descriptor)
        self._far.shutdown()

    def _hand_over(self) -> None:
        sources = [*self._other, self._stop]
        waiting: list[tuple[int, int, int, bytes]] = []
        count = 0
        while True:
            now_ns = time.monotonic_ns()
            while waiting and waiting[0][0] <= now_ns:
                _, _, target, packet = heapq.heappop(waiting)
                with suppress(OSError):  # the queue is full: lost, as in a real network
                    os.write(target, packet)
            timeout_s = (waiting[0][0] - now_ns) / 1e9 if waiting else None
            # select takes fractions of a millisecond; poll takes whole ones.
            for source in select.select(sources, [], [], timeout_s)[0]:
                if source == self._stop:
                    return
                packet = os.read(source, PACKET_BYTES)
                if (delay_ns := self._delay_ns()) is None:
                    continue
                count += 1  # orders packets that are due at the same time
                due_ns = time.monotonic_ns() + delay_ns
                heapq.heappush(waiting, (due_ns, count, self._other[source], packet))

    def _delay_ns(self) -> int | None:
        """The delay of a packet; None if it is lost."""
        draws = self._random.random(), self._random.random()
        delay_ns, usual_ns = (_delay_ns(one, *draws) for one in (self._now, self._first))
        self._changed += delay_ns != usual_ns
        return delay_ns


def _delay_ns(conditions: NetworkConditions, of_loss: float, of_reorder: float) -> int | None:
    """The delay of a packet for which these numbers from 0 to 1 were drawn."""
    if of_loss < conditions.loss:
        return None
    late = of_reorder < conditions.reorder
    return round((conditions.delay_ms + late * conditions.late_ms) * 1e6)


def _open_device_in_new_namespace() -> int:
    if _LIBC.unshare(CLONE_NEWNET):
        raise NetworkUnavailable(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    return _open_device(UNIT_ADDRESS)


def _open_device(address: str) -> int:
    """Open a TAP device with an address in this namespace; bring it and loopback up."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH14x", DEVICE.encode(), IFF_TAP | IFF_NO_PI)
        fcntl.ioctl(descriptor, TUNSETIFF, request)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for number, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, NETMASK)):
                packed = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(control, number, struct.pack("16s16s", DEVICE.encode(), packed))
            for name in (DEVICE, "lo"):
                asked = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s16x", name.encode()))
                flags = struct.unpack_from("16xH", asked)[0] | IFF_UP
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags))
    except OSError as error:
        raise NetworkUnavailable(f"no network device: {error}") from error
    return descriptor
