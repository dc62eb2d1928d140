"""The report: all side by side, as a table, as sentences and as a page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from peers.account import WITHIN_MS, median
from peers.adapters import OURS
from rich.markup import escape as plain
from rich.table import Table

from perception_nodes.report import page
from perception_nodes.report.chart import Axis, Chart

NONE = "none"
"""A percentile that falls on a frame without an answer, or a recovery that never came."""
UNKNOWN = "not known"
SAME = 0.02
"""Figures that differ by less than this share are called equal."""
COLOURS = "#4263eb", "#e8590c", "#1f9d55", "#ae3ec9", "#0c8599", "#f2a900", "#868e96"
MAX_POINTS = 2000
Result = Mapping[str, Any]


class Figure(NamedTuple):
    """A row of the table.

    Attributes:
        title: of the row.
        value: takes it from a peer's result; None for a value that never came.
        form: how it is written.
        lower, higher: whether such a value is better; neither for what only describes.
        never: whether a value that is not there never came; otherwise it is not known.
    """

    title: str
    value: Callable[[Result], float | None]
    form: str
    lower: bool = False
    higher: bool = False
    never: bool = True

    def shown(self, peer: Result) -> str:
        """The value in words."""
        return page.shown(self.value(peer), self.form, NONE if self.never else UNKNOWN)

    def better(self, one: Result, other: Result) -> bool:
        """Whether one has a better value than the other, by more than nothing to speak of."""
        if not (self.lower or self.higher):
            return False
        if not self.never and None in (self.value(one), self.value(other)):
            return False
        worst = float("inf") if self.lower else -1.0
        a, b = (worst if (v := self.value(peer)) is None else v for peer in (one, other))
        margin = SAME * abs(b) if b != worst else 0.0
        return a < b - margin if self.lower else a > b + margin


def _of(*path: str) -> Callable[[Result], float | None]:
    def value(peer: Result) -> float | None:
        found: Any = peer
        for key in path:
            found = found and found[key]
        return None if found is None else float(found)

    return value


def _share(key: str, account: str = "account") -> Callable[[Result], float | None]:
    def value(peer: Result) -> float | None:
        counts = peer[account]
        return counts[key] / counts["sent"] if counts and counts["sent"] else None

    return value


def _median(key: str) -> Callable[[Result], float | None]:
    return lambda peer: median(peer[key])


RANK_NAMES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99_9": "p99.9", "max": "maximum"}
FIGURES = (
    Figure("frames sent", _of("account", "sent"), "{:,.0f}"),
    Figure("answered", _share("answered"), "{:.2%}", higher=True),
    Figure("in time", _share("in_time"), "{:.2%}", higher=True),
    Figure("late", _share("late"), "{:.2%}", lower=True),
    Figure("missed and reported", _share("told"), "{:.2%}"),
    Figure("silent: no answer, no word of it", _share("silent"), "{:.2%}", lower=True),
    *(
        Figure(
            f"latency of all frames, {name}, ms", _of("account", "latency_ms", rank), "{:.1f}", True
        )
        for rank, name in RANK_NAMES.items()
    ),
    *(
        Figure(
            f"latency of the answered, {RANK_NAMES[rank]}, ms",
            _of("account", "answered_ms", rank),
            "{:.1f}",
            True,
        )
        for rank in ("p50", "p99", "p99_9")
    ),
    *(
        Figure(f"age of what is held, {rank}, ms", _of("stale_ms", rank), "{:.0f}", lower=True)
        for rank in ("p50", "p99")
    ),
    Figure("processors used", _of("processors"), "{:.2f}", lower=True),
    Figure("processor time an answer, ms", _of("processor_ms_per_answer"), "{:.1f}", lower=True),
    Figure("processors that only keep awake, lowest class", _of("idle_processors"), "{:.2f}"),
    Figure("memory, MB", _of("memory_mb"), "{:,.0f}", lower=True),
    Figure("start to first answer, s", _median("start_s"), "{:.1f}", lower=True),
    Figure("objects an answer", _of("account", "objects"), "{:.1f}"),
)
STREAMING = Figure(
    "streaming accuracy, AP50", _of("streaming", "map50"), "{:.3f}", higher=True, never=False
)
AFTER_KILL = (
    Figure("kill -9 to next answer, s", _median("recovery_s"), "{:.2f}", lower=True),
    Figure("silent after kill -9", _share("silent", "after_kill"), "{:.2%}", lower=True),
)
MEANINGS = (
    "Latency is from the time at which a frame was due at the camera to the arrival of its first "
    "answer in another process, transport included.",
    "In the latency of all frames one without an answer is slower than all others; a percentile "
    "that falls on one is none.",
    "Who leaves frames out computes less: see the processor time an answer.",
    "Memory counts pages that several processes share once.",
    "After kill -9 nobody but the detector itself, or what starts it, may restart it.",
    "What is held at the instant of a frame is the newest answer that has arrived by then; its age "
    "is that of its frame.",
    "Each runs its own network with weights of its own. Streaming accuracy, where there is truth, "
    "compares what is held at the instant of each frame with the truth of that instant. It is "
    "known of vision_msgs/Detection2DArray with names of classes and boxes in the image's pixels.",
)


def figures(peers: Mapping[str, Result]) -> Sequence[Figure]:
    """The rows of the table; those of kill -9 only where all were killed."""
    judged = (STREAMING,) if any(one["streaming"] for one in peers.values()) else ()
    killed = AFTER_KILL if all(one["killed"] for one in peers.values()) else ()
    return (*judged, *FIGURES, *killed)


def better_than_ours(peers: Mapping[str, Result]) -> list[str]:
    """Where a peer is better than we are, one sentence a peer."""
    ours, sentences = peers.get(OURS), []
    for name, peer in peers.items():
        if ours is None or name == OURS:
            continue
        found = [
            f"{figure.title} ({figure.shown(peer)}, ours {figure.shown(ours)})"
            for figure in figures(peers)
            if figure.better(peer, ours)
        ]
        if found:
            sentences.append(f"{peer['title']} is better than we are in: {'; '.join(found)}.")
    return sentences


def strangers(peers: Mapping[str, Result]) -> list[str]:
    """Whose results nobody can assign to a frame."""
    return [
        f"{peer['title']} has sent {page.counted(count, 'result')} with the stamp of no frame: of "
        "which frame they are cannot be known, and they count for none."
        for peer in peers.values()
        if (count := peer["account"]["unknown"])
    ]


def not_judged(peers: Mapping[str, Result]) -> list[str]:
    """Whose streaming accuracy is not known, and why."""
    return [
        f"The streaming accuracy of {peer['title']} is not known: {why}."
        for peer in peers.values()
        if (why := (peer["streaming"] or {}).get("not_known"))
    ]


def verdict(result: Result) -> tuple[str, str]:
    """How the page begins: its tone, and a sentence."""
    peers, not_run = result["peers"], result["not_run"]
    counts = f"{page.counted(len(peers), 'detector')} measured"
    if not_run:
        counts += f", {len(not_run)} not"
    if OURS not in peers or len(peers) < 2:
        return "fair", f"{counts}: there is nothing to compare with."
    if better := better_than_ours(peers):
        return (
            "fair",
            f"{counts}. In some figures we are behind {page.counted(len(better), 'peer')}.",
        )
    return "good", f"{counts}. We are behind no peer in any figure."


def not_run_lines(result: Result) -> list[str]:
    """What could not be measured, why, and what to do."""
    return [
        f"{one['title']}: {one['why']}" + (f"; to do: {one['remedy']}" if one["remedy"] else "")
        for one in result["not_run"].values()
    ]


def rows(peers: Mapping[str, Result]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Title of each figure, and for each peer the value in words, and whether it is the best."""
    table = []
    for figure in figures(peers):
        cells = []
        for name, peer in peers.items():
            others = [other for key, other in peers.items() if key != name]
            compares = bool(others) and (figure.lower or figure.higher)
            is_best = compares and not any(figure.better(other, peer) for other in others)
            cells.append((figure.shown(peer), is_best and figure.value(peer) is not None))
        table.append((figure.title, cells))
    return table


