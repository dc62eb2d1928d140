"""Draws tables of the documentation as pictures: `make plots`, in a second.

A picture has the figures that the page states, so it changes with the table and with nothing else.
"""

import re
from pathlib import Path

from perception_nodes.core.budget import STAGES, Budget
from perception_nodes.core.frame import FrameStatus
from perception_nodes.report.palette import (
    HEALTH_COLOURS,
    STAGE_COLOURS,
    STATUS_COLOURS,
    STATUS_SHAPES,
)
from perception_nodes.report.static_chart import SOFT, drawing, saved
from perception_nodes.system.files import write_whole

DOCS = Path(__file__).parent
WIDTH_IN, AROUND_IN = 8.0, 0.9
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
REPORTED, DETECTS, NOMINAL = "#c92a2a", "#4263eb", "#1f9d55"


def table(page, head):
    """The rows of the table of a page whose head begins with a text, as lists of cells."""
    lines = (DOCS / page).read_text().partition(f"\n{head}")[2].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip(" *`") for cell in line.strip("|").split("|")])
    return rows


def numbers(text):
    """The numbers in a cell."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def faults(figure):
    """When each fault is reported, and when detections and NOMINAL are back: median to worst."""
    axes, rows = figure.add_subplot(), table("faults.md", "| scenario | reported after, ms |")
    for place, (_, reported, mode, _, _, again, nominal) in enumerate(rows):
        for cell, colour, label in (
            (reported, REPORTED, "reported, from the begin of the fault"),
            (again, DETECTS, "detections again, from its end"),
            (nominal, NOMINAL, "NOMINAL again, from its end"),
        ):
            if any(times := numbers(cell)):
                label = None if place else label
                axes.plot(times, [place] * 2, color=colour, lw=2.5, alpha=0.5)
                axes.plot(times[0], place, "o", color=colour, ms=5, label=label)
        colour = next(value for key, value in HEALTH_COLOURS.items() if key.name == mode)
        beside = axes.get_yaxis_transform()
        axes.text(1.01, place, mode, transform=beside, va="center", color=colour, fontsize=8)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    ticks_ms = [3, 10, 30, 100, 300, 1000, 3000]
    axes.set_xticks(ticks_ms, map(str, ticks_ms))
    axes.minorticks_off()
    axes.set_xlabel("ms; dot: median, line: to the worst of the runs; right: worst mode")
    return axes, 3


def statuses(figure):
    """A frame of each status on one axis of time: what its stages took, and what follows."""
    axes, rows = figure.add_subplot(), table("../README.md", "| status | meaning |")
    deadline_ms = Budget().deadline_ms
    for place, (_, meaning, frame) in enumerate(rows):
        begin_ms = 0.0
        for stage, colour, took_ms in zip(STAGES, STAGE_COLOURS, numbers(frame), strict=False):
            label = None if place else stage
            axes.barh(place, took_ms, 0.65, begin_ms, color=colour, label=label)
            begin_ms += took_ms
        said = re.split("[:;,]", meaning)[0]
        axes.text(begin_ms + 0.2, place, said, va="center", fontsize=8, bbox=BEHIND)
    looks = [FrameStatus[row[0]] for row in rows]
    axes.set_yticks(range(len(rows)), [f"{STATUS_SHAPES[look]} {look.name}" for look in looks])
    for label, look in zip(axes.get_yticklabels(), looks, strict=True):
        label.set_color(STATUS_COLOURS[look])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 2 * deadline_ms)
    axes.set_xticks(range(0, round(2 * deadline_ms) + 1, 2))
    axes.axvline(deadline_ms, color=REPORTED, ls="--", lw=1.5, label="deadline")
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ms from capture")
    return axes, len(STAGES) + 1


def main():
    """Draw each."""
    for name, draw, height_in in (("faults", faults, 5.5), ("statuses", statuses, 2.0)):
        with drawing(WIDTH_IN, height_in + AROUND_IN, 100) as figure:
            axes, columns = draw(figure)
            axes.tick_params(axis="y", labelsize=8)
            place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0)}
            axes.legend(**place, ncols=columns, fontsize=8, labelcolor=SOFT, handletextpad=0.2)
            # No date: the same figures make the same file.
            picture = saved(figure, "svg", bbox_inches="tight", metadata={"Date": None})
            write_whole(DOCS / "images" / f"{name}.svg", picture)


if __name__ == "__main__":
    main()
