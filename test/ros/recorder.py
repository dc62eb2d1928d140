"""A node beside a graph: subscribes to topics, as `ros2 bag record` does, and calls services."""

from typing import Any

import rclpy
from observe import until
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile

TIMEOUT_S = 300.0
EVERY_STATE = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Of who must not miss what a state was in between, nor before it came."""


class Recorder:
    """Keeps what comes: `got` has the messages by topic."""

    def __init__(self, name="recorder"):
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.got: dict[str, list[Any]] = {}

    def subscribe(self, topic, kind, qos=10):
        got = self.got[topic] = []
        return self.node.create_subscription(kind, topic, got.append, qos)

    def hear(self, topic, kind, qos=10):
        """Subscribe; the list to which the messages are added."""
        self.subscribe(topic, kind, qos)
        return self.got[topic]

    def until(self, condition, why=str, look_s=0.1):
        """Take messages until it is so; it is looked at this often at least."""
        until(condition, TIMEOUT_S, why, lambda: self.spin(look_s))

    def until_told(self, kind, name, request, is_so):
        """Ask a service again and again: who asks a dead node gets no answer."""
        asking, answers = self.node.create_client(kind, name), []

        def told():
            asking.call_async(request).add_done_callback(lambda d: answers.append(d.result()))
            return any(map(is_so, answers))

        self.until(told)

    def spin(self, seconds):
        """Take a message, or wait for one."""
        self._executor.spin_once(timeout_sec=seconds)

    def call(self, kind, name, request):
        """Call a service, and return the answer."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=TIMEOUT_S), f"no service {name}"
        future = client.call_async(request)
        self.until(future.done)
        self.node.destroy_client(client)
        return future.result()

    def close(self):
        rclpy.shutdown(context=self._context)