def table(result: Result) -> Table:
    """The figures for a terminal; the best ones are bold."""
    peers = result["peers"]
    shown = Table("", box=None, padding=(0, 2, 0, 0))
    for name in peers:
        shown.add_column(plain(name), justify="right")
    for title, cells in rows(peers):
        shown.add_row(title, *(f"[bold]{text}" if best else text for text, best in cells))
    return shown


def tail(peers: Mapping[str, Result], deadline_ms: float) -> Chart | str:
    """The share of frames that take longer than a time; a curve ends at those without an answer."""
    every = [ms for peer in peers.values() for ms in peer["latencies_ms"] if ms is not None]
    if not every:
        return ""
    chart = Chart(
        Axis(
            "frame due to answer, ms",
            (0.9 * min([*every, deadline_ms]), 1.1 * max(every)),
            log=True,
        ),
        Axis("share of frames that take longer", log=True, percent=True),
        420,
    )
    for place, peer in enumerate(peers.values()):
        values = sorted(ms for ms in peer["latencies_ms"] if ms is not None)
        count = len(peer["latencies_ms"])
        step = max(1, len(values) // MAX_POINTS)
        points = {  # every frame of the tail, and a part of the others
            values[i]: (count - 1 - i) / count
            for i in range(len(values))
            if (i % step == 0 or i > len(values) - MAX_POINTS // 2) and i < count - 1
        }
        colour = COLOURS[place % len(COLOURS)]
        chart.add([*points], [*points.values()], peer["title"], colour, "steps")
    chart.deadline(deadline_ms, x=deadline_ms)
    return chart


def render(result: Result) -> str:
    """The page."""
    peers = result["peers"]
    tone, sentence = verdict(result)
    facts: Sequence[tuple[str, str]] = [
        *((key.replace("_", " "), str(value)) for key, value in result["setup"].items()),
        ("made", result["made"]),
    ]
    return page.render(
        "peers.html.j2",
        heading=f"{result['machine']}; {result['setup']['drive']}",
        tone=tone,
        verdict=sentence,
        better=better_than_ours(peers),
        not_run=result["not_run"],
        head=["", *(peer["title"] for peer in peers.values())],
        rows=[
            [title, *(Markup(f"<b>{escape(text)}</b>") if best else text for text, best in cells)]
            for title, cells in rows(peers)
        ],
        within=[
            [
                f"{ms} ms",
                *(page.shown(p["account"]["within"][str(ms)], "{:.2%}") for p in peers.values()),
            ]
            for ms in WITHIN_MS
        ],
        chart=tail(peers, result["setup"]["deadline_ms"]),
        peers=peers,
        facts=facts,
        warnings=[*result["warnings"], *strangers(peers), *not_judged(peers)],
        meanings=MEANINGS,
    )
