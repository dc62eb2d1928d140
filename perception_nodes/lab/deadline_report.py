"""The page of a deadline measurement."""

from typing import Any

import numpy as np

from perception_nodes.lab.deadline import REAL_TIME
from perception_nodes.report import page
from perception_nodes.report.chart import Axis, Chart

COLOURS = {
    "quiet": "#1f9d55",
    "one_core": "#4263eb",
    "all_cores": "#f2a900",
    "memory": "#e8590c",
    "disk": "#0c8599",
    "build": "#ae3ec9",
    "second_graph": "#c92a2a",
    "soak": "#868e96",
}
"""By condition; dashed without real-time priority where both were measured."""
MAX_POINTS = 2000


def render(result: dict[str, Any]) -> str:
    """The page as HTML text.

    Args:
        result: of `DeadlineBench.run`.
    """
    tone, sentence = verdict(result)
    return page.render(
        "deadline.html.j2",
        heading=f"{result['machine']}; {result['model']} on {result['backend']}",
        tone=tone,
        verdict=sentence,
        tail=tail(result),
        conditions=result["conditions"],
        soak=result.get("soak"),
    )


def verdict(result: dict[str, Any]) -> tuple[str, str]:
    """How it went: `good`, `fair` or `bad`, and a sentence in plain words."""
    conditions = result["conditions"]
    frames = sum(found["frames"] for found in conditions.values())
    silent = sum(found["silent_misses"] for found in conditions.values())
    missed = any(found["miss_rate"] for found in conditions.values())
    late = sum(found["in_time_and_arrived_late"] for found in conditions.values())
    if not all(found["frames"] for found in conditions.values()):
        return "bad", "Nothing can be said: no frame was sent."
    if silent:
        return "bad", f"{silent} of {frames} frames missed the deadline and nobody was told."
    if not result.get("soak", {}).get("constant", True):
        soak = result["soak"]
        if soak["state"] == "growing":
            return "bad", f"The graph grew in {soak['minutes']:g} minutes: it has a leak."
        return "bad", f"Whether the graph grows in {soak['minutes']:g} minutes: {soak['state']}."
    if not missed and late:
        return "fair", (
            f"All {frames} frames were published within {result['deadline_ms']:g} ms, but {late} "
            "arrived after that."
        )
    if not missed:
        return "good", f"All {frames} frames met the deadline of {result['deadline_ms']:g} ms."
    shares = []
    for real_time, words in ((False, "without real-time priority"), (True, "with it")):
        chosen = [c for name, c in conditions.items() if name.endswith(REAL_TIME) == real_time]
        if chosen:
            counts = [c["frames"] for c in chosen]
            share = np.average([c["miss_rate"] for c in chosen], weights=counts)
            shares.append(f"{share:.2%} {words}")
    return "fair", (
        f"Of {frames} frames these missed the deadline of {result['deadline_ms']:g} ms: "
        f"{', '.join(shares)}. Each one is reported."
        + (f" {late} more were published in time, but arrived after it." if late else "")
    )


def tail(result: dict[str, Any]) -> Chart:
    """The complementary distribution of the latency: the share of frames that take longer.

    Frames without detections count as slower than all others: a condition's curve ends at their
    share.
    """
    conditions, deadline_ms = result["conditions"], result["deadline_ms"]
    every = [deadline_ms, *(ms for found in conditions.values() for ms in found["latencies_ms"])]
    chart = Chart(
        Axis("capture to detections, ms", (0.9 * min(every), 1.1 * max(every)), log=True),
        Axis("share of frames that take longer", log=True, percent=True),
        420,
    )
    for name, found in conditions.items():
        values = np.array(found["latencies_ms"])
        if not len(values):
            continue
        slower = (found["frames"] - 1 - np.arange(len(values))) / found["frames"]
        # A long run is thinned out towards the fast frames; every frame of the tail is drawn.
        ranks = len(values) - np.geomspace(1, len(values), min(MAX_POINTS, len(values)))
        shown = np.unique(ranks.astype(int))
        shown = shown[slower[shown] > 0]
        chart.add(
            values[shown].tolist(),
            slower[shown].tolist(),
            name.replace("_", " "),
            COLOURS[name.removesuffix(REAL_TIME)],
            "steps",
            dash=[3, 3] if name + REAL_TIME in conditions else [],
        )
    chart.deadline(deadline_ms, x=deadline_ms)
    return chart
