"""Two runs of several drives side by side: each measure's difference, with its interval."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.core.statistics import mean_difference
from perception_nodes.evaluation.accuracy import DARK
from perception_nodes.replay.outputs import SUMMARY_FILE
from perception_nodes.report import page
from perception_nodes.report.recording import RecordingError
from perception_nodes.system.files import write_whole

FEW = 6
"""With fewer drives, an interval by bootstrap would be far too narrow."""
WORDS = dict.fromkeys(("missed the deadline, %", "failed, %"), ("worse", "better"))
WORDS["mAP50-95, %"] = ("better", "worse")
"""Words for a rise and for a fall of the measures for which one of them is better."""


def compare_fleets(first: Path, second: Path, out: Path) -> dict[str, Any]:
    """Write `compare.html` and `compare.json`.

    Returns:
        The content of `compare.json`.

    Raises:
        RecordingError: the runs have no drive in common, or a file of theirs cannot be read.
    """
    before, after = runs = [_drives(first), _drives(second)]
    names = [name for name in before if name in after]
    if not names:
        raise RecordingError(f"{first} and {second} have no drive in common; replay the same ones")
    lights: dict[str, list[str]] = {"all": names}
    for name in names:
        if (grey := before[name].get("grey_level")) is not None:
            lights.setdefault("dark" if grey < DARK else "bright", []).append(name)
    lights = {light: some for light, some in lights.items() if light == "all" or some != names}
    every = [one.get("heights_px", ()) for run in runs for one in run.values()]
    labels = sorted({label for heights in every for label in heights})
    rows = [
        {"light": light, **row}
        for light, some in lights.items()
        for row in _rows([[measures(drives[name], labels) for name in some] for drives in runs])
    ]
    said = [f"{row['measure']}, {row['light']} drives: {row['said']}" for row in rows]
    result: dict[str, Any] = {
        "runs": [str(first), str(second)],
        "drives": {light: len(some) for light, some in lights.items()},
        "said": said,
        "worse": [one for one in said if ": worse by " in one],
        "measures": rows,
        "left_out": sorted(before.keys() ^ after.keys()),
    }
    facts = {"before": before, "after": after, "names": names, "few_drives": FEW, "dark": DARK}
    text = page.render("fleets.html.j2", heading=f"{first} and {second}", **facts, **result)
    write_whole(out / "compare.html", text)
    write_whole(out / "compare.json", json.dumps(result, indent=2) + "\n")
    return result


def _drives(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        drives = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))["drives"]
        return {name: {**summary} for name, summary in drives.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RecordingError(f"{folder} has no run of drives: {error}; replay them") from error


def measures(one: Mapping[str, Any], labels: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The measures of a drive by name, each with the drive's weight; those that it has.

    `labels` are the classes of both runs.
    """
    frames, accuracy, latency = one["frames_in"], one.get("accuracy", {}), one["latency_ms"]
    counts = {"failed, %": one["status"]["FAILED"], "objects a frame": one["detections"]}
    if "heights_px" in one:
        heights = one["heights_px"]
        counts |= {f"{label} a frame": sum(heights.get(label, {}).values()) for label in labels}
    if "over_deadline" in one:
        counts["work over the deadline, %"] = one["over_deadline"]
    found = [(name, count / frames, frames) for name, count in counts.items() if frames]
    found += [("mAP50-95, %", accuracy.get("map50_95"), accuracy.get("frames"))]
    found += [("missed the deadline, %", one["miss_rate"], frames)]
    found += [(f"{rank} of a drive, ms", latency[rank], 1) for rank in ("p50", "p99")]
    return {name: (value, weight) for name, value, weight in found if value is not None}


def _rows(sides: list[list[dict[str, tuple[float, float]]]]) -> Iterator[dict[str, Any]]:
    """A row for each measure, of the drives that have it in both runs."""
    for name in dict.fromkeys(name for one in sides[1] for name in one):
        drives = [two for two in zip(*sides, strict=True) if all(name in one for one in two)]
        if not drives:
            continue
        both = np.array([[one[name] for one in two] for two in drives], np.float64)
        is_share = name.endswith("%")
        values, weights = both[..., 0] * (100 if is_share else 1), both[..., 1]
        before, after = np.average(values, 0, weights).tolist()
        low, high, said = None, None, "too few drives for an interval"
        if len(drives) >= FEW:
            low, high = mean_difference(values, weights)
            word = WORDS.get(name, ("more", "less"))[after < before]
            said = f"{word} by {abs(after - before):.3g} ± {(high - low) / 2:.2g}"
            said = "no difference is shown" if low <= 0 <= high else said + " points" * is_share
        row = {"measure": name, "drives": len(drives), "before": before, "after": after}
        yield {**row, "low": low, "high": high, "said": said}
