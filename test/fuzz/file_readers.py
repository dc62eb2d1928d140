"""What is fuzzed beside messages: readers of files that others wrote, and the orders of a bench."""

import atexit
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import numpy as np
from drives import write_ros1, write_ros2
from readers import Guarded
from test_model import CONTENT, make_model
from toy_detectors import detector

from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import FrameRecord, FrameRejected
from perception_nodes.drives.bag import open_drive
from perception_nodes.faults import unit
from perception_nodes.faults.loading import load_scenario
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.ros_arguments import read_parameter_file
from perception_nodes.networks.model import load_model
from perception_nodes.networks.onnx_file import read_onnx
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.lens import UnknownLens
from perception_nodes.protection.profile import data_id, open_protected, protect
from perception_nodes.transport.cdr_writer import write_frame_report
from perception_nodes.transport.journal import RECORDS, read_journal

_FOLDER = tempfile.TemporaryDirectory(prefix="perception_fuzz_", dir="/dev/shm")
atexit.register(_FOLDER.cleanup)
FOLDER = Path(_FOLDER.name)
MOST_FRAMES = 100
IDENTITY = data_id("/perception/health/protected")
CALIBRATION = b"""image_width: 640
image_height: 480
distortion_model: plumb_bob
camera_matrix: {rows: 3, cols: 3, data: [400.0, 0, 320, 0, 400, 240, 0, 0, 1]}
distortion_coefficients: {rows: 1, cols: 5, data: [-0.3, 0.1, 0.001, 0.0, 0.0]}
"""
PARAMETERS = b"""/**: {ros__parameters: {cameras: "front,rear", wait_for_camera: true}}
camera_front_node: {ros__parameters: {source: "v4l2:/dev/video0", pixel_format: NV12}}
"""
SCENARIO = b"""title: the camera stops
drive: synthetic:64x32@30*60
graph: {deadline_ms: 50.0}
faults:
  - {kind: camera_stop, after_s: 0.5, for_s: 0.3}
expect: {lost: "-", at_worst: UNSAFE}
"""
ORDERS = (
    b"[]",
    b'["7", {"backend": "null", "standby": "never", "deadline_ms": 20}, []]',
    b'["0", {}, [{"kind": "camera_stop", "after_s": 0.5, "for_s": 0.3}]]',
    b'[{"kind": "unit_reboot", "after_s": 0.5, "for_s": 0.3}]',
)


def of_file(read: Callable[[Path], object], name: str) -> Callable[[Guarded], None]:
    """A reader of bytes, from one of files; what it refuses, it refuses in one line."""

    def reader(guarded: Guarded) -> None:
        path = FOLDER / name
        path.write_bytes(guarded.view)
        try:
            read(path)
        except (PerceptionError, UnknownLens) as error:
            assert "\n" not in str(error)
            raise FrameRejected(str(error)) from error

    return reader


def drive(path: Path) -> None:
    with open_drive(path) as opened:
        for count, frame in enumerate(opened.frames()):
            assert isinstance(frame.data, bytes | memoryview)
            if count == MOST_FRAMES:
                break
        assert all("\n" not in line for line in opened.warnings)


def model(path: Path) -> None:
    load_model(str(path.parent)).input.preprocessor()


def journal(path: Path) -> None:
    if not (records := read_journal(path)):
        raise FrameRejected("no whole journal")
    for record in records[-2:]:
        write_frame_report(record)


class Unit:
    """Takes orders and only checks them."""

    def __init__(self) -> None:
        self.started = None

    def start(self, domain: str, values: dict, faults: list) -> str:
        unit._FAULTS.validate_python(faults)
        LIVE.nodes(values)
        return SimpleNamespace(failure="")

    def put_in(self, fault: object) -> None:
        unit._FAULTS.validate_python([fault])

    def stop(self, graph: object) -> str:
        return "the log"


class Connection(unit._Connection):
    """Says nothing of what it refuses."""

    disable_nagle_algorithm = False  # these sockets have none

    def log_message(self, *_: object) -> None:
        pass


