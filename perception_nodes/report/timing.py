"""The durations of each frame of a run, as a table for spreadsheets and scripts."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import FrameStatus, latency_ms, stage_durations_ms
from perception_nodes.report.recording import RecordingError, ReportedFrame

TIMING_FILE = "timing.csv"
COLUMNS = ("frame", "log_time_ns", "status", *(f"{stage}_ms" for stage in STAGES), "total_ms")


def timing_csv(reports: Iterable[ReportedFrame]) -> str:
    """One row for each frame; a stage that it did not reach is empty."""
    rows: list[Sequence[object]] = [COLUMNS]
    for report in reports:
        stages = stage_durations_ms(report)
        durations = [*(stages.get(stage) for stage in STAGES), latency_ms(report)]
        shown = ("" if value is None else f"{value:.4f}" for value in durations)
        rows.append([report.sequence, report.log_time_ns, FrameStatus(report.status).name, *shown])
    return csv_text(rows)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_work_ms(folder: Path) -> list[float]:
    """The total in milliseconds of each published frame of a run.

    Raises:
        RecordingError: the file is missing or malformed.
    """
    file = folder / TIMING_FILE
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            return [float(row["total_ms"]) for row in csv.DictReader(stream) if row["total_ms"]]
    except (OSError, ValueError, KeyError) as error:
        raise RecordingError(f"{file} cannot be read: {error}") from error
