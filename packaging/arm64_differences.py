"""How far what networks compute on two machines is apart."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from perception_nodes.report.recording import read_recording

MEAN_CODES = 2.0
"""Bounds how far tensors may be apart; those of runtimes on x86-64 are so by up to one code."""
SHARE_ALONE = 0.25
"""Bounds the share of both machines' objects that have no counterpart on the other."""
LAST_BITS = 1e-4
"""Bounds how far objects of equal tensors may be apart, in scores and pixels: NumPy's functions of
single precision differ between processors in their last bits."""


def differences(
    here: Mapping[str, np.ndarray], there: Mapping[str, np.ndarray], *, same: bool = False
) -> tuple[list[str], int, list[str]]:
    """How the outputs of a runtime on two machines differ; see `network_outputs.py`.

    same: whether tensors must be the same to the bit, and objects but for their last bits.

    Returns: a line a tensor, the objects last; how many are the same to the bit; the lines of those
    that are out of their bounds.

    Raises:
        ValueError: names differ, or there is no tensor or no objects.
    """
    if set(here) != set(there):
        raise ValueError("the machines' outputs have different names")
    tensors: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for key in here:
        tensors.setdefault(key.partition("/")[0], []).append((here[key], there[key]))
    tensors.pop("step", None)
    if len(tensors) < 2 or "objects" not in tensors:
        raise ValueError("there is no tensor, or there are no objects")
    lines, exact, wrong = [], 0, []
    for tensor, pairs in tensors.items():
        if all(np.array_equal(a, b) for a, b in pairs):
            lines.append(f"{tensor}: the same to the bit")
            exact += 1
            continue
        if tensor == "objects":
            text, far = objects_apart(pairs, same=same)
        else:
            apart = np.abs(np.stack([a.astype(np.float64) - b for a, b in pairs]))
            step = float(here.get(f"step/{tensor}", 1.0))
            mean, share = apart.mean() / step, np.mean(apart > 0)
            text = f"{share:.1%} of the values differ, by {mean:.2f} codes in the mean and "
            text += f"{apart.max() / step:.1f} at most"
            far = same or not mean <= MEAN_CODES  # not a number is too far
        lines.append(f"{tensor}: {text}")
        if far:
            wrong.append(lines[-1])
    return lines, exact, wrong


def recordings_apart(here: Path, there: Path, *, same: bool = False) -> tuple[str, bool]:
    """How far the objects of two replays are apart, and whether that is too far.

    same: whether they must be the same but for their last bits.
    """
    ours, theirs = (
        json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        for folder in (here, there)
    )
    if ours["detections"] and ours["detections_sha256"] == theirs["detections_sha256"]:
        text = "detections.mcap is that of x86-64 to the byte"
        return f"{theirs['frames_in']} frames, {theirs['detections']} objects; {text}", False
    pairs = list(zip(objects_of(here), objects_of(there), strict=True))
    text, far = objects_apart(pairs, same=same)
    return f"{theirs['frames_in']} frames, not to the byte: {text}", far


def objects_apart(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, same: bool = False
) -> tuple[str, bool]:
    """How far the objects of the same frames are apart: class, score, four corners a row.

    same: whether they must be the same but for their last bits.

    Returns: it in words, and whether that is too far; it is where there is no object at all.
    """
    counts, scores, corners, alone = [0, 0], [0.0], [0.0], 0
    for ours, theirs in pairs:
        counts[0] += len(ours)
        counts[1] += len(theirs)
        alone += sum(yours is None for _, yours in counterparts(theirs, ours))
        for mine, yours in counterparts(ours, theirs):
            if yours is None:
                alone += 1
                continue
            scores.append(abs(mine[1] - yours[1]))
            corners.append(np.abs(mine[2:] - yours[2:]).max())
    text = (
        f"{counts[0]} objects on x86-64, {counts[1]} on arm64, {alone} without counterpart; scores "
        f"differ by {max(scores):.2g} at most, corners by {max(corners):.2g} pixels"
    )
    if same:
        unequal = counts[0] != counts[1] or max(*scores, *corners) > LAST_BITS
        return text, unequal or alone > 0 or not any(counts)
    return text, alone > SHARE_ALONE * sum(counts) or not any(counts)


def objects_of(folder: Path) -> list[np.ndarray]:
    """The objects of each frame of a replay, as `objects_apart` takes them."""
    recording = read_recording(folder / "detections.mcap")
    frames = [recording.found(report) for report in recording.reports]
    return [
        np.array(
            [
                (zlib.crc32(label.encode()), score, *box)
                for label, score, box in zip(one.labels, one.scores, one.boxes, strict=True)
            ]
        ).reshape(-1, 6)
        for one in frames
    ]


def counterparts(
    ours: np.ndarray, theirs: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Each object of ours with the nearest of theirs that has its class and half of its box."""
    for mine in ours:
        same = theirs[theirs[:, 0] == mine[0]]
        low = np.maximum(mine[2:4], same[:, 2:4])
        high = np.minimum(mine[4:6], same[:, 4:6])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        union = np.prod(mine[4:6] - mine[2:4]) + np.prod(same[:, 4:6] - same[:, 2:4], axis=1)
        overlap = common / (union - common)
        yield mine, same[overlap.argmax()] if overlap.max(initial=0) > 0.5 else None
