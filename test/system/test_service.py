"""What systemd and a hardware watchdog hear, on sockets and files that stand in for them."""

import os
import socket
import threading

import pytest

from perception_nodes.system.service import HardwareWatchdog, Systemd, is_in_journal


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_us(monkeypatch, tmp_path, abstract):
    name = f"perception-test-{os.getpid()}"
    address = f"@{name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}" if abstract else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        service = Systemd()
        assert service.period_ns == 100_000_000
        for state in ("READY=1", "WATCHDOG=1"):
            service.notify(state)
            assert systemd.recv(100).decode() == state
        service.close()


def test_without_systemd_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    service = Systemd()
    service.notify("READY=1")
    assert service.period_ns == 0
    service.close()


def test_the_journal_is_known_by_where_standard_error_goes(monkeypatch):
    where = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{where.st_dev}:{where.st_ino}")
    assert is_in_journal()
    monkeypatch.setenv("JOURNAL_STREAM", f"{where.st_dev}:{where.st_ino + 1}")  # of who started us
    assert not is_in_journal()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not is_in_journal()


def test_a_systemd_that_does_not_read_holds_nobody_up(monkeypatch, tmp_path):
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        systemd.bind(address)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"READY=1", socket.MSG_DONTWAIT, address)
        service = Systemd()
        calling = threading.Thread(target=service.notify, args=("WATCHDOG=1",), daemon=True)
        calling.start()
        calling.join(20)
        assert not calling.is_alive()
    service.notify("WATCHDOG=1")  # it is gone
    service.close()


def test_the_hardware_watchdog_is_fed_and_stopped_with_its_letter(tmp_path):
    path = tmp_path / "watchdog"
    os.mkfifo(path)
    device = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    watchdog = HardwareWatchdog(str(path))
    watchdog.alive()
    watchdog.alive()
    assert os.read(device, 10) == b"\0\0"
    watchdog.close()
    assert os.read(device, 10) == b"V"
    crashed = HardwareWatchdog(str(path))
    crashed.alive()
    crashed.close(crashed=True)
    assert os.read(device, 10) == b"\0"
    os.close(device)
