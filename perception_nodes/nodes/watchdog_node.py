"""The accounting and the health of the pipeline, in a process of its own."""

import time
from collections.abc import Callable

from rclpy.lifecycle import State, TransitionCallbackReturn
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from perception_nodes.core.failover import HEARD_WITHIN_NS, LONG_NS, LOOK_NS, MS, SILENT_WITHIN_NS
from perception_nodes.graph.config import WatchdogSettings
from perception_nodes.graph.settings import SettingsError
from perception_nodes.nodes.account_topics import AccountTopics
from perception_nodes.nodes.base import IDLE_WAIT_MS, LATCHED, PerceptionNode, Period
from perception_nodes.nodes.protected_topic import PERIOD_NS
from perception_nodes.nodes.unwatched import UnwatchedTopics
from perception_nodes.nodes.watchdog_substitute import VOICE
from perception_nodes.system.life import is_launched
from perception_nodes.system.realtime import RANKS
from perception_nodes.system.service import HardwareWatchdog, Systemd
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.audience import Audience
from perception_nodes.watchdog.guard import ROLE
from perception_nodes.watchdog.safe_stop import SafeStop


class WatchdogNode(PerceptionNode):
    """Keeps an account for each camera, and is itself watched by the other processes."""

    settings_type = WatchdogSettings
    rank = RANKS["watchdog"]

    def open(self) -> None:
        """Join the channels, announce the topics."""
        settings: WatchdogSettings = self.settings
        now_ns = time.monotonic_ns()
        self._topics = [AccountTopics(self, camera, now_ns) for camera in settings.served]
        self._waiter = self.endpoint.waiter([topics.account.inbox.first for topics in self._topics])
        self._lease = self.own(Lease(settings.served[0], ROLE))
        self._voice = self.own(Lease(settings.served[0], VOICE))
        self._audience = Audience(now_ns, HEARD_WITHIN_NS, self._is_known)
        self._speaks, self._speaks_at_ns = True, 0
        self._patience_ns = round(settings.hang_after_ms * 1e6)
        self._systemd = systemd = self.own(Systemd())
        self._due_ns = 0
        latched = settings.safe_stop_clears == "by_service"
        self._safe_stop = SafeStop(latched)
        self._told_safe_stop: bool | None = None
        self._safe_stop_period = Period(PERIOD_NS)
        if latched:
            self.add_service(Trigger, f"{settings.safe_stop_topic}/release", self._on_release)
        self._systemd_period = Period(systemd.period_ns)
        self._safe_stops = self.add_protected(Bool, settings.safe_stop_topic, LATCHED)
        self._hardware: HardwareWatchdog | None = None
        # Open it last: an error above must not disarm one that runs already.
        if settings.hardware_watchdog:
            try:
                self._hardware = hardware = HardwareWatchdog(settings.hardware_watchdog)
            except OSError as error:
                raise SettingsError(f"parameter hardware_watchdog: {error}") from error
            # An orderly end must not be taken for a crash.
            self.owned.callback(lambda: hardware.close(self.crashed))
        systemd.notify("READY=1")

    def await_command(self) -> None:
        """Say until the activation that nobody watches."""
        topics = UnwatchedTopics(self, self.settings.served)
        self.meanwhile.callback(topics.close)
        self._every_period(lambda: topics.publish("the watchdog is not active"))

    def _every_period(self, callback: Callable[[], None]) -> None:
        """Have it called while we are inactive, since the executor spins then."""
        callback()
        self.meanwhile.callback(self.destroy_timer, self.create_timer(PERIOD_NS / 1e9, callback))

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Watch from now on: earlier silence does not count."""
        for topics in self._topics:
            topics.account.postpone(time.monotonic_ns())
        self._due_ns, self._told_safe_stop = 0, None
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Say that nobody watches from now on, while the topics can still be published to."""
        self._be_patient()
        for topics in self._topics:
            topics.pause()
        self._tell_safe_stop(["the watchdog is not active"])
        self._every_period(self._feed)
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Release everything, and say until the next activation that nobody watches."""
        cleaned = super().on_cleanup(state)
        self.await_command()
        return cleaned

    def rest(self) -> None:
        """Publish the last reports, and say that we stop in good order."""
        self._be_patient()
        # Launch ends all nodes at once: wait for those whose last frames we report.
        give_up_ns = time.monotonic_ns() + LONG_NS * (is_launched() and self.leads_itself)
        while time.monotonic_ns() < give_up_ns and any(
            t.account.roster.members for t in self._topics
        ):
            self.step()
        for topics in self._topics:
            topics.end()
        self._lease.release()

    def step(self) -> None:
        """Bring the accounts up to date, and give a sign of life."""
        is_one_silent = any(topics.account.roster.silent() for topics in self._topics)
        self._waiter.wait(IDLE_WAIT_MS if is_one_silent else LOOK_NS / MS)
        now_ns = time.monotonic_ns()
        speaks = self._sign(self._patience_ns)
        due_ns, self._due_ns = self._due_ns or now_ns, now_ns + 2 * LOOK_NS
        steps = [topics.step(now_ns, due_ns, speaks) for topics in self._topics]
        if speaks:
            self._publish_safe_stop()
        if self._systemd.period_ns and self._systemd_period.due():
            self._systemd.notify("WATCHDOG=1")
        if self._hardware is not None and all(step.on_time for step in steps):
            self._hardware.alive()
        if any(step.died for step in steps):
            self._reclaim()
            # The silence meanwhile is nobody's fault.
            for topics in self._topics:
                topics.account.postpone(time.monotonic_ns())
            self._due_ns = 0

    def _be_patient(self) -> None:
        """Announce that the last messages take longer than we may be silent otherwise."""
        if self._lease.held:
            self._lease.sign(LONG_NS)

    def _feed(self) -> None:
        """Tell the watchdogs above us that we are alive: a deactivated node does not hang."""
        self._systemd.notify("WATCHDOG=1")
        if self._hardware is not None:
            self._hardware.alive()

    def _reclaim(self) -> None:
        """Remove what dead processes left; it takes longer than we may be silent otherwise."""
        self._sign(LONG_NS)
        with self.realtime.leisurely():
            self.endpoint.reclaim_dead()
        self._sign(self._patience_ns)

    def _sign(self, patience_ns: int) -> bool:
        """Give a sign of life to our substitutes; return whether it is our turn to speak.

        It is theirs until our listeners know us and the substitutes have fallen silent.
        """
        now_ns = time.monotonic_ns()
        if not self._lease.held:
            if not self._audience.hears(now_ns) and self._voice.is_taken:
                return False
            if self._lease.acquire(patience_ns):
                self._speaks, self._speaks_at_ns = False, now_ns + SILENT_WITHIN_NS
        if self._lease.held:
            self._lease.sign(patience_ns)
        self._speaks = self._speaks or now_ns > self._speaks_at_ns or not self._voice.is_taken
        return self._speaks

    def _is_known(self) -> bool:
        """Whether as many subscribers know us as know the one that speaks in our place."""
        listeners = self._safe_stops.listeners
        listeners += sum(topics.listeners for topics in self._topics)
        return listeners >= self._voice.listeners

    def _publish_safe_stop(self) -> None:
        """Ask the vehicle to stop while the detections of any camera cannot be relied on."""
        accounts = [topics.account for topics in self._topics]
        self._tell_safe_stop([a.camera + ": " + a.health.cause for a in accounts if a.unsafe])

    def _tell_safe_stop(self, causes: list[str]) -> None:
        """Publish the request now and then too: a detector may have spoken in our place."""
        requested = self._safe_stop.update(causes)
        if self._safe_stop_period.due() or self._told_safe_stop != requested:
            self._told_safe_stop = requested
            self._safe_stops.publish_state(Bool(data=requested))

    def _on_release(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Release the vehicle if all detections can be relied on."""
        response.message = self._safe_stop.release()
        response.success = not response.message
        outcome = "released" if response.success else f"not released: {response.message}"
        self.get_logger().warning(f"safe stop {outcome}")
        return response


if __name__ == "__main__":
    WatchdogNode.main()
