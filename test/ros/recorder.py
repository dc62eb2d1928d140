"""A node beside a graph: subscribes to topics, as `ros2 bag record` does, and calls services."""

from typing import Any

import rclpy
from observe import until
from rclpy.executors import SingleThreadedExecutor


class Recorder:
    """Keeps what comes: `got` has the messages by topic."""

    def __init__(self, context, timeout_s=300.0):
        self._timeout_s = timeout_s
        self.node = rclpy.create_node("recorder", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self.got: dict[str, list[Any]] = {}

    def subscribe(self, topic, kind, qos=10):
        got = self.got[topic] = []
        return self.node.create_subscription(kind, topic, got.append, qos)

    def until(self, condition, why=str, look_s=0.1):
        """Take messages until it is so; it is looked at this often at least."""
        until(condition, self._timeout_s, why, lambda: self.spin(look_s))

    def spin(self, seconds):
        """Take a message, or wait for one."""
        self._executor.spin_once(timeout_sec=seconds)

    def call(self, kind, name, request):
        """Call a service, and return the answer."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=self._timeout_s), f"no service {name}"
        future = client.call_async(request)
        self.until(future.done)
        self.node.destroy_client(client)
        return future.result()
