"""The report of a run: one HTML page, for people."""

from typing import Any

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.frame import CROWDED, PUBLISHED, FrameStatus, latency_ms
from perception_nodes.core.missed import Missed
from perception_nodes.report import charts, page
from perception_nodes.report.accelerator import engine_sentence
from perception_nodes.report.chosen_frames import ChosenFrames
from perception_nodes.report.page import UNTIMED, counted
from perception_nodes.report.recording import Recording
from perception_nodes.report.targets import targets

_STATUS_WORDS = {
    FrameStatus.LATE: "late",
    FrameStatus.SKIPPED_LATE: "skipped as already late",
    FrameStatus.SUPERSEDED: "superseded by a newer one",
    FrameStatus.FAILED: "failed",
}


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
        problems.append(f"{counted(crowded, 'frame')} had {CROWDED.decode()}")
    return page.render(
        "drive.html.j2",
        heading=str(summary.get("bag", "drive")),
        tone=tone,
        verdict=sentence,
        summary=summary,
        targets=targets(summary, deadline_ms),
        missed=Missed.of([] if is_simulated(summary) else recording.reports, deadline_ms),
        is_simulated=is_simulated(summary),
        untimed=UNTIMED,
        deadline_ms=deadline_ms,
        warnings=problems + summary.get("warnings", []),
        golden=summary.get("golden"),
        changed_frames=chosen.changed(),
        timeline=charts.timeline(recording.reports, deadline_ms),
        histogram=charts.histogram([*map(latency_ms, recording.reports)], deadline_ms),
        classes=charts.classes(recording),
        engine=engine,
        engine_sentence=engine_sentence(engine) if engine else "",
        accuracy=summary.get("accuracy"),
        frames=chosen.shown(),
        film=film_of(recording, chosen),
        film_taken=chosen.film.taken,
        health=charts.health(recording) if recording.health else "",
    )


def film_of(recording: Recording, chosen: ChosenFrames) -> list[dict[str, Any]]:
    """The frames that the page plays, with their seconds since the first frame."""
    start_ns = recording.reports[0].log_time_ns if recording.reports else 0
    return [
        {**frame, "at_s": None if at_ns is None else round((at_ns - start_ns) / 1e9, 4)}
        for frame in chosen.film.frames()
        for at_ns in (frame["log_time_ns"],)
    ]


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
        counts = ((status[kind.name], words) for kind, words in _STATUS_WORDS.items())
        missed = [f"{count} {words}" for count, words in counts if count]
        sentence = (
            f"{in_time} of {frames_in} frames ({in_time / frames_in:.1%}) left as detections "
            f"within {deadline} of their capture; {', '.join(missed)}"
        )
    lost, in_bag = unaccounted(summary), summary["lost_in_bag"]
    if lost:
        sentence += f". {lost}"
    if in_bag:
        sentence += f". {_lost_in_bag(in_bag)}"
    nothing = nothing_found(summary)
    sentence += f". But {nothing}." if nothing else f". Found: {_objects(summary)}."
    bad = summary["miss_rate"] > 0.01 or lost or in_bag or nothing
    return ("bad" if bad else "fair" if in_time < frames_in else "good"), sentence


def unaccounted(summary: dict[str, Any]) -> str:
    """What was not accounted for; empty if every frame was."""
    found = ", ".join(f"{name}: {n}" for name, n in summary.get("unaccounted", {}).items())
    return f"Not all is accounted for ({found})" if found else ""


def _verdict_of_lockstep(summary: dict[str, Any], deadline: str) -> tuple[str, str]:
    frames_in, failed = summary["frames_in"], summary["status"]["FAILED"]
    nothing = nothing_found(summary)
    sentence = f"{_objects(summary)} in {frames_in - failed} of {counted(frames_in, 'frame')}"
    if nothing:
        sentence = nothing[0].upper() + nothing[1:]
    if unknown := unaccounted(summary):
        sentence += f". {unknown}"
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
    tone = "bad" if unknown or failed or lost or changes or nothing else "fair" if over else "good"
    return tone, sentence + "."


def _lost_in_bag(lost: int) -> str:
    return f"{lost} recorded {'one is' if lost == 1 else 'ones are'} lost"


def _objects(summary: dict[str, Any]) -> str:
    return counted(summary["detections"], "object")


def is_simulated(summary: dict[str, Any]) -> bool:
    """Whether the run was in simulated time, in which no deadline is missed."""
    return "over_deadline" in summary
