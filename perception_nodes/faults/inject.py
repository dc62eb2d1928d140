"""Puts faults into a running graph from outside; those of the camera are in `camera_faults`."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from perception_nodes.core.errors import PerceptionError
from perception_nodes.faults import scenario
from perception_nodes.faults.faulty_backend import VARIABLE, Orders, hit_file
from perception_nodes.faults.graphs import PACKAGE, SLOW_SUBSCRIBER, FaultyDetectorSettings
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.system.children import start
from perception_nodes.system.load import busy
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.memory import SHM_FOLDER

FILL_BYTES = 1 << 20
POLL_S = 0.01
CALL_WITHIN_S = 1.0
"""A fault that hits one call must have found a call within this time."""
LISTENS_WITHIN_S = 15.0
"""On a busy machine a process that uses ROS takes five seconds to start."""


class NotInjected(PerceptionError):
    """A fault could not be put in; the text says why."""


@dataclass(frozen=True)
class UnderTest:
    """The graph that a fault is put into.

    Attributes:
        supervisor: supervisor of the graph's processes.
        camera: name of its camera.
        orders: the file that its faulty backend obeys.
    """

    supervisor: Supervisor
    camera: str
    orders: Path


def with_faulty_backend(
    specs: Sequence[NodeSpec], faults: Sequence[scenario.Fault], orders: Path
) -> list[NodeSpec]:
    """The nodes of a graph; its detector is the faulty one if a fault is one of the backend."""
    wanted = [fault for fault in faults if isinstance(fault, scenario.BackendFault)]
    if not wanted:
        return list(specs)
    healthy_orders(wanted[0]).write(orders)
    return [obeying(spec, orders) if spec.executable == "detector_node" else spec for spec in specs]


def obeying(detector: NodeSpec, orders: Path) -> NodeSpec:
    """The spec of a detector with the faulty backend, which obeys the orders in a file."""
    return replace(
        detector,
        kind=replace(detector.kind, package=PACKAGE),
        settings=FaultyDetectorSettings(**{**detector.parameters, "backend": "faulty"}),
        environment={**detector.environment, VARIABLE: str(orders)},
    )


def put_in(fault: scenario.Fault, target: UnderTest, wait_s: Callable[[float], bool]) -> None:
    """Put a fault in, and return when it is over.

    Args:
        fault: what to do.
        target: the graph to do it to.
        wait_s: waits for a number of seconds or until the run is over, and returns whether it is
            over.

    Raises:
        NotInjected, LoadEnded: the fault cannot be put in, hit nothing, or ended too early.
    """
    with _in_effect(fault, target, wait_s):
        wait_s(fault.for_s)


def _in_effect(
    fault: scenario.Fault, target: UnderTest, wait_s: Callable[[float], bool]
) -> AbstractContextManager[None]:
    if isinstance(fault, scenario.BackendFault):
        return _ordered(fault, target, wait_s)
    if isinstance(fault, scenario.ProcessFault):
        number = signal.SIGKILL if fault.kind == "process_kill" else signal.SIGSTOP
        os.kill(_working_process(fault.role, target), number)
    if isinstance(fault, scenario.ShmFullFault):
        return _full(fault)
    if isinstance(fault, scenario.CpuFault):
        return busy(sorted(os.sched_getaffinity(0))[: fault.cores or None])
    if isinstance(fault, scenario.SubscriberFault):
        return _slow_subscriber(fault, target, wait_s)
    return nullcontext()  # the bench injects the others itself


def healthy_orders(fault: scenario.BackendFault) -> Orders:
    """The orders of the faulty backend before the fault."""
    return Orders(inner=fault.inner, call_ms=fault.call_ms)


def has_small_shm(fault: scenario.ShmFullFault) -> bool:
    """Whether `/dev/shm` is so small that it must be private: filling it then harms no others."""
    return shutil.disk_usage(SHM_FOLDER).total <= fault.size_mb << 20


def _await(
    hit: Callable[[], object], within_s: float, wait_s: Callable[[float], bool], why_not: str
) -> None:
    """Wait until a fault has hit something."""
    until_s = time.monotonic() + within_s
    while not hit():
        if wait_s(POLL_S) or time.monotonic() > until_s:
            raise NotInjected(why_not)


@contextmanager
def _ordered(
    fault: scenario.BackendFault, target: UnderTest, wait_s: Callable[[float], bool]
) -> Iterator[None]:
    hit = hit_file(target.orders)
    hit.unlink(missing_ok=True)  # left by an earlier fault
    until_ns = time.monotonic_ns() + round(fault.for_s * 1e9)
    name = fault.kind.removeprefix("backend_")
    order = {"fault": name, "factor": fault.factor, "until_ns": until_ns}
    Orders.model_validate(healthy_orders(fault).model_dump() | order).write(target.orders)
    yield
    within_s = CALL_WITHIN_S if fault.kind in scenario.MOMENTARY else 0.0
    _await(hit.exists, within_s, wait_s, "it met no call of the network")


def _working_process(role: str, target: UnderTest) -> int:
    """The process that holds a role, not its standbys."""
    pids = [p.pid for spec, p in target.supervisor.processes if spec.executable == f"{role}_node"]
    if role != "watchdog":
        lease = Lease(target.camera, role)
        holder = int(lease.note.process)
        lease.close()
        pids = [pid for pid in pids if pid == holder]
    if not pids:
        raise NotInjected(f"no {role} process is at work")
    return pids[0]


@contextmanager
def _full(fault: scenario.ShmFullFault) -> Iterator[None]:
    if not has_small_shm(fault):
        raise NotInjected(f"{SHM_FOLDER} has more than {fault.size_mb} MB; others may need it")
    path = SHM_FOLDER / f"perception_hil_fill_{os.getpid()}"
    try:
        with path.open("wb", buffering=0) as file:
            _write_until_full(file.write)
        yield
    finally:
        path.unlink(missing_ok=True)


def _write_until_full(write: Callable[[bytes], int]) -> None:
    block = bytes(FILL_BYTES)
    size = len(block)
    while size:
        try:
            write(block[:size])
        except OSError:
            size //= 2


@contextmanager
def _slow_subscriber(
    fault: scenario.SubscriberFault, target: UnderTest, wait_s: Callable[[float], bool]
) -> Iterator[None]:
    detector = next(s for s, _ in target.supervisor.processes if s.executable == "detector_node")
    of_graph = {name: detector.parameters[name] for name in ("camera", "detections_topic")}
    (spec,) = SLOW_SUBSCRIBER.nodes({**of_graph, "delay_ms": fault.delay_ms})
    command = [sys.executable, "-m", spec.kind.module, *spec.arguments()]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    process = start(command, spec.environment, stdout=pipe, stderr=nothing)
    said = process.stdout
    assert said is not None
    try:
        # The fault begins when the subscriber prints a line, at its first message.
        why_not = "the slow subscriber got no message"
        _await(lambda: select.select([said], [], [], 0)[0], LISTENS_WITHIN_S, wait_s, why_not)
        yield
        if process.poll() is not None:
            raise NotInjected(f"the slow subscriber ended with status {process.returncode}")
    finally:
        process.kill()
        process.communicate()
