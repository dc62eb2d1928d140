"""What a vehicle's computer must keep: every limit of `perception accept`, in one table.

The limits of a failover are in its scenario, and the deadline is the graph's parameter.
"""

from dataclasses import dataclass

from perception_nodes.lab.resources import STANDBY
from perception_nodes.report import recording

START_S = 15.0
"""Longest time from the start of the graph to the first detections."""
SETTLING_S = 5.0
"""The judged drive begins this long after the first detections, when standbys have loaded
models."""
RANK = 0.999
"""This share of the frames must have detections within the deadline."""
PROCESSOR_MS = {
    "camera_node": 14.0,
    "preprocess_node": 4.0,
    "preprocess_node" + STANDBY: 1.0,
    "detector_node": 16.0,
    "detector_node" + STANDBY: 1.5,
    "watchdog_node": 3.0,
    "tracker_node": 3.0,
    "republish_node": 2.0,
    "view_node": 6.0,
}
"""Processor time that all threads of a process may use a frame."""


@dataclass(frozen=True)
class Pace:
    """How regularly messages of a topic must come.

    Attributes:
        rate_hz: messages a second; None for one a frame.
        p99_periods: 99 % of the intervals are at most this number of periods long.
        longest_periods: all intervals are at most this number of periods long.
    """

    rate_hz: float | None = None
    p99_periods: float = 1.5
    longest_periods: float = 4.0


PACES = {
    recording.DETECTIONS_TOPIC: Pace(),
    recording.FRAME_REPORT_TOPIC: Pace(),
    recording.TRACKS_TOPIC: Pace(),
    recording.HEALTH_TOPIC: Pace(10.0),
    recording.SAFE_STOP_TOPIC: Pace(10.0),
    recording.DIAGNOSTICS_TOPIC: Pace(1.0, longest_periods=2.0),
}
LOWEST_RATE = 0.98
"""Share of its rate that a topic must have; more than its rate is no fault."""
