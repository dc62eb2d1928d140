"""How far the graph's results can be relied on."""

from enum import IntEnum


class Phase(IntEnum):
    """How far a graph is; it starts until the first detections are published."""

    STARTING = 0
    RUNNING = 1
    STOPPING = 2


class HealthMode(IntEnum):
    """How far the detections can be relied on, the best mode first; as in `Health.msg`."""

    NOMINAL = 0
    DEGRADED = 1
    SKIPPING = 2
    UNSAFE = 3
