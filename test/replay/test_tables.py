"""The tables of a fleet: what is in them, and that the tutorial's questions are answered."""

import re

import numpy as np
import pytest

from perception_nodes.core.frame import STAMPS, FrameRecord, FrameStatus
from perception_nodes.replay.tables import SCHEMAS, write_table, write_tables
from perception_nodes.report.recording import FrameDetections, Recording, ReportedFrame

MS = 1_000_000
LABELS = ("car", "person", "car")
HEIGHTS = (8.0, 20.0, 60.0)


def recording(work_ms):
    """Frames that take so long; None for one that failed. Frame n has n objects."""
    made = Recording(by_number=True)
    for number, ms in enumerate(work_ms):
        record = FrameRecord(sequence=number, stamp_ns=number * 33 * MS, detections=number)
        if ms is None:
            record.status, record.reason = FrameStatus.FAILED, b"it is cut off"
        else:
            for place, stamp in enumerate(STAMPS):
                setattr(record, stamp, int(MS * (1 + ms * place / (len(STAMPS) - 1))))
            boxes = np.array([[4, 2, 9, 2 + height] for height in HEIGHTS[:number]], np.float32)
            scores = np.full(number, 0.5, np.float32)
            made.detections[number] = FrameDetections(LABELS[:number], scores, boxes.reshape(-1, 4))
        made.reports.append(ReportedFrame.of_record(record, number * 33 * MS))
    return made


@pytest.fixture
def fleet(tmp_path):
    """Two runs of two drives, of which the second run finds a drive unreadable."""
    pytest.importorskip("pyarrow")
    for run, last_ms in (("before", 9.0), ("after", 12.0)):
        rows = [{"drive": "b", "error": "it is cut off"}] if run == "after" else []
        for drive in ("a", "b")[: 2 - len(rows)]:
            found = recording([4.0, 6.0, None, last_ms])
            facts = {"lost_in_bag": 2, "warnings": ["dark"], "unaccounted": {"surplus": 1}}
            greys = {0: 20.0, 1: 90.5}
            write_tables(tmp_path / f"run={run}" / drive, drive, facts, found, greys)
            row = {"drive": drive, "deadline_ms": 10.0, "frames_in": 4, "detections": 4}
            rows.append({**row, "grey_level": 55.2, "detections_sha256": run})
        write_table(tmp_path / f"run={run}", "drives", rows)
    return tmp_path


def test_the_questions_of_the_tutorial_are_answered(root, fleet, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(fleet)
    page = (root / "docs/tutorials/fleet.md").read_text(encoding="utf-8")
    questions = re.findall(r"^```sql\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    night, late, changed, failed, heights = (duckdb.sql(one).fetchall() for one in questions)
    assert night == [("after", True, 1, None, 1.0), ("before", True, 2, None, 1.0)]
    missed = [("after", "a", 50.0), ("before", "a", 25.0), ("before", "b", 25.0)]
    assert sorted((row[0], row[1], row[4]) for row in late) == missed
    assert sorted(changed, key=str) == [("a", 0, None), ("b", None, "it is cut off")]
    assert ("before", "FAILED", "it is cut off", 2, 2) in failed
    assert ("before", "LOST_IN_BAG", "2 frames", 2, 2) in failed
    assert heights[:2] == [("after", "car", 3, 8.0, 8.0), ("after", "person", 1, 20.0, 20.0)]


def test_what_is_not_known_is_null_and_the_bytes_are_the_same_again(fleet, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    file = fleet / "run=before/a/frames.parquet"
    frames = parquet.ParquetFile(file).read().to_pylist()
    assert list(frames[0]) == list(SCHEMAS["frames"])
    assert [row["total_ms"] for row in frames] == [4.0, 6.0, None, 9.0]
    assert [row["grey_level"] for row in frames] == [20.0, 90.5, None, None]
    assert [row["inference_ms"] for row in frames][2:] == [None, pytest.approx(9.0 / 5)]
    write_table(tmp_path, "frames", frames)
    assert (tmp_path / "frames.parquet").read_bytes() == file.read_bytes()


def test_the_tutorial_describes_every_column(root):
    page = (root / "docs/tutorials/fleet.md").read_text(encoding="utf-8")
    for name, columns in SCHEMAS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        lost = [one for one in columns if one != "drive" and f"`{one}`" not in row]
        assert lost == [], name
