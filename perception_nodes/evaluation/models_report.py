"""The page of a comparison of models."""

from typing import Any

from markupsafe import Markup

from perception_nodes.evaluation.models import is_busy
from perception_nodes.evaluation.pareto import common_set, front_of, places_of
from perception_nodes.report import page


def render(result: dict[str, Any]) -> str:
    """The page as HTML text.

    Args:
        result: of `ModelsBench.run`.
    """
    models, machine = result["models"], result["machine"]
    data = common_set(models)
    return page.render(
        "models.html.j2",
        heading=f"{machine['cpu']}, {machine['cores']} cores, {_setting(result)}",
        tone="good",
        verdict=verdict(result),
        remarks=_remarks(result),
        picture=Markup(pareto_picture(result)),
        best=front_of(places_of(models, data)),
        datasets=list(dict.fromkeys(name for model in models for name in model["map50_95"])),
        in_time=f"within {result['inference_budget_ms']:g} ms",
        **result,
    )


def pareto_picture(result: dict[str, Any]) -> str:
    """Latency against accuracy as SVG, empty where no accuracy is known."""
    if (data := common_set(result["models"])) is None:
        return ""
    from perception_nodes.evaluation.pareto_chart import pareto_svg

    subtitle = f"{result['machine']['cpu']}, {_setting(result)}"
    return pareto_svg(result["models"], data, subtitle)


def verdict(result: dict[str, Any]) -> str:
    """The result of the comparison, in a sentence."""
    faster = [model for model in result["models"] if model["speedup_vs_parent"]]
    if not faster:
        fastest = min(result["models"], key=lambda model: model["latency_ms"]["p50"])
        return (
            f"{fastest['name']} is the fastest, with {fastest['latency_ms']['p50']:.1f} ms; no "
            "model was measured beside its parent."
        )
    best = max(faster, key=lambda model: model["speedup_vs_parent"])
    parent = next(model for model in result["models"] if model["name"] == best["parent"])
    shared = [name for name in best["map50_95"] if name in parent["map50_95"]]
    cost = ""
    if shared:
        change = best["map50_95"][shared[0]] - parent["map50_95"][shared[0]]
        cost = f", at {change:+.3f} mAP50-95 on {shared[0]}"
    return (
        f"{best['name']} takes {best['latency_ms']['p50']:.1f} ms, "
        f"{best['speedup_vs_parent']:.1f} times as fast as its parent {best['parent']}{cost}."
    )


def _setting(result: dict[str, Any]) -> str:
    threads = result["headline"]["threads"]
    return f"{threads} thread{'s' if threads > 1 else ''}, {result['headline']['pace']} loop"


def _remarks(result: dict[str, Any]) -> list[str]:
    remarks = [f"{model['name']}: {note}" for model in result["models"] for note in model["notes"]]
    load, cores = result["machine"]["load_before"], result["machine"]["cores"]
    if is_busy(result["machine"]):
        remarks.append(
            f"The machine was busy (load {load:g} on {cores} cores before the start): trust ratios "
            "more than milliseconds, and medians more than tails."
        )
    data = common_set(result["models"])
    left_out = [m["name"] for m in result["models"] if data and data not in m["map50_95"]]
    if left_out:
        remarks.append(f"Not in the picture, not measured on {data}: {', '.join(left_out)}.")
    return remarks
