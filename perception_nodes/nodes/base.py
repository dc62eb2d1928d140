"""What all nodes share: parameters from settings, the life cycle, the work loop."""

import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

from lifecycle_msgs.msg import State as StateMessage
from lifecycle_msgs.srv import ChangeState
from perception_interfaces.msg import Protected
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, State, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.failover import FILES_LOOK_NS, LONG_NS
from perception_nodes.graph.config import Settings
from perception_nodes.graph.settings import SettingsError, is_changeable
from perception_nodes.graph.topics import protected
from perception_nodes.nodes.parameters import changed_settings, declare_parameters
from perception_nodes.nodes.protected_topic import PROTECTED, ProtectedTopic
from perception_nodes.nodes.running import run_node
from perception_nodes.system.life import is_supervised
from perception_nodes.system.realtime import RealTime
from perception_nodes.transport.commanded import Commanded
from perception_nodes.transport.memory import NAMESPACE, reserve
from perception_nodes.transport.notes import Notes
from perception_nodes.transport.shm import Endpoint
from perception_nodes.transport.standing import FILES_REMOVED, removed_file

IDLE_WAIT_MS = 8.0
"""The longest wait. With kernel ticks of 4 ms it takes 12 ms, rarely 16."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""QoS of a state: a late subscriber gets the last message."""
REPORTS = QoSProfile(depth=1000)
"""QoS of reports: a subscriber may fall behind; one that joins late gets no earlier reports."""
_POLICIES = "HISTORY", "DEPTH", "RELIABILITY", "DURABILITY"
OVERRIDABLE = QoSOverridingOptions([QoSPolicyKind[name] for name in _POLICIES])
"""Policies that parameters `qos_overrides./TOPIC.publisher.POLICY` or `.subscription.` can
change."""
REFUSED = "remote_changes:=refuse"
Publisher: TypeAlias = "LifecyclePublisher[Any]"  # the type is not generic in Jazzy
Qos: TypeAlias = QoSProfile | int


UNCONFIGURED = StateMessage.PRIMARY_STATE_UNCONFIGURED
INACTIVE, ACTIVE = StateMessage.PRIMARY_STATE_INACTIVE, StateMessage.PRIMARY_STATE_ACTIVE


class Closable(Protocol):
    """A resource that has to be closed."""

    def close(self) -> None:
        """Close it."""


R = TypeVar("R", bound=Closable)


