"""The report of a run: one HTML page, for people."""

from typing import Any

from perception_nodes.core.budget import DEADLINE_MS, Budget
from perception_nodes.core.frame import CROWDED, PUBLISHED, FrameStatus
from perception_nodes.report import charts, page
from perception_nodes.report.accelerator import engine_sentence
from perception_nodes.report.annotate import STATUS_COLOURS
from perception_nodes.report.chosen_frames import ChosenFrames
from perception_nodes.report.page import NO_RESULT, NO_VALUE, counted, shown
from perception_nodes.report.recording import Recording

_STATUS_WORDS = {
    FrameStatus.LATE: "late",
    FrameStatus.SKIPPED_LATE: "skipped as already late",
    FrameStatus.SUPERSEDED: "superseded by a newer one",
    FrameStatus.FAILED: "failed",
}
_IN_TILES = ("frames_in", "detections", "miss_rate", "over_deadline")


def render(summary: dict[str, Any], recording: Recording, chosen: ChosenFrames) -> str:
    """The report as HTML text.

    Args:
        summary: as in `summary.json`.
        recording: what the run published.
        chosen: annotated frames.
    """
    deadline_ms = float(summary.get("deadline_ms", DEADLINE_MS))
    tone, sentence = verdict(summary)
    engine = summary.get("engine")
    problems = [f"{count} failed: {reason}" for reason, count in summary["failures"].items()]
    if crowded := summary.get("crowded"):
        problems.append(f"{page.counted(crowded, 'frame')} had {CROWDED.decode()}")
    return page.render(
        "drive.html.j2",
        heading=str(summary.get("bag", "drive")),
        tone=tone,
        verdict=sentence,
        tiles=_tiles(summary, deadline_ms),
        statuses=_statuses(summary),
        warnings=problems + summary.get("warnings", []),
        golden=summary.get("golden"),
        changed_frames=chosen.changed(),
        measured="Work of a frame, as measured here" if is_simulated(summary) else "Latency",
        timeline=charts.timeline(recording.reports, deadline_ms),
        histogram=charts.histogram(recording.reports, deadline_ms),
        classes=charts.classes(recording),
        engine=engine,
        engine_sentence=engine_sentence(engine) if engine else "",
        accuracy=summary.get("accuracy"),
        frames=chosen.shown(),
        film=chosen.film.frames(),
        film_taken=chosen.film.taken,
        health=charts.health(recording) if recording.health else "",
        facts=_facts(summary),
        stages=_stages(summary, deadline_ms),
    )


def nothing_found(summary: dict[str, Any]) -> str:
    """A sentence for a run without a single object; empty if there are objects.

    It is empty, too, if the golden file has no objects either.
    """
    frames = sum(summary["status"].get(status.name, 0) for status in PUBLISHED)
    golden = summary.get("golden")
    if summary["detections"] or (golden and not golden["expected_objects"]):
        return ""
    if not frames:
        return "no object was found: no frame left as detections"
    text = f"no object was found in any of {counted(frames, 'frame')}"
    if summary.get("backend") == "null":
        return f"{text}: the null backend detects nothing"
    return (
        f"{text}, which is suspicious unless the road was empty: look at the pictures, and try "
        "another model or a lower --score-threshold"
    )


def verdict(summary: dict[str, Any]) -> tuple[str, str]:
    """How the run went: `good`, `fair` or `bad`, and a sentence in plain words."""
    frames_in, status = summary["frames_in"], summary["status"]
    deadline = f"{float(summary.get('deadline_ms', DEADLINE_MS)):g} ms"
    if not frames_in:
        return "bad", "No frame arrived, so nothing can be said of this run."
    if is_simulated(summary):
        return _verdict_of_lockstep(summary, deadline)
    in_time = status["OK"] + status["DEGRADED"]
    if in_time == frames_in:
        sentence = f"All {frames_in} frames left as detections within {deadline} of their capture"
    else:
        missed = [
            f"{status[kind.name]} {words}"
            for kind, words in _STATUS_WORDS.items()
            if status[kind.name]
        ]
        sentence = (
            f"{in_time} of {frames_in} frames ({in_time / frames_in:.1%}) left as detections "
            f"within {deadline} of their capture; {', '.join(missed)}"
        )
    lost, in_bag = summary.get("lost_before_ingest", 0), summary["lost_in_bag"]
    if lost > 0:
        sentence += f". {lost} more {'was' if lost == 1 else 'were'} sent and never arrived"
    if in_bag:
        sentence += f". {_lost_in_bag(in_bag)}"
    nothing = nothing_found(summary)
    sentence += f". But {nothing}." if nothing else f". Found: {_objects(summary)}."
    bad = summary["miss_rate"] > 0.01 or lost > 0 or in_bag or nothing
    return ("bad" if bad else "fair" if in_time < frames_in else "good"), sentence


