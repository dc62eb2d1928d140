"""What an accelerator counted in a run: by frame, and in sum."""

import csv
import io
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from perception_nodes.core.counters import EngineCounters

ENGINE_FILE = "engine.csv"
PERCENTILES = {"p50": 50, "p99": 99, "max": 100}


def engine_csv(calls: Mapping[int, EngineCounters]) -> str:
    """A line a frame.

    Args:
        calls: by the frame's index in its drive.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    stalls = [cause for cause, _ in next(iter(calls.values())).stalls]
    counts = ["cycles", "latency_ms", "simulated", *(f"stalled_{cause}" for cause in stalls)]
    writer.writerow(["frame", *counts, "bytes_read", "bytes_written"])
    for index, call in sorted(calls.items()):
        waited = [cycles for _, cycles in call.stalls]
        figures = [call.cycles, f"{call.latency_ms:.4f}", int(call.simulated), *waited]
        writer.writerow([index, *figures, call.bytes_read, call.bytes_written])
    return text.getvalue()


def engine_summary(calls: Mapping[int, EngineCounters]) -> dict[str, Any]:
    """Cycles and what they take at the engine's clock, over a run, for `summary.json`.

    Args:
        calls: by the frame's index in its drive; at least one.
    """
    found = list(calls.values())
    cycles = np.percentile([call.cycles for call in found], list(PERCENTILES.values()))
    clock_mhz = found[0].clock_mhz
    total = max(sum(call.cycles for call in found), 1)
    stalls = {cause: 0 for cause, _ in found[0].stalls}
    for call in found:
        for cause, waited in call.stalls:
            stalls[cause] += waited
    return {
        "simulated": found[0].simulated,
        "frames": len(found),
        "clock_mhz": clock_mhz,
        "cycles": dict(zip(PERCENTILES, cycles.round().astype(int).tolist(), strict=True)),
        "latency_ms": dict(
            zip(PERCENTILES, (cycles / clock_mhz / 1e3).round(4).tolist(), strict=True)
        ),
        "stalled": {cause: round(waited / total, 4) for cause, waited in stalls.items()},
        "bytes_read": round(sum(call.bytes_read for call in found) / len(found)),
        "bytes_written": round(sum(call.bytes_written for call in found) / len(found)),
    }


def engine_sentence(engine: Mapping[str, Any]) -> str:
    """The engine's time in one sentence, which says where it is a simulation's."""
    how = "simulated: no hardware has run" if engine["simulated"] else "measured"
    latency, cycles = engine["latency_ms"], engine["cycles"]
    return (
        f"engine: {cycles['p50']} cycles a frame (median), {latency['p50']:.2f} ms at "
        f"{engine['clock_mhz']:g} MHz, {latency['max']:.2f} at most ({how})"
    )


def engine_section(engine: Mapping[str, Any] | None) -> str:
    """The engine's part of the report as HTML; empty where there was none."""
    if engine is None:
        return ""
    stalls = "".join(
        f"<tr><th>waited for {escape(cause)}</th><td>{share:.1%} of cycles</td></tr>"
        for cause, share in engine["stalled"].items()
    )
    megabytes = {name: engine[f"bytes_{name}"] / 1e6 for name in ("read", "written")}
    traffic = "".join(
        f"<tr><th>memory {name}</th><td>{value:.2f} MB a frame</td></tr>"
        for name, value in megabytes.items()
    )
    title = "Engine, simulated" if engine["simulated"] else "Engine"
    text = escape(engine_sentence(engine)[len("engine: ") :])
    return (
        f'<section><h2>{title}</h2><p class="soft">{text}</p>'
        f"<table>{stalls}{traffic}</table></section>"
    )