def protected(guarded: Guarded) -> None:
    """What a planner gets: a message with counter, deadline and CRC."""
    found = open_protected(bytes(guarded.view), IDENTITY)
    if isinstance(found, str):
        raise FrameRejected(found)
    assert found.data in bytes(guarded.view)


def orders(guarded: Guarded) -> None:
    """What a bench, or whoever reaches the port, sends to a unit."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(guarded.view)
        far.shutdown(socket.SHUT_WR)
        Connection(near, ("fuzz", 0), SimpleNamespace(unit=Unit()))
        near.close()
        answer = b""
        with suppress(ConnectionResetError):  # it has not read all
            while piece := far.recv(65536):
                answer += piece
    if b"HTTP/1.1 200" not in answer:
        raise FrameRejected(answer[-200:].decode(errors="replace") or "closed")


def answers(guarded: Guarded) -> None:
    """What answers a bench at the address of a unit."""
    near, far = socket.socketpair()
    with near, far:
        remote = unit.RemoteUnit.__new__(unit.RemoteUnit)
        remote._address, remote._one_order = "fuzz", Lock()
        remote._connection = HTTPConnection("fuzz")
        remote._connection.sock = near
        far.sendall(guarded.view)
        far.shutdown(socket.SHUT_WR)
        try:
            remote._order("clock")
        except unit.UnitError as error:
            assert "\n" not in str(error)
            raise FrameRejected(str(error)) from error


def _bags() -> dict[str, list[bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for storage, suffix in (("mcap", "mcap"), ("sqlite3", "db3")):
            bag = write_ros2(Path(folder) / storage, frames=2, storage=storage)
            made[suffix] = [next(bag.glob(f"*.{suffix}")).read_bytes()]
        made["bag"] = [write_ros1(Path(folder) / "ros1.bag", frames=2).read_bytes()]
    return made


def _models() -> list[bytes]:
    folder = make_model(FOLDER / "toy")
    assert (folder / "toy.onnx").read_bytes() == CONTENT
    return [(folder / "model.yaml").read_bytes()]


def _networks() -> list[bytes]:
    made = detector({"output0": np.zeros((1, 6, 126), np.float32)}, facts={"names": "{0: 'car'}"})
    return [made.SerializeToString()]


def _journals() -> list[bytes]:
    record = bytes(FrameRecord(record=3, reason=b"written by the dead"))
    sign = struct.pack("3qQQ", 1, 2, 3, 5, 7)
    return [sign + record * RECORDS]


def _orders() -> list[bytes]:
    return [
        f"POST /{name} HTTP/1.1\r\nUser-Agent: {unit.PROTOCOL}\r\nAuthorization: ".encode()
        + unit._credential()
        + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
        for name, body in zip(("clock", "start", "start", "put_in"), ORDERS, strict=True)
    ]


def _answers() -> list[bytes]:
    head = f"HTTP/1.1 200 OK\r\nServer: {unit.PROTOCOL}\r\nContent-Length: 19\r\n\r\n"
    return [head.encode() + b"1700000000000000000"]


BAGS = _bags()
FILE_READERS: dict[str, tuple[Callable[[Guarded], None], list[bytes]]] = {
    **{
        f"drive.{suffix}": (of_file(drive, f"drive.{suffix}"), seeds)
        for suffix, seeds in BAGS.items()
    },
    "model.yaml": (of_file(model, "toy/model.yaml"), _models()),
    "ONNX file to import": (of_file(partial(read_onnx, size=None), "best.onnx"), _networks()),
    "calibration file": (of_file(read_calibration, "camera.yaml"), [CALIBRATION]),
    "parameter file": (of_file(read_parameter_file, "parameters.yaml"), [PARAMETERS]),
    "scenario file": (of_file(partial(load_scenario, given={}), "s.yaml"), [SCENARIO]),
    "protected message": (protected, [protect(b"message " * 5, IDENTITY, 7, 10**7)]),
    "journal": (of_file(journal, "x.journal"), _journals()),
    "orders to a unit": (orders, _orders()),
    "answers of a unit": (answers, _answers()),
}
