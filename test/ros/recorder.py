"""Subscribes to topics, as `ros2 bag record` does."""

import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile


class Recorder:
    """Keeps what comes: `got` has the messages by topic."""

    def __init__(self, context: rclpy.Context, timeout_s: float = 150.0) -> None:
        self._timeout_s = timeout_s
        self.node = rclpy.create_node("recorder", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self.got: dict[str, list[Any]] = {}

    def subscribe(self, topic: str, kind: Any, qos: QoSProfile | int = 10) -> Any:
        got = self.got[topic] = []
        return self.node.create_subscription(kind, topic, got.append, qos)

    def until(self, condition: Callable[[], bool], why: Callable[[], object]) -> None:
        give_up_s = time.monotonic() + self._timeout_s
        while not condition():
            assert time.monotonic() < give_up_s, why()
            self._executor.spin_once(timeout_sec=0.1)
