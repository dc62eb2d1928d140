"""A run on one picture, for people who look at it in a merge request."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.budget import DEADLINE_MS, STAGES
from perception_nodes.core.frame import stage_durations_ms
from perception_nodes.report.annotate import bgr, decoded
from perception_nodes.report.charts import DEADLINE_COLOUR, STAGE_COLOURS, worst_of_groups
from perception_nodes.report.chosen_frames import Shots
from perception_nodes.report.drive_report import verdict
from perception_nodes.report.recording import Recording

WIDTH, MAX_HEIGHT = 1200, 1000
MARGIN = 28
CHART_HEIGHT = 230
PICTURE_HEIGHT = 240
PICTURES = 3
CAPTION_LINES = 3
INK, SOFT, LINE = (51, 36, 29), (133, 112, 102), (238, 231, 228)
TONES = {"good": "#1f9d55", "fair": "#e8a200", "bad": "#d6336c"}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_Canvas = NDArray[np.uint8]


def overview(summary: dict[str, Any], recording: Recording, shots: Shots) -> bytes:
    """Verdict, figures, timeline and three frames, as a PNG.

    Args:
        summary: as in `summary.json`.
        recording: what the run put out.
        shots: annotated frames; changed ones come first.
    """
    canvas = np.full((MAX_HEIGHT, WIDTH, 3), 255, np.uint8)
    tone, sentence = verdict(summary)
    cv2.rectangle(canvas, (0, 0), (WIDTH, 8), bgr(TONES[tone]), cv2.FILLED)
    _text(canvas, str(summary.get("bag", "drive")), (MARGIN, 42), 0.5, SOFT)
    at = 74
    for line in _wrapped(sentence, WIDTH - 2 * MARGIN, 0.68)[:4]:
        _text(canvas, line, (MARGIN, at), 0.68, INK)
        at += 28
    _figures(canvas, at + 12, summary)
    at = _timeline(canvas, at + 40, recording, float(summary.get("deadline_ms", DEADLINE_MS)))
    at = _pictures(canvas, at + MARGIN, shots)
    return cv2.imencode(".png", canvas[: at + MARGIN])[1].tobytes()


def _figures(canvas: _Canvas, top: int, summary: dict[str, Any]) -> None:
    figures = {name: summary["latency_ms"][name] for name in ("p50", "p99", "p99_9", "max")}
    texts = [
        f"{name.replace('_', '.')} {value:.1f} ms"
        for name, value in figures.items()
        if value is not None
    ]
    texts += [f"{summary['frames_in']} frames", f"{summary['detections']} objects"]
    if "accuracy" in summary:
        texts.append(f"mAP50-95 {summary['accuracy']['map50_95']:.3f}")
    _text(canvas, "     ".join(texts), (MARGIN, top), 0.55, INK)


def _timeline(canvas: _Canvas, top: int, recording: Recording, deadline_ms: float) -> int:
    """Stages of the frames, stacked; the worst of each group where they are more than pixels."""
    left, right, bottom = MARGIN, WIDTH - MARGIN, top + CHART_HEIGHT
    shown = [stage_durations_ms(r) for r in worst_of_groups(recording.reports, right - left)]
    top_ms = max(1.25 * deadline_ms, min(max((sum(s.values()) for s in shown), default=0), 40.0))
    per_ms = CHART_HEIGHT / top_ms
    for index, stages in enumerate(shown):
        begin = left + (right - left) * index // len(shown)
        end = max(left + (right - left) * (index + 1) // len(shown) - 1, begin)
        level = 0.0
        for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True):
            upper = level + stages.get(stage, 0.0)
            rows = (bottom - round(min(upper, top_ms) * per_ms), bottom - round(level * per_ms))
            if rows[0] < rows[1]:
                canvas[rows[0] : rows[1], begin : end + 1] = bgr(colour)
            level = min(upper, top_ms)
    cv2.line(canvas, (left, bottom), (right, bottom), LINE, 1)
    height = bottom - round(deadline_ms * per_ms)
    cv2.line(canvas, (left, height), (right, height), bgr(DEADLINE_COLOUR), 1, cv2.LINE_AA)
    label = f"{deadline_ms:g} ms"
    width, tall = cv2.getTextSize(label, _FONT, 0.42, 1)[0]
    # On the bars themselves it could not be read.
    canvas[height - tall - 12 : height - 1, left : left + width + 8] = 255
    _text(canvas, label, (left + 4, height - 6), 0.42, bgr(DEADLINE_COLOUR))
    at = left
    for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True):
        cv2.rectangle(canvas, (at, bottom + 14), (at + 10, bottom + 24), bgr(colour), cv2.FILLED)
        _text(canvas, stage, (at + 16, bottom + 24), 0.42, SOFT)
        at += 40 + cv2.getTextSize(stage, _FONT, 0.42, 1)[0][0]
    return bottom + 24


def _pictures(canvas: _Canvas, top: int, shots: Shots) -> int:
    """Changed frames first, then the others, with their captions."""
    width = (WIDTH - (PICTURES + 1) * MARGIN) // PICTURES
    bottom = top
    for place, shot in enumerate([*shots.changed(), *shots.shown()][:PICTURES]):
        found = decoded(shot.jpeg)
        scale = min(width / found.shape[1], PICTURE_HEIGHT / found.shape[0])
        size = (int(found.shape[1] * scale), int(found.shape[0] * scale))
        left, at = MARGIN + place * (width + MARGIN), top + size[1]
        small = cv2.resize(found, size, interpolation=cv2.INTER_AREA)
        canvas[top:at, left : left + size[0]] = small
        lines = _wrapped(shot.caption, width, 0.42)
        if len(lines) > CAPTION_LINES:
            lines = [*lines[: CAPTION_LINES - 1], f"{lines[CAPTION_LINES - 1]} ..."]
        for line in lines:
            at += 20
            _text(canvas, line, (left, at), 0.42, SOFT)
        bottom = max(bottom, at)
    return bottom


def _wrapped(text: str, width: int, size: float) -> list[str]:
    """A text in lines of at most so many pixels; a word that is longer has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and cv2.getTextSize(longer, _FONT, size, 1)[0][0] > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _text(
    canvas: _Canvas, text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]
) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, at, _FONT, size, colour, 1, cv2.LINE_AA)
