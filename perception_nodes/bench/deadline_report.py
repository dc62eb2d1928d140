"""The page of a deadline measurement: one HTML file that needs nothing else, for people."""

from html import escape
from string import Template
from typing import Any

import numpy as np
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from perception_nodes.report.charts import DEADLINE_COLOUR, styled
from perception_nodes.report.page import STYLE

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The tail of the latency</title>
<style>"""
    + STYLE
    + """</style>
<script>$plotly</script>
</head>
<body>
<main>
<section>
<h1>$machine</h1>
<p class="verdict $tone">$verdict</p>
</section>
<section><h2>Share of frames that take longer</h2>$tail</section>
<section><h2>By condition</h2>$conditions</section>
$soak
<footer>perception_nodes. From the shutter to the arrival of the detections in another process. A
missed frame is silent where no report says that it was missed.</footer>
</main>
</body>
</html>
"""
)
COLOURS = {"quiet": "#1f9d55", "one_core": "#4263eb", "both_cores": "#f2a900", "soak": "#868e96"}
MAX_POINTS = 2000


def render(result: dict[str, Any]) -> str:
    """The page as HTML text.

    Args:
        result: of `DeadlineBench.run`.
    """
    tone, sentence = verdict(result)
    figure = tail(result)
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return PAGE.substitute(
        machine=escape(f"{result['machine']}; {result['model']} on {result['backend']}"),
        tone=tone,
        verdict=escape(sentence),
        tail=figure.to_html(full_html=False, include_plotlyjs=False, config=config),
        conditions=_conditions(result),
        soak=_soak(result),
        plotly=get_plotlyjs(),
    )


def verdict(result: dict[str, Any]) -> tuple[str, str]:
    """How it went: `good`, `fair` or `bad`, and a sentence in plain words."""
    conditions = result["conditions"]
    frames = sum(found["frames"] for found in conditions.values())
    silent = sum(found["silent_misses"] for found in conditions.values())
    missed = {name: found["miss_rate"] for name, found in conditions.items() if found["miss_rate"]}
    if silent:
        return "bad", f"{silent} of {frames} frames missed the deadline and nobody was told."
    if not missed:
        return "good", f"All {frames} frames met the deadline of {result['deadline_ms']:g} ms."
    shares = ", ".join(f"{rate:.2%} ({name.replace('_', ' ')})" for name, rate in missed.items())
    return "fair", (
        f"Of {frames} frames these missed the deadline of {result['deadline_ms']:g} ms: {shares}. "
        "Each one is reported."
    )


def tail(result: dict[str, Any]) -> Figure:
    """The complementary distribution of the latency: how rare is what is slower than that?

    Frames without detections are slower than anything: the curve of a condition ends at their
    share.
    """
    figure = Figure()
    for name, found in result["conditions"].items():
        values = np.array(found["latencies_ms"])
        if not len(values):
            continue
        slower = (found["frames"] - 1 - np.arange(len(values))) / found["frames"]
        # Where a frame in so many is shown, it is those of the tail that are all there.
        ranks = len(values) - np.geomspace(1, len(values), min(MAX_POINTS, len(values)))
        shown = np.unique(ranks.astype(int))
        shown = shown[slower[shown] > 0]
        figure.add_scatter(
            x=values[shown],
            y=slower[shown],
            name=name.replace("_", " "),
            mode="lines",
            line={"color": COLOURS[name], "shape": "hv"},
            hovertemplate="%{x:.2f} ms: %{y:.3%} take longer",
        )
    figure.add_vline(
        result["deadline_ms"],
        line={"color": DEADLINE_COLOUR, "width": 2, "dash": "dash"},
        annotation={
            "text": f"deadline {result['deadline_ms']:g} ms",
            "font": {"color": DEADLINE_COLOUR},
        },
    )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", tickformat="~%")
    return styled(figure, "capture to detections, ms", "share of frames that take longer", 420)


def _conditions(result: dict[str, Any]) -> str:
    titles = ("", "frames", "p50", "p99", "p99.9", "max", "missed", "silently", "statuses")
    rows = ["<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"]
    for name, found in result["conditions"].items():
        latency = (found["latency_ms"][key] for key in ("p50", "p99", "p99_9", "max"))
        statuses = ", ".join(f"{key} {count}" for key, count in found["status"].items() if count)
        cells = [
            name.replace("_", " "),
            found["frames"],
            *("–" if value is None else f"{value:.2f} ms" for value in latency),
            "–" if found["miss_rate"] is None else f"{found['miss_rate']:.2%}",
            found["silent_misses"],
            statuses,
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _soak(result: dict[str, Any]) -> str:
    if "soak" not in result:
        return ""
    soak = result["soak"]
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{growth:+.1f} MB</td>"
        f"<td>{soak['descriptor_growth'][name]:+.0f} descriptors</td></tr>"
        for name, growth in soak["memory_growth_mb"].items()
    )
    shared = f"{soak['shared_memory_growth_mb']:+.1f} MB"
    rows += f"<tr><th>shared memory</th><td>{shared}</td><td></td></tr>"
    state = "constant" if soak["constant"] else "growing"
    return f"<section><h2>{soak['minutes']:g} minutes: {state}</h2><table>{rows}</table></section>"
