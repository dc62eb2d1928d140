"""The results of drives as tables in Parquet, for DuckDB, pandas and the like."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import FrameStatus, latency_ms, stage_durations_ms
from perception_nodes.report.recording import Recording, ReportedFrame
from perception_nodes.system.files import write_whole

Summary = Mapping[str, Any]
ROWS = 20_000
"""So many rows are in memory at a time."""
PLACE = ("x_px", "y_px", "width_px", "height_px")
"""Left, top and size of an object, in pixels of the frame."""
_OF_A_FRAME = {"drive": "string", "frame": "int64", "stamp_ns": "int64", "log_time_ns": "int64"}
SCHEMAS: Mapping[str, Mapping[str, str]] = {
    "drives": {
        **dict.fromkeys(("drive", "bag", "topic", "model", "mode"), "string"),
        "deadline_ms": "float64",
        **dict.fromkeys(("frames_in", *(status.name for status in FrameStatus)), "int64"),
        **dict.fromkeys(("over_deadline", "lost_in_bag", "detections"), "int64"),
        **dict.fromkeys(("p50_ms", "p99_ms", "grey_level", "map50_95"), "float64"),
        "golden_changes": "int64",
        **dict.fromkeys(("detections_sha256", "error"), "string"),
    },
    "frames": {
        **_OF_A_FRAME,
        **dict.fromkeys(("status", "model", "reason"), "string"),
        **dict.fromkeys((*(f"{stage}_ms" for stage in STAGES), "total_ms"), "float64"),
        **dict.fromkeys(("width_px", "height_px", "detections"), "int32"),
        "grey_level": "float64",
    },
    "detections": {**_OF_A_FRAME, "class": "string", **dict.fromkeys(("score", *PLACE), "float32")},
    "faults": {**_OF_A_FRAME, "fault": "string", "reason": "string"},
}
"""The columns of each table, with their Arrow types; see docs/tutorials/fleet.md."""
TABLE_FILES = tuple(f"{name}.parquet" for name in SCHEMAS)


def available() -> bool:
    """Whether tables can be written."""
    return find_spec("pyarrow") is not None


def write_tables(
    folder: Path, drive: str, summary: Summary, recording: Recording, greys: Mapping[int, float]
) -> None:
    """Write the frames, detections and faults of a drive.

    Args:
        folder: where to.
        drive: its name.
        summary: as in `summary.json`.
        recording: reports as measured here, and detections by frame index.
        greys: see `ChosenFrames.grey_levels`.
    """
    rows = {"frames": _frames(recording, greys), "detections": _detections(recording)}
    rows["faults"] = _faults(recording, summary)
    for table, some in rows.items():
        write_table(folder, table, ({"drive": drive, **row} for row in some))


def write_table(folder: Path, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of `SCHEMAS`; a column that a row lacks is null."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(list(SCHEMAS[table].items()))
    content, rows = pyarrow.BufferOutputStream(), iter(rows)
    with parquet.ParquetWriter(content, schema, compression="zstd") as writer:
        while some := list(islice(rows, ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema))
    write_whole(folder / f"{table}.parquet", content.getvalue().to_pybytes())


def _of_a_frame(one: Any) -> dict[str, Any]:
    return {"frame": one.sequence, "stamp_ns": one.stamp_ns, "log_time_ns": one.log_time_ns}


def _frames(recording: Recording, greys: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    for report in recording.reports:
        yield {
            **_of_a_frame(report),
            "status": FrameStatus(report.status).name,
            "model": report.model or None,
            "reason": report.reason or None,
            **{f"{stage}_ms": ms for stage, ms in stage_durations_ms(report).items()},
            "total_ms": latency_ms(report),
            "width_px": report.source_width,
            "height_px": report.source_height,
            "detections": report.detections,
            "grey_level": greys.get(report.sequence),
        }


def objects_of(recording: Recording, report: ReportedFrame) -> Iterator[dict[str, Any]]:
    """The objects of a frame as rows, to 0.01 pixels and 0.0001 of the score."""
    found = recording.found(report)
    for one in () if found is None else found.objects():
        x1, y1, x2, y2 = one.box
        place = zip(PLACE, (x1, y1, x2 - x1, y2 - y1), strict=True)
        sides = {side: round(pixels, 2) for side, pixels in place}
        yield {"class": one.label, "score": round(one.score, 4), **sides}


def _detections(recording: Recording) -> Iterator[dict[str, Any]]:
    for report in recording.reports:
        for one in objects_of(recording, report):
            yield {**_of_a_frame(report), **one}


def _faults(recording: Recording, summary: Summary) -> Iterator[dict[str, Any]]:
    """Frames with another status than OK or with a reason, and what is known of the drive only."""
    for report in recording.reports:
        if report.status != FrameStatus.OK or report.reason:
            fault = FrameStatus(report.status).name
            yield {**_of_a_frame(report), "fault": fault, "reason": report.reason or None}
    for name, count in summary.get("unaccounted", {}).items():
        yield {"fault": "UNACCOUNTED", "reason": f"{name}: {count}"}
    if summary["lost_in_bag"]:
        yield {"fault": "LOST_IN_BAG", "reason": f"{summary['lost_in_bag']} frames"}
    for warning in summary["warnings"]:
        yield {"fault": "WARNING", "reason": warning}
