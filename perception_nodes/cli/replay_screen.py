"""What `perception replay` shows: its progress, and the results of one or many drives."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from rich.markup import escape

from perception_nodes.cli.common import say, say_problem, say_written, screen
from perception_nodes.replay import tables
from perception_nodes.replay.background import Progress
from perception_nodes.replay.drives import Replayed, ReplayRequest
from perception_nodes.report.accelerator import engine_sentence
from perception_nodes.report.drive_report import unaccounted, verdict
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import counted, shown
from perception_nodes.report.screen import summary_table

SHOWN_CHANGES = 20
SHOWN_DRIVES = 40


def show_replayed(replayed: Replayed, request: ReplayRequest, as_json: bool) -> None:
    """Print the results on stderr; if JSON is printed elsewhere, only what is wrong."""
    if replayed.golden is not None:
        say(f"golden written: {replayed.golden}")
    if not as_json:
        if replayed.is_one:
            _show(*next(iter(replayed.summaries.items())), request.out)
        else:
            _show_all(replayed, request.out)
    for name, summary in replayed.summaries.items():
        if problem := unaccounted(summary):
            say_problem("failed", f"{name}: {problem}")
    for name in replayed.broken:
        say(f"{name}: every frame failed; summary.json has the reasons")
    if request.update and replayed.golden is None:
        say(f"golden not written: {request.golden} is made of drives that can all be replayed")
    if replayed.left_out and replayed.status == 1:
        left = ", ".join(replayed.left_out)
        why = f"golden {request.golden} has drives that were not replayed: {left}"
        remedy = f"name them in {request.corpus}, or rewrite the golden with --update"
        say_problem("failed", f"{why}; {remedy}")


def _show(name: str, summary: dict[str, Any], folder: Path) -> None:
    """Print the result of one drive in a few lines."""
    screen.print(summary_table(summary))
    speed, error_ms = summary.get("speed"), summary.get("timing_error_ms")
    if speed:
        bare = ""
        if "share_of_bare" in speed:
            share, bare_rate = speed["share_of_bare"], speed["bare_frames_per_s"]
            bare = f", {share:.0%} of bare inference's {bare_rate:.0f}"
        say(f"{speed['frames_per_s']:.0f} frames/s{bare}")
    if "engine" in summary:
        say(f"engine: {engine_sentence(summary['engine'])}")
    if error_ms and error_ms["p50"] is not None:
        median, p99 = error_ms["p50"], error_ms["p99"]
        say(f"frames came {median:.3f} ms from their time (median; p99 {p99:.2f})")
    if "accuracy" in summary:
        accuracy = summary["accuracy"]
        scores = f"mAP50-95 {accuracy['map50_95']:.4f}, mAP50 {accuracy['map50']:.4f}"
        say(f"{scores} on {accuracy['frames']} labelled frames")
    lines = summary.get("golden", {}).get("lines", [])
    for line in lines[:SHOWN_CHANGES]:
        say(f"  {line}")
    if len(lines) > SHOWN_CHANGES:
        say(f"  and {len(lines) - SHOWN_CHANGES} more, in {folder / 'summary.json'}")
    if doubtful := _doubtful(summary):
        say(f"  {doubtful}")
    say(f"{name}: {verdict(summary)[1]}")
    say_written(folder)


def corpus_progress(show: Callable[[str, float, int, str], None], drives: int) -> Progress:
    """Show the progress of all drives together; may be called from several threads.

    A drive that fails ends with no frame of none.
    """
    lock, begin_s = Lock(), time.monotonic()
    shares, frames, failed = dict[str, float](), dict[str, int](), set[str]()

    def progress(name: str, done: int, total: int) -> None:
        with lock:
            if not total:
                failed.add(name)
            shares[name] = max(shares.get(name, 0.0), done / total if total else 1.0)
            frames[name] = max(frames.get(name, 0), done)
            rate = sum(frames.values()) / (time.monotonic() - begin_s)
            said = f", {len(failed)} failed" if failed else ""
            done_drives = round(sum(shares.values()), 2)
            show("drives", done_drives, drives, f", {rate:.0f} frames/s{said}")

    return progress


def _show_all(replayed: Replayed, out: Path) -> None:
    """Print the results of several drives as a table."""
    figures = ("frames", "not OK", "lost", "objects", "p50 ms", "p99 ms", "changed")
    table = figure_table(["drive"], figures)
    drives, failed, totals = replayed.summaries, replayed.failed, replayed.whole["totals"]
    for name, summary in list(drives.items())[:SHOWN_DRIVES]:
        table.add_row(*_cells(name, summary, len(summary.get("golden", {}).get("changes", ()))))
    name = "all" if len(drives) <= SHOWN_DRIVES else f"all, {len(drives) - SHOWN_DRIVES} more"
    table.add_section()
    table.add_row(*_cells(name, totals, totals["golden_changes"]))
    screen.print(table)
    for name, summary in drives.items():
        for line in summary.get("golden", {}).get("lines", [])[:SHOWN_CHANGES]:
            say(f"{name}: {line}")
        if doubtful := _doubtful(summary):
            say(f"{name}: {doubtful}")
    for name, reason in failed.items():
        say(f"{name} could not be replayed: {reason}")
    if not tables.available():
        say("no tables in Parquet without pyarrow: pip install 'perception_nodes[fleet]'")
    say(f"Written to {out}: drives.csv, summary.json, a folder a drive, and the page fleet.html")


def _doubtful(summary: dict[str, Any]) -> str:
    """A sentence about objects too near to the threshold to count as changes, or nothing."""
    count = summary.get("golden", {}).get("doubtful", 0)
    near = f"{counted(count, 'object')} near the score threshold came or went"
    return f"{near}; not counted as changed" if count else ""


def _cells(name: str, facts: dict[str, Any], changes: int) -> list[str]:
    latency = (facts["latency_ms"][rank] for rank in ("p50", "p99"))
    return [
        escape(name),
        str(facts["frames_in"]),
        str(facts["frames_in"] - facts["status"].get("OK", 0)),
        str(facts["lost_in_bag"]),
        str(facts["detections"]),
        *(shown(value, "{:.2f}") for value in latency),
        str(changes),
    ]
