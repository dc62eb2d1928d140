"""What the page shows of a running graph: figures, causes of misses, health, faults, frames.

The node fills a feed, and the server takes from it what a browser has not got yet. Everything in
it is bounded and shared by all browsers. Each browser has a cursor: the serial number of the last
entry that it got.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from perception_nodes.core.budget import STAGES, Budget
from perception_nodes.core.frame import IN_TIME, STAMPS, stage_durations_ms
from perception_nodes.core.health import HealthMode
from perception_nodes.core.missed import NUMBER, reason_of
from perception_nodes.core.statistics import summarize
from perception_nodes.report import palette
from perception_nodes.report.chart import LatencyAxis
from perception_nodes.view.history import HOUR_INTERVALS, INTERVAL_S, Causes, Interval

WINDOW_NS = 60_000_000_000
MAX_FRAMES = 8000
"""A minute at 133 frames a second; a faster camera has a shorter window."""
MAX_MISSES = 60
RAILS_APART = 0.14
"""Distance of the rails of the chart, which is low, as a share of its highest latency."""
MAX_LOG = 200
SUMMARY_PERIOD_NS = 500_000_000
MISS_PERIOD_NS = 250_000_000
"""In an overload nearly every frame is missed: then only some of them are kept with a picture."""
Entries: TypeAlias = deque[tuple[int, Any]]
"""Entries behind their serial numbers; reports behind the times at which they came."""


class ShownPicture(NamedTuple):
    """A frame as the page shows it.

    Attributes:
        jpeg: the file.
        objects: its detections, each `[x1, y1, x2, y2, class, score, colour, id]`. The box is in
            shares of the picture's width and height, and the id is that of the track or None. None
            if nothing was published, or the detections are not known.
        looks: regions of second looks, each `[x1, y1, x2, y2]` in the same shares.
    """

    jpeg: bytes
    objects: list[list[Any]] | None
    looks: list[list[float]]


@dataclass
class _Camera:
    missed: Causes
    reports: Entries = field(default_factory=lambda: deque(maxlen=MAX_FRAMES))
    frames: Entries = field(default_factory=lambda: deque(maxlen=MAX_FRAMES))
    misses: Entries = field(default_factory=lambda: deque(maxlen=MAX_MISSES))
    kept: dict[int, bytes] = field(default_factory=dict)
    intervals: Entries = field(default_factory=lambda: deque(maxlen=HOUR_INTERVALS))
    interval: Interval = field(default_factory=lambda: Interval(0))
    told: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=MAX_LOG))
    picture: tuple[int, dict[str, Any], ShownPicture] | None = None
    pictured_ns: int = 0
    miss_pictured_ns: int = 0
    health: dict[str, Any] | None = None
    health_ns: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    model: str = ""
    runs: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    causes: list[list[Any]] = field(default_factory=list)
    summary_ns: int = 0
    seen: int = 0
    lag_ns: int = 0

    def forget(self, before_ns: int) -> None:
        """Drop reports that came earlier."""
        while self.reports and self.reports[0][0] < before_ns:
            self.reports.popleft()
        while len(self.told) > 1 and self.told[1][0] < before_ns:
            self.told.popleft()

    @property
    def unseen(self) -> int:
        """Frames of the last minute that the watchdog counted, and whose reports are not here."""
        if len(self.told) < 2:
            return 0
        (_, counted_before, seen_before), (_, counted, seen) = self.told[0], self.told[-1]
        return max(0, counted - counted_before - (seen - seen_before))


class Feed:
    """Collects what is known of a graph; threads may share it."""

    def __init__(
        self,
        cameras: Sequence[str],
        deadline_ms: float,
        rate_hz: float,
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is known yet.

        Args:
            cameras: their names.
            deadline_ms: the graph's.
            rate_hz: pictures of a camera a second at most.
            about: facts for the head of the page, such as the host, by their names.
        """
        self._about = dict(about or {})
        self._lock = threading.Lock()
        self._period_ns = round(1e9 / rate_hz)
        self._budget = Budget.for_deadline(deadline_ms)
        self._cameras = {name: _Camera(Causes(self._budget)) for name in cameras}
        self._log: Entries = deque(maxlen=MAX_LOG)
        self._stops: Entries = deque(maxlen=MAX_LOG)
        self._stop_requested: bool | None = None
        self._serial = 0
        self._turned_ns = time.monotonic_ns()
        self._least_lag_ns: int | None = None
        self._began = _now()

    @property
    def setup(self) -> dict[str, Any]:
        """What a page needs at its start."""
        return {
            "cameras": list(self._cameras),
            "deadline_ms": self._budget.deadline_ms,
            "stages": {stage: getattr(self._budget, stage) for stage in STAGES},
            "statuses": [
                [s.name, colour, s in IN_TIME, palette.STATUS_SHAPES[s]]
                for s, colour in palette.STATUS_COLOURS.items()
            ],
            "stage_colours": palette.STAGE_COLOURS,
            "look_colour": palette.LOOK_COLOUR,
            "places": vars(LatencyAxis(1.0, RAILS_APART)),
            "interval_s": INTERVAL_S,
            "about": self._about,
            "began": self._began,
        }

    def turned(self) -> None:
        """Note that all messages up to now were taken; if that is long ago, the page is behind."""
        self._turned_ns = time.monotonic_ns()

    def runs(self, camera: str, method: str) -> None:
        """Set what a camera's detector runs: model and backend in words."""
        with self._lock:
            self._cameras[camera].runs = method

    def wants_picture(self, camera: str, status: int) -> bool:
        """Whether a picture is due, or this frame missed its deadline and would be kept."""
        found, now_ns = self._cameras[camera], time.monotonic_ns()
        if status not in IN_TIME and now_ns - found.miss_pictured_ns > MISS_PERIOD_NS:
            return True
        return now_ns - found.pictured_ns > self._period_ns

    def frame(self, camera: str, report: Any, picture: ShownPicture | None = None) -> None:
        """Add a frame.

        Args:
            camera: whose.
            report: an object with the attributes of `perception_interfaces/FrameReport`.
            picture: the frame itself, if there is one.
        """
        now_ns = time.monotonic_ns()
        facts = facts_of(report, now_ns)
        with self._lock:
            found = self._cameras[camera]
            found.model, found.seen = report.model, found.seen + 1
            found.forget(now_ns - WINDOW_NS)
            found.reports.append((now_ns, report))
            latency = facts["ms"] if report.published_ns else None
            begun_ns, ended_ns = _span_ns(report, now_ns)
            self._add(
                found.frames,
                [round(begun_ns / 1e9, 4), latency, facts["status"], facts["sequence"]],
            )
            self._count(found, report, now_ns, now_ns - ended_ns)
            if picture is not None:
                self._serial += 1
                found.picture, found.pictured_ns = (self._serial, facts, picture), now_ns
            if report.status not in IN_TIME:
                miss = facts | {
                    "cause": found.missed.add(report, now_ns // 10**9),
                    "pictured": picture is not None,
                    "objects": picture.objects if picture else None,
                    "looks": picture.looks if picture else [],
                }
                miss["n"] = self._add(found.misses, miss)
                if picture is not None:
                    found.miss_pictured_ns, found.kept[miss["n"]] = now_ns, picture.jpeg
                for number in [n for n in found.kept if n < found.misses[0][0]]:
                    del found.kept[number]

    def health(
        self, camera: str, mode: int, cause: str, faults: Iterable[str], counts: dict[str, int]
    ) -> None:
        """Set a camera's health, and log what has changed.

        Args:
            camera: whose.
            mode: a `HealthMode`.
            cause: why it is that.
            faults: texts; those that differ only in their numbers are the same fault.
            counts: frames since the start, by status.
        """
        name = HealthMode(mode).name
        now = {NUMBER.sub("#", text): text for text in faults}
        with self._lock:
            found = self._cameras[camera]
            before = found.health["mode"] if found.health else ""
            if name != before:
                self._write(camera, name, f"{before or 'start'} → {name}: {cause}")
            for key in now.keys() - found.faults.keys():
                self._write(camera, "fault", now[key])
            for key in found.faults.keys() - now.keys():
                self._write(camera, "over", f"over: {found.faults[key]}")
            found.faults = now
            texts = [*now.values()]
            found.health = {"mode": name, "cause": cause, "faults": texts, "counts": counts}
            found.health_ns = time.monotonic_ns()
            counted = sum(counts.values())
            if found.told and counted < found.told[-1][1]:  # the graph has been started anew
                found.told.clear()
            found.told.append((found.health_ns, counted, found.seen))

    def safe_stop(self, requested: bool) -> None:
        """Set whether the vehicle is asked to stop."""
        with self._lock:
            if requested == self._stop_requested:
                return
            before, self._stop_requested = self._stop_requested, requested
            if requested or before:
                unsafe = [
                    f"{name}: {one.health['cause']}"
                    for name, one in self._cameras.items()
                    if one.health and one.health["mode"] == HealthMode.UNSAFE.name
                ]
                self._add(self._stops, {"at": _now(), "on": requested, "text": "; ".join(unsafe)})

    def update(self, cursor: int) -> tuple[dict[str, Any], list[bytes], int]:
        """The news since a cursor, 0 for the beginning.

        Returns:
            Facts for JSON, the pictures that they refer to, and the next cursor.
        """
        now_ns = time.monotonic_ns()
        with self._lock:
            cameras, pictures = {}, []
            for name, one in self._cameras.items():
                facts = self._facts(one, cursor, now_ns)
                if one.picture is not None and one.picture[0] > cursor:
                    _, of_frame, picture = one.picture
                    facts["picture"] = of_frame | {
                        "objects": picture.objects,
                        "looks": picture.looks,
                        "bytes": len(picture.jpeg),
                        # In seconds: a browser that has just come may get an old picture.
                        "age": round((now_ns - one.pictured_ns) / 1e9, 2),
                    }
                    pictures.append(picture.jpeg)
                cameras[name] = facts
            facts = {
                "now": round(now_ns / 1e9, 4),
                "turned": round((now_ns - self._turned_ns) / 1e9, 2),
                "cameras": cameras,
                "safe_stop": self._stop_requested,
                "stops": _since(self._stops, cursor),
                "log": _since(self._log, cursor),
            }
            return facts, pictures, self._serial

    def missed_picture(self, serial: int) -> bytes | None:
        """JPEG of a missed frame, None if none is kept."""
        with self._lock:
            kept = (one.kept.get(serial) for one in self._cameras.values())
            return next(filter(None, kept), None)

    def frame_facts(self, camera: str, sequence: int) -> dict[str, Any] | None:
        """The facts of the newest frame of that number, None if it is not known any more.

        Known are all frames of the last minute, and the worst of each interval of the last hour.
        """
        now_ns = time.monotonic_ns()
        with self._lock:
            if (one := self._cameras.get(camera)) is None:
                return None
            for miss in (entry for _, entry in reversed(one.misses)):
                if miss["sequence"] == sequence:
                    return dict(miss)
            known = [report for _, report in one.reports]
            known += [one.interval.worst, *(interval.worst for _, interval in one.intervals)]
            for report in reversed(known):
                if report is not None and report.sequence == sequence:
                    return facts_of(report, now_ns)
            return None

    def _count(self, one: _Camera, report: Any, now_ns: int, lag_ns: int) -> None:
        """Add a frame to its interval, and judge how late its report came to us."""
        number = now_ns // (INTERVAL_S * 10**9)
        if number != one.interval.number:
            if one.interval.frames:
                self._add(one.intervals, one.interval)
            one.interval = Interval(number)
        one.interval.add(report)
        if report.published_ns:  # the watchdog waits before it gives others up
            # Clocks of other machines have another zero: the quickest report is the measure.
            least = lag_ns if self._least_lag_ns is None else min(lag_ns, self._least_lag_ns)
            self._least_lag_ns, one.lag_ns = least, lag_ns - least

    def _facts(self, one: _Camera, cursor: int, now_ns: int) -> dict[str, Any]:
        if now_ns - one.summary_ns > SUMMARY_PERIOD_NS:
            one.summary_ns = now_ns
            one.forget(now_ns - WINDOW_NS)
            one.summary = summarize(report for _, report in one.reports)
            missed = [report for _, report in one.reports if report.status not in IN_TIME]
            one.summary["stages_of_missed_ms"] = summarize(missed)["stages_ms"]
            one.summary["unseen"] = one.unseen
            del one.summary["failures"]
            one.causes = one.missed.table(now_ns // 10**9)
        return {
            "frames": _since(one.frames, cursor),
            "intervals": [interval.shown() for interval in _since(one.intervals, cursor)],
            "causes": one.causes,
            "lag": round(one.lag_ns / 1e9, 2),
            "runs": one.runs,
            "summary": one.summary,
            "health": one.health,
            "health_age": round((now_ns - one.health_ns) / 1e9, 2),
            "misses": _since(one.misses, cursor),
            "model": one.model,
        }

    def _write(self, camera: str, kind: str, text: str) -> None:
        self._add(self._log, {"at": _now(), "camera": camera, "kind": kind, "text": text})

    def _add(self, entries: Entries, entry: Any) -> int:
        """Append an entry; returns its serial number."""
        self._serial += 1
        entries.append((self._serial, entry))
        return self._serial


def facts_of(report: Any, now_ns: int) -> dict[str, Any]:
    """What the page shows of one frame.

    Args:
        report: an object with the attributes of `perception_interfaces/FrameReport`.
        now_ns: CLOCK_MONOTONIC, nanoseconds.
    """
    begun_ns, ended_ns = _span_ns(report, now_ns)
    return {
        "sequence": int(report.sequence),
        "status": int(report.status),
        "ms": round((ended_ns - begun_ns) / 1e6, 3),
        "published": bool(report.published_ns),
        "frame_id": report.header.frame_id,
        "stamp": f"{report.header.stamp.sec}.{report.header.stamp.nanosec:09d}",
        "at": _now(now_ns - begun_ns),
        "model": report.model,
        "reason": report.reason if report.status in IN_TIME else reason_of(report),
        "stages": {stage: round(ms, 3) for stage, ms in stage_durations_ms(report).items()},
    }


def _span_ns(report: Any, now_ns: int) -> tuple[int, int]:
    """The first and the last stamp of a frame."""
    passed = [stamp for name in STAMPS if (stamp := getattr(report, name))]
    return (passed[0], passed[-1]) if passed else (now_ns, now_ns)


def _since(entries: Entries, cursor: int) -> list[Any]:
    """Entries behind a cursor, oldest first."""
    found = []
    for serial, entry in reversed(entries):
        if serial <= cursor:
            break
        found.append(entry)
    return found[::-1]


def _now(ago_ns: int = 0) -> int:
    """The wall clock in milliseconds since the Unix epoch, as browsers count."""
    return (time.time_ns() - ago_ns) // 1_000_000
