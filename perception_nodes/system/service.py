"""What an outer watchdog hears from us: systemd, and a hardware watchdog."""

import os
import socket


class Systemd:
    """Tells systemd that we are ready, and alive, where it has asked for it."""

    def __init__(self) -> None:
        """Read what systemd has put into the environment."""
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is an abstract one, whose first byte is zero.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        self.period_ns = int(os.environ.get("WATCHDOG_USEC", "0")) * 1000 // 2

    def notify(self, state: str) -> None:
        """Send a state such as `READY=1`, `WATCHDOG=1` or `STOPPING=1`."""
        if self._socket is not None:
            try:
                self._socket.sendto(state.encode(), self._address)
            except OSError:
                # It is systemd that misses a message then; stopping for that would be worse.
                return

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()


class HardwareWatchdog:
    """A device such as /dev/watchdog that resets the machine unless it is written to."""

    def __init__(self, path: str) -> None:
        """Open it, and with that start it.

        Raises:
            OSError: it is not there, or another process has it.
        """
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def alive(self) -> None:
        """Put the reset off."""
        os.write(self._descriptor, b"\0")

    def close(self) -> None:
        """Stop it: without this letter a close is taken for a crash."""
        os.write(self._descriptor, b"V")
        os.close(self._descriptor)
