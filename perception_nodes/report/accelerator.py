"""Counters of an accelerator over a run: for each frame, and in total."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.statistics import percentiles
from perception_nodes.report.timing import csv_text

ENGINE_FILE = "engine.csv"
RANKS = {"p50": 50.0, "p99": 99.0, "max": 100.0}


def engine_csv(calls: Mapping[int, EngineCounters]) -> str:
    """A table with a row for each frame.

    Args:
        calls: by the frame's index in its drive.
    """
    stalls = [cause for cause, _ in next(iter(calls.values())).stalls]
    counts = ["cycles", "latency_ms", "simulated", *(f"stalled_{cause}" for cause in stalls)]
    rows: list[list[object]] = [["frame", *counts, "bytes_read", "bytes_written"]]
    for index, call in sorted(calls.items()):
        waited = [cycles for _, cycles in call.stalls]
        figures = [call.cycles, f"{call.latency_ms:.4f}", int(call.simulated), *waited]
        rows.append([index, *figures, call.bytes_read, call.bytes_written])
    return csv_text(rows)


def engine_summary(calls: Mapping[int, EngineCounters]) -> dict[str, Any]:
    """Cycles, and their time at the engine's clock, over a run; for `summary.json`.

    Args:
        calls: by the frame's index in its drive; at least one.
    """
    found = list(calls.values())
    cycles = percentiles([call.cycles for call in found], RANKS)
    total = max(sum(call.cycles for call in found), 1)
    stalls: Counter[str] = Counter()
    for call in found:
        stalls.update(dict(call.stalls))
    return {
        "simulated": found[0].simulated,
        "frames": len(found),
        "clock_mhz": found[0].clock_mhz,
        "cycles": {rank: round(value) for rank, value in cycles.items()},
        "latency_ms": percentiles([call.latency_ms for call in found], RANKS),
        "stalled": {cause: round(waited / total, 4) for cause, waited in stalls.items()},
        "bytes_read": round(sum(call.bytes_read for call in found) / len(found)),
        "bytes_written": round(sum(call.bytes_written for call in found) / len(found)),
    }


def engine_sentence(engine: Mapping[str, Any]) -> str:
    """The engine's time in one sentence, which says whether it was simulated or measured."""
    how = "simulated: no hardware has run" if engine["simulated"] else "measured"
    latency, cycles = engine["latency_ms"], engine["cycles"]
    return (
        f"{cycles['p50']} cycles a frame (median), {latency['p50']:.2f} ms at "
        f"{engine['clock_mhz']:g} MHz, {latency['max']:.2f} at most ({how})"
    )
