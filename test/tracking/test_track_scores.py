"""Generated drives, sequences of MOTChallenge, and what is measured on them."""

import numpy as np
import pytest
import tracked_drives
from track_scores import evaluate_tracks
from tracked_drives import GENERATED, TracksError, generated, read_mot

SECONDS = 8.0


def write_sequence(folder):
    """Two objects that stand still, each found a pixel too far to the right."""
    for name in ("gt", "det"):
        (folder / name).mkdir(parents=True)
    (folder / "seqinfo.ini").write_text("[Sequence]\nname=s\nframeRate=10\n")
    rows = [(n, i, 100 * i, 50, 40, 80) for n in range(1, 21) for i in (1, 2)]
    truth = [",".join(map(str, (*row, 1, 1, 1.0))) for row in rows]
    truth.append("1,9,500,500,20,20,0,1,1.0")  # not to be counted
    found = [f"{n},-1,{x + 1},{y},{w},{h},0.9,-1,-1,-1" for n, _, x, y, w, h in rows]
    (folder / "gt/gt.txt").write_text("\n".join(truth))
    (folder / "det/det.txt").write_text("\n".join(found))
    return folder


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_drive_is_the_same_each_time_and_has_its_trouble(name):
    first, second = generated(name, 10, SECONDS), generated(name, 10, SECONDS)
    assert [f.stamp_ns for f in first.frames] == [f.stamp_ns for f in second.frames]
    lost = SECONDS * tracked_drives.RATE_HZ - len(first.frames)
    assert (lost > 0) == (GENERATED[name].lost > 0)
    late = [f for f in first.frames if f.published_ns - f.stamp_ns > 12_000_000]
    assert bool(late) == (GENERATED[name].late > 0)
    for frame in first.frames:
        np.testing.assert_array_equal(frame.boxes, first.truth_at(frame.ids, frame.stamp_ns))


@pytest.mark.parametrize("name", GENERATED)
def test_predictions_are_nearer_to_the_truth_than_what_they_are_made_of(name):
    result = evaluate_tracks(generated(name, 20, 20.0))
    errors = result["error_px"]
    assert errors["predicted"] < errors["capture"] < errors["detections"]
    assert 0.9 < result["within_2_sigma"] <= 1
    assert result["hota"] > 65 and result["idf1"] > 75


def test_a_sequence_of_motchallenge(tmp_path):
    drive = read_mot(write_sequence(tmp_path / "s"))
    assert (drive.name, len(drive.frames)) == ("s", 20)
    assert drive.frames[1].stamp_ns - drive.frames[0].stamp_ns == 100_000_000
    assert drive.frames[0].ids.tolist() == [1, 2]
    assert drive.frames[0].boxes[0].tolist() == [100, 50, 140, 130]
    result = evaluate_tracks(drive)
    assert result["switches"] == 0 and "error_px" not in result
    assert result["idf1"] == pytest.approx(
        100 * 2 * 38 / 78, abs=0.01
    )  # the first frame is missing


@pytest.mark.parametrize("rate", ["0", "nan"])
def test_a_sequence_without_a_rate_is_refused(tmp_path, rate):
    folder = write_sequence(tmp_path / "s")
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nframeRate={rate}\n")
    with pytest.raises(TracksError, match=f"none of MOTChallenge: frameRate is {rate}"):
        read_mot(folder)


@pytest.mark.parametrize("damage", ["seqinfo.ini", "gt/gt.txt", "det/det.txt"])
def test_a_damaged_sequence_is_named(tmp_path, damage):
    folder = write_sequence(tmp_path / "s")
    (folder / damage).write_text("no, such, thing\n")
    with pytest.raises(TracksError, match=str(folder)):
        read_mot(folder)
    (folder / damage).unlink()
    with pytest.raises(TracksError, match="none of MOTChallenge"):
        read_mot(folder)
