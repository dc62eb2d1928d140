"""The live view of a run on one terminal screen, and the table that ends it."""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from perception_nodes.core.budget import DEADLINE_MS, Budget
from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode, Phase
from perception_nodes.core.statistics import summarize
from perception_nodes.report.page import NO_RESULT, NO_VALUE, UNTIMED, shown
from perception_nodes.report.palette import HEALTH_COLOURS, STATUS_COLOURS

WINDOW_FRAMES = 300
REFRESH_INTERVAL_S = 0.25
PLAIN_INTERVAL_S = 1.0
RATE_WINDOW_S = 2.0
BAR_WIDTH = 24
ENDED = "ENDED"


class LiveView:
    """Shows frame rate, statuses, latency by stage and health during a run.

    A frame costs a few appends; all figures are computed when the screen is drawn, at most four
    times a second. If the output is not a terminal, it prints a line each second instead.
    """

    def __init__(
        self,
        deadline_ms: float = DEADLINE_MS,
        total_frames: int | None = None,
        console: Console | None = None,
    ) -> None:
        """Nothing is shown before the context is entered.

        Args:
            deadline_ms: deadline that latencies are compared with.
            total_frames: frames of the drive, None or 0 if unknown.
            console: where to draw; standard output by default.
        """
        self._budget = Budget.for_deadline(deadline_ms)
        self._total_frames = total_frames or 0
        self._console = console or Console(file=sys.stdout)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._interval_s = REFRESH_INTERVAL_S if self._console.is_terminal else PLAIN_INTERVAL_S
        self._statuses = dict.fromkeys(FrameStatus, 0)
        self._reports: deque[Any] = deque(maxlen=WINDOW_FRAMES)
        self._arrivals_s: deque[float] = deque(maxlen=WINDOW_FRAMES)
        self._health = ("", "waiting for the graph")
        self._objects: Counter[str] = Counter()
        self._start_s = self._drawn_s = time.monotonic()

    def __enter__(self) -> "LiveView":
        """Start drawing."""
        self._start_s = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the terminal, and say in a line what became of the frames."""
        self._health = (ENDED, "")
        if self._console.is_terminal:
            self._live.stop()
        self._console.print(self._plain_line(), soft_wrap=True)

    def frame(self, report: Any) -> None:
        """Add a frame.

        Args:
            report: an object with the attributes of `perception_interfaces/FrameReport`.
        """
        self._statuses[FrameStatus(report.status)] += 1
        self._reports.append(report)
        self._arrivals_s.append(time.monotonic())
        self.render()

    def detections(self, labels: Iterable[str]) -> None:
        """Set the classes of the objects in the last frame."""
        self._objects = Counter(labels)
        self.render()

    def health(self, mode: HealthMode, cause: str, phase: Phase = Phase.RUNNING) -> None:
        """Set the health and its cause; a graph that starts or stops is no alarm.

        A drive that has been played to its end is none either, though no frame comes any more.
        """
        is_over = 0 < self._total_frames <= sum(self._statuses.values())
        word = ENDED if is_over else (mode if phase == Phase.RUNNING else phase).name
        self._health = (word, "" if is_over else cause)
        self.render()

    def render(self) -> None:
        """Draw if it is time; to be called regularly, even while no frames arrive."""
        if time.monotonic() - self._drawn_s >= self._interval_s:
            self._draw()

    def screen(self) -> RenderableType:
        """The content of the screen."""
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        head.add_row(self._progress(), Text(f"{self._frame_rate():.1f} frames/s", "bold"))
        mode, cause = self._health
        health = Text.assemble((f" {mode or 'STARTING'} ", _style_of(mode)))
        health.append(f"  {cause}")
        objects = Text(f"objects  {self._counts()}")
        lines = (head, self._status_line(), objects, self._latencies(), health)
        body = Group(*(part for line in lines for part in (line, Text())))
        border = "bright_black"
        return Panel(body, title="perception", box=box.ROUNDED, border_style=border, width=78)

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        if self._console.is_terminal:
            self._live.update(self.screen(), refresh=True)
        else:
            self._console.print(self._plain_line(), soft_wrap=True)

    def _plain_line(self) -> Text:
        latency_ms = summarize(self._reports)["latency_ms"]
        p50, p99 = (_ms(latency_ms[rank]) for rank in ("p50", "p99"))
        counts = " ".join(f"{kind.name} {n}" for kind, n in self._statuses.items() if n)
        return Text(
            f"{time.monotonic() - self._start_s:6.1f} s  {self._frame_rate():5.1f} frames/s  "
            f"latency p50 {p50} p99 {p99} ms  {counts or 'no frames yet'}  "
            f"{self._health[0] or self._health[1]}  {self._counts()}"
        )

    def _counts(self) -> str:
        """The objects in the last frame, the most frequent class first."""
        return ", ".join(f"{n} {label}" for label, n in self._objects.most_common()) or "no object"

    def _progress(self) -> Text:
        done = sum(self._statuses.values())
        if not self._total_frames:
            return Text(f"{done} frames")
        text = _bar(min(done / self._total_frames, 1.0), "cyan")
        return text.append(f"  {done} of {self._total_frames} frames")

    def _status_line(self) -> Text:
        line = Text()
        for kind, count in self._statuses.items():
            colour = STATUS_COLOURS[kind] if count else "bright_black"
            line.append(f"{kind.name} {count}   ", colour)
        return line

    def _latencies(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
        table.add_column(f"last {WINDOW_FRAMES} frames", min_width=15)
        for name in ("p50 ms", "p99 ms", "budget"):
            table.add_column(name, justify="right")
        table.add_column("p99 against the budget")
        facts = summarize(self._reports)
        for name, took_ms in {**facts["stages_ms"], "total": facts["latency_ms"]}.items():
            budget_ms = getattr(self._budget, "deadline_ms" if name == "total" else name)
            p99 = took_ms["p99"]
            share = 0.0 if p99 is None else p99 / budget_ms
            style = "green" if share <= 1 else "dark_orange"
            table.add_row(
                Text(name, "bold" if name == "total" else ""),
                _ms(took_ms["p50"]),
                Text(_ms(p99), style if share > 1 else ""),
                f"{budget_ms:.1f}",
                _bar(min(share, 1.0), style),
            )
        return table

    def _frame_rate(self) -> float:
        """Frames a second, over the last two seconds."""
        now_s = time.monotonic()
        window_s = min(RATE_WINDOW_S, max(now_s - self._start_s, 1e-3))
        return sum(arrival_s > now_s - window_s for arrival_s in self._arrivals_s) / window_s


def summary_table(summary: dict[str, Any]) -> Table:
    """The summary of a run as a table for the terminal.

    Args:
        summary: as in `summary.json`.
    """
    deadline_ms = float(summary.get("deadline_ms", DEADLINE_MS))
    is_simulated = "over_deadline" in summary
    table = Table(box=box.SIMPLE_HEAD, show_header=False, title="summary", title_justify="left")
    table.add_column(style="bright_black")
    table.add_column()
    for key in ("bag", "model", "backend"):
        if key in summary:
            table.add_row(key, Text(str(summary[key])))
    table.add_row("frames in", f"{summary['frames_in']}")
    for kind in FrameStatus:
        count = summary["status"][kind.name]
        if count or kind == FrameStatus.OK:
            name = UNTIMED if is_simulated and kind == FrameStatus.OK else kind.name
            table.add_row(f"  {name}", Text(f"{count}", STATUS_COLOURS[kind]))
    if len(summary["models"]) > 1:
        table.add_row("by model", Text(", ".join(f"{m} {n}" for m, n in summary["models"].items())))
    for name, count in summary.get("unaccounted", {}).items():
        table.add_row("not accounted for", Text(f"{name}: {count}", "bold red"))
    table.add_row("detections", f"{summary['detections']}")
    latency = Text()
    for name, value in summary["latency_ms"].items():
        late = summary["frames_in"] and (value is None or value > deadline_ms)
        text = shown(value, "{:.2f}", NO_RESULT if late else NO_VALUE)
        latency.append(f"{name.replace('_', '.')} ").append(text, "dark_orange" if late else "")
        latency.append("   ")
    name = "work, ms" if is_simulated else "latency, ms"
    table.add_row(f"{name} (deadline {deadline_ms:g})", latency)
    for stage, values in summary["stages_ms"].items():
        table.add_row(f"  {stage}", f"p50 {_ms(values['p50'])}   p99 {_ms(values['p99'])}")
    if is_simulated:
        share = summary["over_deadline"] / max(summary["frames_in"], 1)
        table.add_row("work over deadline", f"{share:.2%}")
    elif summary["miss_rate"] is not None:
        table.add_row("missed", f"{summary['miss_rate']:.2%}")
    for reason, count in Counter(summary["failures"]).most_common(5):
        table.add_row("failed", Text(f"{count}: {reason}", "red"))
    for warning in summary.get("warnings", []):
        table.add_row("warning", Text(warning, "yellow"))
    return table


def _style_of(word: str) -> str:
    """The looks of a health mode; of another word the terminal's own."""
    is_mode = word in HealthMode.__members__
    return f"bold white on {HEALTH_COLOURS[HealthMode[word]]}" if is_mode else "reverse"


def _bar(share: float, style: str) -> Text:
    filled = round(share * BAR_WIDTH)
    return Text.assemble(("█" * filled, style), ("░" * (BAR_WIDTH - filled), "grey50"))


def _ms(value: float | None) -> str:
    return shown(value, "{:.2f}")
