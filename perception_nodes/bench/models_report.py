"""The page of a comparison of models: one HTML file that needs nothing else, for people."""

from collections.abc import Iterable
from html import escape
from string import Template
from typing import Any

from perception_nodes.bench.pareto import common_set, front_of, pareto_svg, points_of
from perception_nodes.report.page import STYLE

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Models: latency against accuracy</title>
<style>"""
    + STYLE
    + """svg { width: 100%; height: auto; display: block; }
section { overflow-x: auto; }
td.number, th.number { text-align: right; white-space: nowrap; padding-right: 16px; }
td { overflow-wrap: normal; }</style>
</head>
<body>
<main>
<section>
<h1>$machine</h1>
<p class="verdict good">$verdict</p>
$notes
</section>
<section><h2>Latency against accuracy</h2>$plot</section>
<section><h2>Models</h2>$models</section>
<section><h2>Predicted and measured</h2>$predictions</section>
<section><h2>Every measurement</h2>$runs</section>
<section><h2>Accuracy, mAP50-95</h2>$accuracy</section>
<section><h2>Machine and roofline</h2><div class="facts">$facts</div></section>
<footer>perception_nodes. Medians of interleaved calls: a noisy moment meets every model. Tight: the
same network's call comes just before. Paced: at 30 Hz, after a sleep and the copy of a camera
frame.</footer>
</main>
</body>
</html>
"""
)
PREDICTION = (
    "Predicted is the speed-up if parent and child both ran at the roofline of their precision: "
    "fewer multiplications, and cheaper ones. What falls short of it went into what is no "
    "multiplication: moving tensors, activations, layers too small to fill the machine."
)


def render(result: dict[str, Any]) -> str:
    """The page as HTML text.

    Args:
        result: of `ModelsBench.run`.
    """
    models = result["models"]
    data = common_set(models)
    machine = result["machine"]
    return PAGE.substitute(
        machine=escape(f"{machine['cpu']}, {machine['cores']} cores, {_setting(result)}"),
        verdict=escape(verdict(result)),
        notes=_list(_notes(result)),
        plot=picture(result, follows_theme=False) if data else "<p>No accuracy is known.</p>",
        models=_models(models),
        predictions=_predictions(models),
        runs=_runs(models),
        accuracy=_accuracy(models),
        facts=_facts(result),
    )


def picture(result: dict[str, Any], follows_theme: bool) -> str:
    """The picture as SVG, empty where no accuracy is known."""
    data = common_set(result["models"])
    if data is None:
        return ""
    subtitle = f"{result['machine']['cpu']}, {_setting(result)}"
    return pareto_svg(points_of(result["models"], data), data, subtitle, follows_theme)


def verdict(result: dict[str, Any]) -> str:
    """What the comparison says, in a sentence."""
    faster = [model for model in result["models"] if model["speedup_vs_parent"]]
    if faster:
        best = max(faster, key=lambda model: model["speedup_vs_parent"])
        cost = ""
        parent = next(m for m in result["models"] if m["name"] == best["parent"])
        shared = [name for name in best["map50_95"] if name in parent["map50_95"]]
        if shared:
            name = shared[0]
            change = best["map50_95"][name] - parent["map50_95"][name]
            cost = f", at {change:+.3f} mAP50-95 on {name}"
        return (
            f"{best['name']} takes {best['latency_ms']['p50']:.1f} ms, "
            f"{best['speedup_vs_parent']:.1f} times as fast as its parent {best['parent']}{cost}."
        )
    fastest = min(result["models"], key=lambda model: model["latency_ms"]["p50"])
    return (
        f"{fastest['name']} is the fastest, with {fastest['latency_ms']['p50']:.1f} ms; no model "
        "was measured beside its parent."
    )


def _setting(result: dict[str, Any]) -> str:
    headline = result["headline"]
    threads = headline["threads"]
    return f"{threads} thread{'s' if threads > 1 else ''}, {headline['pace']} loop"


def _notes(result: dict[str, Any]) -> list[str]:
    notes = [f"{model['name']}: {note}" for model in result["models"] for note in model["notes"]]
    load, cores = result["machine"]["load_before"], result["machine"]["cores"]
    if load > 0.25 * cores:
        notes.append(
            f"The machine was busy (load {load:g} on {cores} cores before the start): trust ratios "
            "more than milliseconds, and medians more than tails."
        )
    data = common_set(result["models"])
    left_out = [m["name"] for m in result["models"] if data and data not in m["map50_95"]]
    if left_out:
        notes.append(f"Not in the picture, not measured on {data}: {', '.join(left_out)}.")
    return notes


def _models(models: list[dict[str, Any]]) -> str:
    data = common_set(models)
    best = {p.name for p in front_of(points_of(models, data))} if data else set()
    rows = (
        (
            model["name"] + (" ●" if model["name"] in best else ""),
            model["precision"],
            model["activation"] or "–",
            f"{model['input']['width']}×{model['input']['height']}",
            f"{model['gmac']:.3f}",
            f"{model['size_bytes'] / 1e6:.1f}",
            f"{model['latency_ms']['p50']:.2f}",
            f"{model['gmac_per_s']:.0f}",
            f"{model['roofline_share']:.0%}",
        )
        for model in models
    )
    head = (
        "model (● on the front)",
        "precision",
        "activation",
        "input",
        "GMAC",
        "MB",
        "p50 ms",
        "GMAC/s",
        "of the roofline",
    )
    return _table(head, rows, numbers_from=4)


def _predictions(models: list[dict[str, Any]]) -> str:
    rows = [
        (
            model["name"],
            model["parent"],
            f"{model['predicted_speedup']:.2f} ×",
            f"{model['speedup_vs_parent']:.2f} ×",
            "{:.2f} – {:.2f}".format(*model["speedup_interval"]),
        )
        for model in models
        if model["speedup_vs_parent"] is not None
    ]
    if not rows:
        return "<p>No model was measured beside its parent.</p>"
    head = ("model", "parent", "predicted speed-up", "measured", "95 % interval")
    return _table(head, rows, numbers_from=2) + _list([PREDICTION])


def _runs(models: list[dict[str, Any]]) -> str:
    rows = (
        (
            model["name"],
            run["pace"],
            str(run["threads"]),
            f"{run['p50']:.2f}",
            f"{run['p90']:.2f}",
            f"{run['p99']:.2f}",
            "–" if run["speedup_vs_parent"] is None else f"{run['speedup_vs_parent']:.2f} ×",
        )
        for model in models
        for run in model["runs"]
    )
    head = ("model", "pace", "threads", "p50 ms", "p90 ms", "p99 ms", "speed-up")
    return _table(head, rows, numbers_from=2)


def _accuracy(models: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for model in models for name in model["map50_95"]))
    rows = (
        (
            model["name"],
            model["accuracy_from"],
            *(_figure(model["map50_95"].get(name)) for name in names),
        )
        for model in models
    )
    return _table(("model", "from", *names), rows, numbers_from=2)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _facts(result: dict[str, Any]) -> str:
    machine = {**result["machine"], "frames": result["frames"]}
    machine["int8_instructions"] = ", ".join(machine["int8_instructions"]) or "none known"
    facts = ((name.replace("_", " "), str(value)) for name, value in machine.items())
    roofs = (
        (f"large {roof['precision']} convolution", str(roof["threads"]), f"{roof['value']:.0f}")
        for roof in result["roofline_gmac_per_s"]
    )
    return _table(("machine", ""), facts, numbers_from=2) + _table(
        ("roofline", "threads", "GMAC/s"), roofs, numbers_from=1
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers_from: int) -> str:
    def cells(tag: str, texts: Iterable[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if index >= numbers_from else ''}>{escape(text)}</{tag}>"
            for index, text in enumerate(texts)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def _list(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""
