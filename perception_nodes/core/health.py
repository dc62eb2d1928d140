"""How far the graph's results can be relied on."""

from enum import IntEnum


class HealthMode(IntEnum):
    """How far the detections can be relied on, the best mode first; as in `Health.msg`."""

    NOMINAL = 0
    DEGRADED = 1
    SKIPPING = 2
    UNSAFE = 3