class PerceptionNode(LifecycleNode):
    """A life-cycle node that configures and activates itself, and then steps until it is stopped.

    Subclasses override `open`, `close` and `step`.
    """

    settings_type: type[Settings] = Settings
    endpoint: Endpoint
    """Our end of shared memory; available from before `open` until after `close`."""
    in_background = False
    """Whether it runs only while nothing else wants the processor."""
    niceness = 0
    """Niceness of a node that gives way to others, but must get its messages on a busy machine."""
    shares_memory = True
    """Whether it needs `endpoint`."""
    rank: int | None = None
    """See `system.realtime.RANKS`; None for a node that no frame waits for."""
    longest_ns = LONG_NS
    """How long a step may compute without a pause."""
    leads_itself = False
    """Whether the present transition is our own, not one that was commanded."""
    exit_status = 0
    """Exit status of the process if the node has finished."""
    frame_ns = 0
    """When the last frame came or was finished here, CLOCK_MONOTONIC."""

    @classmethod
    def main(cls) -> NoReturn:
        """Be the process of a node, see `run_node`; `DetectorNode` is named `detector_node`."""
        sys.exit(run_node(cls, re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).lower()))

    def __init__(self, name: str) -> None:
        """Declare the parameters of `settings_type`."""
        super().__init__(name)
        if not is_supervised():
            os.environ.setdefault(NAMESPACE, self.get_namespace())
        self.settings: Any = declare_parameters(self, self.settings_type)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.realtime = RealTime()
        self.active = False
        self.finished = False
        self.is_shut_down = self.crashed = False
        self.error = ""
        self.owned = ExitStack()
        self.meanwhile = ExitStack()
        self._commanded = Commanded(self.settings.served[0], self.get_fully_qualified_name())
        self.notes = Notes(self.settings.served[0])
        self._files_due = Period(FILES_LOOK_NS)
        if self.settings.remote_changes == "refuse":
            self._refuse_transitions()

    def begin(self) -> None:
        """Go to the state that was last commanded; without a command to what `autostart` says."""
        goal = self._commanded.state or (ACTIVE if self.settings.autostart else UNCONFIGURED)
        if goal != ACTIVE:
            self.await_command()
        self.follow_changes()
        self.leads_itself = True
        if goal != UNCONFIGURED:
            self.trigger_configure()
        if goal == ACTIVE and not self.error:
            self.trigger_activate()
        self.leads_itself = False

    def end(self) -> None:
        """Shut down in good order, without a command."""
        self.leads_itself = True
        if not self.is_shut_down:
            self.trigger_shutdown()
        self._commanded.close()
        self.notes.close()

    def await_command(self) -> None:
        """Prepare to wait until a life-cycle manager activates the node; not called if active."""

    def open(self) -> None:
        """Acquire the node's resources; `self.endpoint` is available."""

    def close(self) -> None:
        """Release what is not owned; called after a failed `open` too."""

    def own(self, resource: R) -> R:
        """Have a resource closed when the node is cleaned up: the last one first."""
        self.owned.callback(resource.close)
        return resource

    def step(self) -> None:
        """Wait a moment for work and do it; called in a loop while active."""

    def begin_real_time(self) -> None:
        """Make the real-time settings of the process, and log which ones the system refused."""
        settings: Settings = self.settings
        wanted = settings.cpus, settings.fifo_priority, self.rank, settings.lock_memory
        for line in self.realtime.begin(*wanted, self.longest_ns / 1e9):
            self.get_logger().info(line)

    def change(self, settings: Any) -> None:
        """Work with other values of the changeable parameters from now on.

        Raises:
            SettingsError: they cannot be changed now.
        """

    def rest(self) -> None:
        """Stop working in good order; called once, after the last `step`."""

    def spin(self, timeout_ms: float) -> None:
        """Run the callback of one waiting message, service or timer, or wait for one."""
        executor = self.executor
        assert executor is not None
        executor.spin_once(timeout_sec=timeout_ms / 1e3)

    def add_publisher(self, message_type: type, topic: str, qos: Qos) -> Publisher:
        """A publisher that publishes while the node is active, destroyed when it is cleaned up."""
        publisher: Publisher = self.create_lifecycle_publisher(
            message_type, topic, _own(qos), qos_overriding_options=OVERRIDABLE
        )
        self.owned.callback(self.destroy_lifecycle_publisher, publisher)
        return publisher

    def add_protected(
        self, message_type: type, topic: str, qos: Qos, copy_qos: QoSProfile = PROTECTED
    ) -> ProtectedTopic:
        """A topic with its protected copy, closed when the node is cleaned up."""
        plain = self.add_publisher(message_type, topic, qos)
        copy_of = self.add_publisher(Protected, protected(topic), copy_qos)
        return self.own(ProtectedTopic(plain, copy_of))

    def add_subscription(
        self,
        message_type: type,
        topic: str,
        callback: Callable[..., None],
        qos: Qos,
        raw: bool = True,
    ) -> Any:
        """A subscription, by default to serialized messages, destroyed when it is cleaned up."""
        subscription = self.create_subscription(
            message_type, topic, callback, _own(qos), raw=raw, qos_overriding_options=OVERRIDABLE
        )
        self.owned.callback(self.destroy_subscription, subscription)
        return subscription

    def add_service(self, service_type: type, name: str, callback: Callable[..., Any]) -> None:
        """A service, destroyed when the node is cleaned up."""
        self.owned.callback(self.destroy_service, self.create_service(service_type, name, callback))

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Join shared memory, and open."""
        self._follow(state, "inactive", INACTIVE)
        try:
            with self.realtime.leisurely():
                if self.shares_memory:
                    self.endpoint = self.own(Endpoint(self.get_name()))
                self.open()
                reserve()
            return TransitionCallbackReturn.SUCCESS
        except PerceptionError as error:
            self.error = text = str(error)
        except Exception as error:
            # rclpy would not report it, and the node would wait for ever.
            self.error = f"{type(error).__name__}: {error}"
            text = "".join(traceback.format_exception(error))
        self.get_logger().error(text)
        self._close()
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start working."""
        self._follow(state, "active", ACTIVE)
        self.active = True
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop working, keep everything."""
        self._follow(state, "inactive", INACTIVE)
        self._rest()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Release all resources."""
        self._follow(state, "unconfigured", UNCONFIGURED)
        self._close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Release everything; the process ends, since nothing leads out of this state."""
        self._follow(state, "finalized")
        self._rest()
        self._close()
        self.is_shut_down = True
        return TransitionCallbackReturn.SUCCESS

    def _follow(self, state: State, goal: str, number: int = 0) -> None:
        """Log a transition that was commanded, and keep its goal for a process after us.

        What is done while the node waits for its activation ends here.
        """
        if number != INACTIVE:
            self.meanwhile.close()
        if self.leads_itself:
            self.get_logger().debug(f"{state.label} -> {goal}")
            return
        self.get_logger().info(f"{state.label} -> {goal}, as commanded")
        if number:
            self._commanded.keep(number)

    def follow_changes(self) -> None:
        """Take over parameters that were changed in another process of the graph."""
        fields = self.settings_type.model_fields
        news = {
            name: value
            for name, value in self.notes.news().items()
            if name in fields and is_changeable(fields[name])
        }
        if news:
            self.leads_itself = True
            self.set_parameters([Parameter(name, value=value) for name, value in news.items()])
            self.leads_itself = False

    def _refuse_transitions(self) -> None:
        """Have calls for a transition fail, which rclpy has no setting for."""
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refused_transition

    def _refused_transition(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        self.get_logger().warning(f"transition {request.transition.id} is refused: {REFUSED}")
        response.success = False
        return response

    def _on_parameters(self, parameters: "Sequence[Parameter[Any]]") -> SetParametersResult:
        values = {one.name: one.value for one in parameters}
        try:
            settings = changed_settings(self.settings, values)
            if settings != self.settings:
                own = self.settings.model_dump()
                changed = {n: v for n, v in values.items() if n in own and v != own[n]}
                text = ", ".join(f"{name}:={value}" for name, value in changed.items())
                if not self.leads_itself and settings.remote_changes == "refuse":
                    raise SettingsError(f"{text}: {REFUSED}; start the graph with it instead")
                self.change(settings)
                self.settings = settings
                if not self.leads_itself:
                    self.get_logger().warning(f"changed while the graph runs: {text}")
                    self.notes.keep(changed)
        except PerceptionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _rest(self) -> None:
        if self.active:
            self.active = False
            self.rest()

    def look_after_files(self) -> None:
        """End if our files were removed: whoever makes them anew would not know of us."""
        if not (self.shares_memory and self.active and self._files_due.due()):
            return
        if removed := removed_file(self.endpoint.number):
            text = f"{removed} was removed from shared memory, so the graph has to start anew"
            self.get_logger().fatal(text)
            self.finished, self.exit_status = True, FILES_REMOVED

    def _close(self) -> None:
        self.close()
        self.owned.close()


def _own(qos: Qos) -> QoSProfile:
    """Copy a profile, because parameters may change it for this topic alone."""
    return QoSProfile(depth=qos) if isinstance(qos, int) else copy(qos)


class Period:
    """Knows when something periodic is due: at once, and then on average once in each period."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._last_ns: int | None = None

    def due(self) -> bool:
        """Whether it is due; if so, a new period begins."""
        now_ns = time.monotonic_ns()
        late_ns = 0 if self._last_ns is None else now_ns - self._last_ns - self._period_ns
        if late_ns < 0:
            return False
        self._last_ns = now_ns - late_ns % self._period_ns
        return True
