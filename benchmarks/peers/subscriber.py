"""The subscriber of the benchmark: tells when which answer arrives.

It takes any message that begins with a std_msgs/Header, and needs rclpy and that message alone. It
prints `listening`, then `answer STAMP TIME OBJECTS` for each result in nanoseconds, and
`told FIRST LAST` for each report by which a detector says that it has missed a frame; one that
comes again with its number is left out. With --keep
it writes the results themselves to a file, each behind its length.
"""

import argparse
import os
import struct
import time
from contextlib import suppress
from importlib import import_module


def message_type(name: str):
    """The class of a message, such as of `vision_msgs/msg/Detection2DArray`."""
    package, _, message = name.split("/")
    return getattr(import_module(f"{package}.msg"), message)


def stamp_of(data: bytes) -> int:
    """The stamp of a serialized message that begins with a std_msgs/Header, nanoseconds."""
    seconds, nanoseconds = struct.unpack_from(("<" if data[1] & 1 else ">") + "iI", data, 4)
    return seconds * 10**9 + nanoseconds


def objects_in(data: bytes) -> int:
    """The length of the list that follows the header; 0 where the message ends before."""
    order = "<" if data[1] & 1 else ">"
    with suppress(struct.error):
        (length,) = struct.unpack_from(order + "I", data, 12)
        (count,) = struct.unpack_from(order + "I", data, 16 + -(-length // 4) * 4)
        return int(count)
    return 0


def nanoseconds(stamp) -> int:
    """A `builtin_interfaces/Time` as one number."""
    return int(stamp.sec * 10**9 + stamp.nanosec)


class Reports:
    """Reads from a detector's reports which frames it has missed.

    Args:
        field: of the report, that says what became of the frame.
        missed: its values that mean missed.
        lost: the fields with the stamps around that of a frame which has none; or none.
        number: the field with the report's number; empty for none.
    """

    def __init__(self, field: str, missed, lost=(), number: str = "") -> None:
        self._field, self._missed = field, frozenset(missed)
        self._lost, self._number = lost, number
        self._known: set[tuple[int, ...]] = set()

    def told(self, message, now_ns: int) -> "tuple[int, int] | None":
        """The first and the last stamp that the missed frame can have; None if none was missed."""
        if str(getattr(message, self._field)) not in self._missed:
            return None
        stamp_ns = nanoseconds(message.header.stamp)
        around_ns = [nanoseconds(getattr(message, name)) for name in self._lost]
        if number := self._number and getattr(message, self._number):
            # Whoever begins anew counts anew, so the number alone does not tell a report.
            key = (number, stamp_ns, *around_ns)
            if key in self._known:
                return None
            self._known.add(key)
        if stamp_ns or not around_ns:
            return stamp_ns, stamp_ns
        after_ns, before_ns = around_ns
        return after_ns + 1, (before_ns or now_ns) - 1


def main() -> None:
    """Listen until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result", nargs=2, metavar=("TOPIC", "TYPE"), required=True)
    parser.add_argument("--reports", nargs=3, metavar=("TOPIC", "TYPE", "FIELD"))
    parser.add_argument("--missed", nargs="*", default=[], help="values of FIELD that mean missed")
    parser.add_argument("--lost", nargs="*", default=[], help="fields around a stamp not known")
    parser.add_argument("--number", default="", help="field with the report's number")
    parser.add_argument("--keep", default=os.devnull, help="file for the results, as they came")
    parser.add_argument("--best-effort", action="store_true")
    parser.add_argument("--priority", type=int, default=0, help="SCHED_FIFO; 0 for none")
    given = parser.parse_args()
    if given.priority:  # before the middleware has threads
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(given.priority))

    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    def on_answer(data: bytes) -> None:
        now_ns = time.time_ns()
        print("answer", stamp_of(data), now_ns, objects_in(data), flush=True)
        kept.write(struct.pack("<I", len(data)) + data)

    def on_report(message) -> None:
        if stamps_ns := reports.told(message, time.time_ns()):
            print("told", *stamps_ns, flush=True)

    kept = open(given.keep, "wb")
    rclpy.init()
    node = rclpy.create_node("peers_subscriber")
    kind = ReliabilityPolicy.BEST_EFFORT if given.best_effort else ReliabilityPolicy.RELIABLE
    topic, name = given.result
    qos = QoSProfile(depth=100, reliability=kind)
    node.create_subscription(message_type(name), topic, on_answer, qos, raw=True)
    if given.reports:
        topic, name, field = given.reports
        reports = Reports(field, given.missed, given.lost, given.number)
        node.create_subscription(message_type(name), topic, on_report, QoSProfile(depth=1000))
    with kept, suppress(KeyboardInterrupt, ExternalShutdownException):
        print("listening", flush=True)
        rclpy.spin(node)


if __name__ == "__main__":
    main()
