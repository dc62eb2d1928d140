"""A node as a process: start, work loop, orderly stop, exit status."""

import gc
import os
import signal
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logging_directory
from rclpy.signals import SignalHandlerOptions

from perception_nodes.core.errors import PerceptionError
from perception_nodes.system import environment
from perception_nodes.system.last_words import leave
from perception_nodes.system.life import ended_by, is_launched, is_supervised
from perception_nodes.system.output import Relay, make_unfailing
from perception_nodes.system.realtime import RealTime, give_way
from perception_nodes.system.service import is_in_journal
from perception_nodes.system.signals import ASKED_TO_END, STOPPING

NO_LOG_FILE = "--disable-external-lib-logs"
INACTIVE_WAIT_MS = 8.0
SERVICE_PERIOD_NS = 100_000_000
NO_FRAME_NS = 250_000_000
"""A node expects no frame at once when the last one came this long ago."""
ANSWER_S = 0.2
"""How long a node lives on after a shutdown, so that whoever asked for it gets the answer."""


def run_node(node_type: Any, name: str) -> int:
    """Run a node until a signal or its own end.

    Args:
        node_type: a `PerceptionNode`.
        name: name of the node.

    Returns:
        Exit status: 0 if it has ended by itself or was shut down through its life cycle, 2 if it
        could not start, 1 if it failed later, `ended_by` of a signal that ended it.
    """
    # A supervisor relays what its nodes write; a node that is started by itself relays it itself.
    if is_launched() or not is_supervised():
        with Relay():
            return _run(node_type, name)
    make_unfailing()
    return _run(node_type, name)


def _run(node_type: Any, name: str) -> int:
    # A supervisor has set these already; a node that is started by itself needs them as well.
    images = "image_topic" in node_type.settings_type.model_fields
    os.environ.update(environment.ros_environment(images))
    environment.leave_out_working_folder()
    environment.keep_large_buffers()
    if node_type.in_background:
        give_way(os.getpid())
    os.nice(node_type.niceness)
    stopping = 0

    def stop(number: int, _: object) -> None:
        nonlocal stopping
        stopping = number
        ASKED_TO_END.set()

    for number in STOPPING:
        # A supervisor that ignores Ctrl-C still stops its nodes by SIGINT; nohup stays in force.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    # A supervisor blocks them until now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    realtime = RealTime()
    try:
        arguments = [*sys.argv, *_without_log_file(name)]
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = node_type(name)
    except (RuntimeError, PerceptionError) as error:  # wrong ROS arguments, an unusable keystore
        text = " ".join(str(error).split())
        leave(text)
        print(f"{name}: {text}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    realtime.leave_out_middleware()
    node.realtime = realtime
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    started = False
    try:
        node.begin()
        served_ns = 0
        while not (stopping or node.finished or node.error or node.is_shut_down):
            if not node.active:
                node.spin(INACTIVE_WAIT_MS)
                continue
            if not started:
                started = True
                node.begin_real_time()
            began_ns = time.monotonic_ns()
            node.step()
            # Handle services and parameters just after a frame: they can wait, but a frame cannot.
            is_frame_due = began_ns - NO_FRAME_NS < node.frame_ns < began_ns
            if not is_frame_due and began_ns > served_ns + SERVICE_PERIOD_NS:
                served_ns = began_ns
                node.spin(0)
                node.look_after_files()
                node.follow_changes()
                realtime.keep()
                # Automatic collection is off, and few objects were created since the last one.
                gc.collect(1)
    except BaseException as error:
        node.crashed = True
        leave(f"{type(error).__name__}: {error}")
        raise
    finally:
        gc.unfreeze()  # an object that is not collected leaves its shared memory behind
        if node.is_shut_down:
            time.sleep(ANSWER_S)
        node.end()
        executor.remove_node(node)
        node.destroy_node()
        rclpy.shutdown()
        # Python lets another signal end it while it ends, and launch would take that for a failure.
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
    if node.error:
        leave(node.error)
        return 1 if started else 2
    return ended_by(stopping) if stopping else node.exit_status


def _without_log_file(name: str) -> list[str]:
    """ROS arguments for a node that needs no log file, or can have none.

    systemd's journal has the same lines, and a limit: log files of a service that restarts would
    fill the disk. If no file can be made, as by a container's user without a home, ROS would not
    start.
    """
    if NO_LOG_FILE in sys.argv:
        return []
    if is_in_journal() and not os.environ.get("ROS_LOG_DIR"):
        return ["--ros-args", NO_LOG_FILE]
    try:
        folder = get_logging_directory()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return []
        why = f"{folder} cannot be written"
    except (RuntimeError, OSError) as error:  # there is no home that we can use
        why = " ".join(str(error).split())
    print(f"{name}: no log file: {why}; name a folder with ROS_LOG_DIR", file=sys.stderr)
    return ["--ros-args", NO_LOG_FILE]