def _verdict_of_lockstep(summary: dict[str, Any], deadline: str) -> tuple[str, str]:
    frames_in, failed = summary["frames_in"], summary["status"]["FAILED"]
    nothing = nothing_found(summary)
    sentence = f"{_objects(summary)} in {frames_in - failed} of {counted(frames_in, 'frame')}"
    if nothing:
        sentence = nothing[0].upper() + nothing[1:]
    if failed:
        sentence += f"; {failed} failed"
    if lost := summary["lost_in_bag"]:
        sentence += f"; {_lost_in_bag(lost)}"
    golden = summary.get("golden")
    changes = sum(golden["kinds"].values()) if golden else 0
    if golden:
        frames = golden["frames_changed"]
        what = counted(changes, "thing") if changes else "nothing"
        sentence += f". Against the golden {what} changed"
        sentence += f", in {counted(frames, 'frame')}" if changes else ""
    if over := summary["over_deadline"]:
        sentence += f". {counted(over, 'frame')} took more than {deadline} of work here"
    tone = "bad" if failed or lost or changes or nothing else "fair" if over else "good"
    return tone, sentence + "."


def _lost_in_bag(lost: int) -> str:
    return f"{lost} recorded {'one is' if lost == 1 else 'ones are'} lost"


def _objects(summary: dict[str, Any]) -> str:
    return counted(summary["detections"], "object")


def is_simulated(summary: dict[str, Any]) -> bool:
    """Whether the run was in simulated time, in which no deadline is missed."""
    return "over_deadline" in summary


def _tiles(summary: dict[str, Any], deadline_ms: float) -> list[dict[str, Any]]:
    """The figures that matter most: name, value, unit, and whether it is over the deadline."""
    kind = "work" if is_simulated(summary) else "latency"
    tiles = []
    for rank, value in summary["latency_ms"].items():
        over = value is None or value > deadline_ms
        unit = "" if value is None else "ms"
        text = shown(value, "{:.1f}", NO_RESULT if summary["frames_in"] else NO_VALUE)
        name = f"{kind} {rank.replace('_', '.')}"
        tiles.append({"name": name, "value": text, "unit": unit, "over": over})

    def add(name: str, value: str, over: bool = False) -> None:
        tiles.append({"name": name, "value": value, "unit": "", "over": over})

    if is_simulated(summary):
        over_deadline = summary["over_deadline"]
        add("work over deadline", str(over_deadline), over_deadline > 0)
    else:
        add("missed", shown(summary["miss_rate"], "{:.1%}"))
    if "accuracy" in summary:
        add("mAP50-95", f"{summary['accuracy']['map50_95']:.3f}")
    add("frames", str(summary["frames_in"]))
    add("objects", str(summary["detections"]))
    return tiles


def _statuses(summary: dict[str, Any]) -> list[dict[str, Any]]:
    total = max(summary["frames_in"], 1)
    return [
        {
            "name": status.name,
            "count": summary["status"][status.name],
            "percent": round(100 * summary["status"][status.name] / total, 3),
            "colour": STATUS_COLOURS[status],
        }
        for status in FrameStatus
    ]


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value))
        for name, value in summary.items()
        if isinstance(value, str | int | float) and name not in _IN_TILES
    ]


def _stages(summary: dict[str, Any], deadline_ms: float) -> list[list[str]]:
    """Each stage with its budget, p50 and p99."""
    budget = Budget.for_deadline(deadline_ms)
    return [
        [
            stage,
            *(
                shown(value, "{:.2f} ms")
                for value in (getattr(budget, stage), values["p50"], values["p99"])
            ),
        ]
        for stage, values in summary["stages_ms"].items()
    ]
