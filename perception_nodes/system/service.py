"""The messages between systemd and a service, and a hardware watchdog."""

import os
import socket
from contextlib import suppress


class Systemd:
    """Tells systemd that we are ready and alive, if the environment says that it wants to know."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is that of an abstract socket, whose first byte is zero.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        self.period_ns = int(os.environ.get("WATCHDOG_USEC", "0")) * 1000 // 2

    def notify(self, state: str) -> None:
        """Send a state such as `READY=1` or `WATCHDOG=1`.

        Do not send `STOPPING=1`: systemd would kill the whole graph when a single node is
        restarted.
        """
        if self._socket is not None:
            # systemd misses the message then. To wait or to stop for that reason would be worse.
            with suppress(OSError):
                self._socket.sendto(state.encode(), socket.MSG_DONTWAIT, self._address)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


def is_in_journal() -> bool:
    """Whether what we write to standard error goes to systemd's journal."""
    try:
        where = os.fstat(2)
    except OSError:  # standard error is closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{where.st_dev}:{where.st_ino}"


class HardwareWatchdog:
    """A device such as /dev/watchdog, which resets the machine unless it is written to."""

    def __init__(self, path: str) -> None:
        """Open the device, which starts it.

        Raises:
            OSError: the device does not exist, or another process has opened it.
        """
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def alive(self) -> None:
        """Postpone the reset."""
        os.write(self._descriptor, b"\0")

    def close(self, crashed: bool = False) -> None:
        """Stop the watchdog, unless we have `crashed`: the restarted node must feed it in time."""
        if not crashed:
            # Without this letter the watchdog goes on after the close.
            os.write(self._descriptor, b"V")
        os.close(self._descriptor)
