"""Parameters that a measurement on this machine decides: `model:=auto` and `threads:=auto`.

The most accurate network is taken that keeps the deadline here: its 99.9th percentile is predicted,
from the median of its times and from how far those of its runtime spread.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import NormalDist
from typing import Any

import numpy as np

from perception_nodes.backends.auto import AUTO
from perception_nodes.backends.contract import INSTALL
from perception_nodes.backends.delegate import DELEGATE
from perception_nodes.evaluation.screening import Option, Times, time_in_turns
from perception_nodes.graph.config import AUTO_THREADS, ON_CPU, DetectorSettings, WatchdogSettings
from perception_nodes.graph.graph import Graph
from perception_nodes.graph.node_spec import awake_processors
from perception_nodes.graph.resolve import GraphSettings
from perception_nodes.graph.ros_arguments import RosArguments
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import ModelError, load_model
from perception_nodes.networks.openvino_core import VARIABLE
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.load import busy
from perception_nodes.system.processes import physical_cores, speed_facts
from perception_nodes.system.realtime import parse_cpus

FAMILY = ("open-s", "open-n", "open-xs")
"""Networks that `model:=auto` may take, the most accurate one first."""
DEFAULT = "open-n"
"""Taken where no network keeps the deadline or none could be measured: it has a smaller sibling."""
RUNTIMES = ("litert", "openvino")
FIRST_START_S, THOROUGH_S = 5.0, 30.0
"""How long a measurement may take at the first start of a graph, and when it is asked for."""
SHARE, SHARE_ALONE = 0.8, 0.6
"""Share of the deadline that a network must keep: one with a smaller sibling, which runs where time
is short, and one without. The rest is for what the measurement lacks: two hand-overs and DDS."""
MOST_THREADS = 16
ENOUGH = 5
"""An option with fewer times was not measured."""
NO_TIME = "there was no time for it"
TAIL = NormalDist().inv_cdf(0.999) / NormalDist().inv_cdf(0.95)
"""How many times as far from the median a log-normal p99.9 is as the p95, by their logarithms."""
FILE = "measured.json"
Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """What is known of an option here.

    Attributes:
        model, backend, threads, cpus: the option.
        bare_ms: median of its inference; 0 if it was not measured.
        median_ms, p99_9_ms: of a frame's whole way, the latter predicted.
        frames: number of times.
        refused: why it was not measured; empty if it was.
    """

    model: str
    backend: str
    threads: int
    cpus: str
    bare_ms: float
    median_ms: float
    p99_9_ms: float
    frames: int
    refused: str


@dataclass(frozen=True)
class Choice:
    """What is taken.

    Attributes:
        parameters: model, backend and threads.
        cpus: processors for the detector alone; empty for all.
    """

    parameters: dict[str, Any]
    cpus: str = ""


def measured_settings(
    graph: Graph, values: Mapping[str, Any], ros: RosArguments, say: Say, progress: Progress
) -> GraphSettings:
    """The settings of a graph whose model is measured on this machine unless it is named.

    Args:
        graph: its nodes.
        values: parameters that differ from their defaults.
        ros: parameters of less precedence.
        say: receives the choice and its reason.
        progress: called with the seconds done and their total.

    Raises:
        SettingsError: as of `Graph.settings`, and of `measured`.
    """
    settings = graph.settings(values, ros, {"model": AUTO})
    if _obstacle(settings.of(DetectorSettings)):
        settings = graph.settings(values, ros)
    choice = measured(settings, say, progress) or Choice({})
    nodes = graph.settings({**values, **choice.parameters}, ros).nodes
    for name, own in nodes.items():
        if choice.cpus and isinstance(own, DetectorSettings):
            nodes[name] = own.model_copy(update={"cpus": choice.cpus})
    return GraphSettings(nodes)


def measured(
    settings: GraphSettings, say: Say, progress: Progress = lambda done, total: None
) -> Choice | None:
    """What this machine gives to a graph's parameters that are automatic; None if none is.

    Args:
        settings: of the nodes.
        say: receives the choice and its reason.
        progress: called with the seconds done and their total.

    Raises:
        SettingsError: a fallback model is named with `model:=auto`, which must have the same input;
            or there are several cameras, or a device whose time depends on more than is known here.
    """
    given = settings.of(DetectorSettings)
    if AUTO != given.model and given.threads != AUTO_THREADS:
        return None
    if name := _obstacle(given):
        wanted = ["model:=auto"] * (given.model == AUTO) + ["threads:=auto"] * (given.threads < 0)
        raise SettingsError(
            f"{' and '.join(wanted)} cannot be measured with {name}:={getattr(given, name)}; "
            "name the value"
        )
    chosen: dict[str, Any] = given.model_dump(include={"model", "backend", "threads"})
    cpus, why = "", "the fastest beside other work"
    if given.model == AUTO:
        rows = measured_rows(given, say, progress)
        row, why = best_of(rows, given, settings.of(WatchdogSettings).deadline_ms)
        chosen["model"] = DEFAULT
        if row is not None:
            chosen, cpus = {name: getattr(row, name) for name in chosen}, row.cpus
    if given.threads == AUTO_THREADS:
        named = given.model_copy(update=chosen | {"threads": AUTO_THREADS})
        timed = [row for row in measured_rows(named, say, progress) if not row.refused]
        best = min(timed, key=lambda row: row.p99_9_ms, default=None)
        chosen["threads"], cpus = best.threads if best else 0, ""
    told = " ".join(f"{name}:={value}" for name, value in chosen.items())
    say(f"{told}{f', processors {cpus}' if cpus else ''}: {why}")
    return Choice(chosen, cpus)


def _obstacle(given: DetectorSettings) -> str:
    """The parameter with which nothing can be measured; empty if there is none."""
    if given.model == AUTO and given.fallback_model not in ("auto", "none"):
        return "fallback_model"
    return "cameras" if given.cameras else "" if given.backend in ON_CPU else "backend"


def best_of(
    rows: Sequence[Row], given: DetectorSettings, deadline_ms: float
) -> tuple[Row | None, str]:
    """The option to take, None if none was measured; and why, in a line."""
    timed = [row for row in rows if not row.refused]
    best = [
        min(own, key=lambda row: row.p99_9_ms)
        for model in FAMILY
        if (own := [row for row in timed if row.model == model])
    ]
    if not any(row.model == DEFAULT for row in best):
        return None, (
            "the default, since nothing could be measured in time; "
            "perception doctor --measure takes the time it needs"
        )

    def limit_ms(row: Row) -> float:
        has_sibling = given.faster_model(load_model(row.model, given.model_key).fallback)
        return deadline_ms * (SHARE if has_sibling else SHARE_ALONE)

    for number, row in enumerate(best):
        if row.p99_9_ms <= limit_ms(row):
            better = "".join(
                f"; {one.model} would take {one.p99_9_ms:.1f}, more than {limit_ms(one):g}"
                for one in best[:number]
            )
            unknown = ", ".join(sorted(_unknown(rows)))
            return row, (
                f"measured here, the p99.9 is predicted as {row.p99_9_ms:.1f} ms and keeps "
                f"{limit_ms(row):g} of {deadline_ms:g}{better}"
                + (f"; there was no time to measure {unknown}" if unknown else "")
            )
    smallest = min(best, key=lambda row: row.p99_9_ms / limit_ms(row))
    needed_ms = math.ceil(smallest.p99_9_ms * deadline_ms / limit_ms(smallest))
    return next(row for row in best if row.model == DEFAULT), (
        f"no network keeps {deadline_ms:g} ms here, predicted are p99.9 of "
        + ", ".join(f"{row.model} {row.p99_9_ms:.1f}" for row in best)
        + f" ms; what would do: model:={smallest.model} deadline_ms:={needed_ms}, a smaller "
        "network, or more or faster processors"
    )


def measured_rows(
    given: DetectorSettings,
    say: Say,
    progress: Progress,
    limit_s: float = FIRST_START_S,
    anew: bool = False,
) -> list[Row]:
    """What each option takes here, as measured now or before; see `known_rows`.

    Args:
        given: the detector's settings; beside other work if the number of threads alone is open.
        say: is told that it is measured.
        progress: called with the seconds done and their total.
        limit_s: how long a measurement may take.
        anew: measure even if it was measured before, and forget what was measured of others.
    """
    options, key = _options(given), _key(given)
    if not anew and (rows := known_rows(given)):
        return rows
    beside = "" if given.model == AUTO else " beside other work"
    say(f"measuring what this machine has the time for{beside}: {limit_s:g} s, once")
    with nullcontext() if given.model == AUTO else busy(sorted(os.sched_getaffinity(0))):
        fifo, awake = given.fifo_priority, awake_processors(given)
        rows = _rows(time_in_turns(options, limit_s, progress, given.model_key, fifo, awake))
    if any(not row.refused for row in rows) and (anew or not _unknown(rows)):
        kept = ({} if anew else _kept()) | {key: [asdict(row) for row in rows]}
        with suppress(OSError):  # it is measured again next time
            write_whole(cache_folder() / FILE, json.dumps(kept, indent=1))
    return rows


def _unknown(rows: Sequence[Row]) -> set[str]:
    """Networks that there was no time for at all."""
    timed = {row.model for row in rows if not row.refused}
    return {row.model for row in rows if row.refused == NO_TIME} - timed


def known_rows(given: DetectorSettings) -> list[Row]:
    """What was measured before on this machine, of these files and runtimes; empty if nothing."""
    with suppress(TypeError):  # of another version
        return [Row(**row) for row in _kept().get(_key(given), ())]
    return []


def _kept() -> dict[str, Any]:
    with suppress(OSError, ValueError, TypeError):
        return dict(json.loads((cache_folder() / FILE).read_text(encoding="utf-8")))
    return {}


def _options(given: DetectorSettings) -> list[Option]:
    """What is to be timed; first all networks with all processors."""
    models = _models(given)
    runtimes = RUNTIMES if given.backend == AUTO else (str(given.backend),)
    cores = physical_cores() if not given.cpus else len(parse_cpus(given.cpus))
    of_any = given.threads == AUTO_THREADS or (given.model == AUTO and not given.threads)
    # More options would leave each one too few turns.
    most = min(cores, MOST_THREADS)
    counts = list(dict.fromkeys((most, -(-most // 2), 1)))
    options = [
        Option(model, backend, count, given.cpus)
        for count in (counts if of_any else [given.threads or cores])
        for backend in runtimes
        for model in models
    ]
    if given.model == AUTO and not given.cpus:
        ours = sorted(os.sched_getaffinity(0))
        options += [
            one._replace(cpus=",".join(map(str, ours[-one.threads :])))
            for one in options
            if one.threads < len(ours)
        ]
    return options


def _models(given: DetectorSettings) -> list[str]:
    """The networks to time, `DEFAULT` first; without those that are not there or not signed."""
    if given.model != AUTO:
        return [given.model]
    found = []
    for name in sorted(FAMILY, key=lambda name: name != DEFAULT):
        with suppress(ModelError):
            found.append(load_model(name, given.model_key).name)
    return found


def _rows(found: Mapping[Option, Times]) -> list[Row]:
    spread: dict[str, list[float]] = {}
    for option, times in found.items():
        if len(times.whole_ms) >= ENOUGH:
            ratios = np.array(times.whole_ms) / np.median(times.whole_ms)
            spread.setdefault(option.backend, []).extend(ratios)
    rows = []
    for option, times in found.items():
        ms, refused = (0.0, 0.0, 0.0), times.refused or NO_TIME
        if len(times.whole_ms) >= ENOUGH:
            median_ms = float(np.median(times.whole_ms))
            tail = max(1.0, float(np.percentile(spread[option.backend], 95))) ** TAIL
            ms = (float(np.median(times.bare_ms)), median_ms, median_ms * tail)
            refused = times.refused
        rows.append(Row(*option, *ms, len(times.whole_ms), refused))
    return rows


def _key(given: DetectorSettings) -> str:
    """What the times depend on."""
    models = [load_model(name, given.model_key).digest for name in _models(given)]
    facts = [given.backend, given.threads, given.cpus, given.fifo_priority, given.stay_awake]
    runtimes = {name: _version(name) for name in (*RUNTIMES, str(given.backend))}
    environment = [os.environ.get(name, "") for name in (DELEGATE, VARIABLE)]
    return json.dumps([given.model, models, facts, runtimes, environment, speed_facts()])


def _version(backend: str) -> str:
    """The version of a runtime; empty if it is not installed, which its opening reports."""
    try:
        return version(INSTALL.get(backend, backend))
    except PackageNotFoundError:
        return ""
