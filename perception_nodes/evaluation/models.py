"""Latency and accuracy of models, measured in turns in one process."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from timeit import timeit
from typing import Any

import ai_edge_litert
import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.backends.contract import BackendSettings, open_backend, open_model
from perception_nodes.backends.instructions import faster_instructions
from perception_nodes.backends.pace import RATE_HZ, paced_ms
from perception_nodes.core.budget import Budget
from perception_nodes.core.inference import Progress
from perception_nodes.core.statistics import percentiles
from perception_nodes.evaluation.accuracy import evaluate
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.evaluation.pareto import common_set
from perception_nodes.evaluation.roofline import Roof, network_facts
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import Model
from perception_nodes.networks.openvino_core import VARIABLE, WITHOUT_TILES
from perception_nodes.networks.two_runtimes import RUNTIMES, check_runs, noise
from perception_nodes.report.figures import figure_table
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.processes import cpu_flags, cpu_name

ROOFLINE = "roofline"
RANKS = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
WARM_UP_ROUNDS = 3
MAX_GMAC_DIFFERENCE = 0.01
BOOTSTRAP_DRAWS = 500
Say = Callable[[str], None]
TOLD_EVERY_S = 2.0


def tight_ms(calls: Iterable[Callable[[], object]]) -> Iterator[float]:
    """Time each call right after the same one, so that the caches are warm, in milliseconds."""
    for call in calls:
        call()
        yield 1e3 * timeit(call, number=1)


PACES = {"tight": tight_ms, "paced": paced_ms}


@dataclass
class _Contender:
    """A model, or the roofline of a precision, that is timed with a number of threads.

    Attributes:
        name: name of the model, or the precision.
        backend: the runtime, or `roofline`.
        threads: number of threads.
        run: runs the network once.
        times_ms: one duration for each round, by pace.
    """

    name: str
    backend: str
    threads: int
    run: Callable[[], object]
    times_ms: dict[str, list[float]] = field(default_factory=lambda: {pace: [] for pace in PACES})


def _told(say: Say, what: str) -> Progress:
    """A progress that is said in lines: the thread of a bar would disturb what is timed."""
    said_s = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said_s
        if time.monotonic() - said_s > TOLD_EVERY_S:
            said_s = time.monotonic()
            say(f"{what}: {done} of {total}")

    return told


@dataclass
class ModelsBench:
    """One comparison; see `perception bench models --help`.

    Attributes:
        models: models to compare.
        frames: timed calls of each model, for each number of threads and each pace.
        threads: numbers of threads; the headline figures are those of the first.
        data: sets to measure accuracy on; if empty, the accuracy in each model.yaml is used.
        backends: runtimes that each model is timed on, or `auto` for the one that suits it; the
            headline figures are those of the first.
    """

    models: Sequence[Model]
    frames: int
    threads: Sequence[int]
    data: Sequence[LabelledSet]
    backends: Sequence[str] = (AUTO,)

    def run(self, say: Say) -> dict[str, Any]:
        """Measure.

        Args:
            say: receives lines of progress.

        Returns:
            The JSON result.

        Raises:
            SettingsError: two models have one name, by which results are told apart.
            ModelError: a runtime refuses a model, or its output is impossible.
            Disagreement: two runtimes compute different outputs of one.
        """
        for model in self.models:
            folders = [str(other.folder) for other in self.models if other.name == model.name]
            if len(folders) > 1:
                raise SettingsError(
                    f"several models have the name {model.name}, in {' and '.join(folders)}; leave "
                    "one out, or change `name` in its model.yaml"
                )
        wanted = self._choose_instructions()
        for model in self.models:
            say(f"{model.name}: the same outputs from all runtimes?")
            names = [*dict.fromkeys((*RUNTIMES, *self._runtimes(model)))]
            check_runs(model, open_model, runtimes=names)
        load_before = os.getloadavg()[0]
        contenders = self._contenders()
        say(f"{len(contenders)} networks, {self.frames} rounds in a tight loop")
        self._time(contenders, "tight", _told(say, "in a tight loop"))
        say(f"the same at {RATE_HZ:g} Hz, {len(contenders) * self.frames / RATE_HZ:.0f} s")
        self._time(contenders, "paced", _told(say, f"at {RATE_HZ:g} Hz"))
        times_ms = {(one.name, one.backend, one.threads): one.times_ms for one in contenders}
        roofs = {
            (precision, threads): float(Roof.gmac / np.median(times["tight"]) * 1e3)
            for (precision, backend, threads), times in times_ms.items()
            if backend == ROOFLINE
        }
        entries = []
        for model in self.models:
            accuracy = model.map50_95
            if self.data:
                told = _told(say, f"{model.name}: accuracy")
                accuracy = {s.name: evaluate(model, s, progress=told).map50_95 for s in self.data}
            entries.append(
                {
                    **self._entry(model, times_ms, roofs, wanted),
                    "map50_95": accuracy,
                    "accuracy_from": "measured in this run" if self.data else "model.yaml",
                }
            )
        return {
            "machine": {
                "cpu": cpu_name(),
                "cores": os.cpu_count(),
                "int8_instructions": int8_instructions(),
                VARIABLE.lower(): os.environ[VARIABLE],
                "load_before": round(load_before, 2),
                "litert": ai_edge_litert.__version__,
                "openvino": openvino.__version__.split("-")[0],
                "onnxruntime": onnxruntime.__version__,
            },
            "frames": self.frames,
            "rate_hz": RATE_HZ,
            "inference_budget_ms": Budget().inference,
            "headline": {"backend": self.backends[0], "threads": self.threads[0], "pace": "tight"},
            "roofline_gmac_per_s": [
                {"precision": precision, "threads": threads, "value": round(value, 1)}
                for (precision, threads), value in roofs.items()
            ],
            "models": entries,
        }

    def _runtimes(self, model: Model) -> dict[str, str]:
        """What runs a model, and as which of the backends that were asked for."""
        runtimes: dict[str, str] = {}
        for asked in self.backends:
            runtimes.setdefault(runtime_for(asked, model), asked)
        return runtimes

    def _choose_instructions(self) -> dict[tuple[str, int], str]:
        """The instructions that a detector would have OpenVINO use, by model and number of threads.

        A process can only use one of them, that of the first model. Empty if the environment names
        one.
        """
        if VARIABLE in os.environ:
            return {}
        kept = str(cache_folder())
        wanted = {
            (model.name, threads): faster_instructions(model, threads, openvino.__version__, kept)
            for threads, model in product(self.threads, self.models)
            if "openvino" in self._runtimes(model)
        }
        os.environ[VARIABLE] = next(iter(wanted.values()), WITHOUT_TILES)
        return wanted

    def _contenders(self) -> list[_Contender]:
        contenders = [
            _Contender(precision, ROOFLINE, threads, Roof(precision, threads).run)
            for precision, threads in product(("int8", "fp32"), self.threads)
        ]
        for threads, model in product(self.threads, self.models):
            for name in self._runtimes(model):
                backend = open_backend(name, BackendSettings(threads))
                backend.load(model)
                infer = partial(backend.infer, smooth_image(model))
                contenders.append(_Contender(model.name, name, threads, infer))
        return contenders

    def _time(self, contenders: list[_Contender], pace: str, told: Progress) -> None:
        """Time all contenders in turns, at one of `PACES`."""
        turns = self._turns(contenders)
        times_ms = PACES[pace](turn.run for turn in turns)
        for number, (turn, time_ms) in enumerate(zip(turns, times_ms, strict=True)):
            told(number, len(turns))
            if number >= WARM_UP_ROUNDS * len(contenders):
                turn.times_ms[pace].append(time_ms)

    def _turns(self, contenders: list[_Contender]) -> list[_Contender]:
        """Each contender once a round, in random order, so that none always follows another."""
        random = np.random.default_rng(0)
        rounds = self.frames + WARM_UP_ROUNDS
        return [contenders[i] for _ in range(rounds) for i in random.permutation(len(contenders))]

    def _entry(
        self,
        model: Model,
        times_ms: Mapping[tuple[str, str, int], Mapping[str, list[float]]],
        roofs: Mapping[tuple[str, int], float],
        wanted: Mapping[tuple[str, int], str],
    ) -> dict[str, Any]:
        """The times of a model, and facts from its graph."""
        facts = network_facts(model)
        parent = next((m for m in self.models if m.name == model.parent), None)
        rival = parent if parent and parent.input == model.input else None
        runs = []
        runtimes = self._runtimes(model)
        for backend, threads, pace in product(runtimes, self.threads, PACES):
            times = times_ms[model.name, backend, threads][pace]
            run: dict[str, Any] = {"backend": backend, "threads": threads, "pace": pace}
            run |= percentiles(times, RANKS)
            run["in_time"] = round(float(np.mean(np.array(times) <= Budget().inference)), 4)
            run |= {"speedup_vs_parent": None, "speedup_interval": None}
            if rival:
                rivals = runtime_for(runtimes[backend], rival)
                run |= _speedup(times_ms[rival.name, rivals, threads][pace], times)
            runs.append(run)
        headline = runs[0]
        gmac_per_s = facts.gmac / headline["p50"] * 1e3

        def roof_of(one: Model) -> float:
            return roofs["int8" if one.precision == "int8" else "fp32", self.threads[0]]

        # The ratio if both ran at the roofline, by number and cost of multiplications.
        predicted = None
        if rival:
            rivals_s = network_facts(rival).gmac / roof_of(rival)
            predicted = round(rivals_s / (facts.gmac / roof_of(model)), 3)
        ours = os.environ[VARIABLE]
        notes = [
            f"with threads:={threads} a detector has {VARIABLE}={theirs}, which is faster; this "
            f"process had {ours} for all: measure it alone, with --threads {threads}"
            for (name, threads), theirs in wanted.items()
            if name == model.name and theirs != ours
        ]
        if model.gmac and abs(model.gmac / facts.gmac - 1) > MAX_GMAC_DIFFERENCE:
            notes.append(f"model.yaml says {model.gmac:g} GMAC, the graph has {facts.gmac:.3f}")
        if model.parent and not rival:
            why = "has another input size" if parent else "is not among the models"
            notes.append(f"its parent {model.parent} {why}")
        return {
            "name": model.name,
            "parent": model.parent,
            "precision": model.precision,
            "activation": model.activation or facts.activation,
            "input": {"width": model.input.width, "height": model.input.height},
            "size_bytes": model.path.stat().st_size,
            "gmac": round(facts.gmac, 4),
            "latency_ms": {rank: headline[rank] for rank in RANKS},
            "speedup_vs_parent": headline["speedup_vs_parent"],
            "speedup_interval": headline["speedup_interval"],
            "predicted_speedup": predicted,
            "gmac_per_s": round(gmac_per_s, 1),
            "roofline_share": round(gmac_per_s / roof_of(model), 4),
            "runs": runs,
            "notes": notes,
        }


def is_busy(machine: Mapping[str, Any]) -> bool:
    """Whether the machine had other work before the start."""
    return bool(machine["load_before"] > 0.25 * machine["cores"])


def int8_instructions() -> list[str]:
    """The instruction sets of this processor that multiply 8-bit numbers."""
    known = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    flags = cpu_flags()
    return [name for name in known if name in flags]


def smooth_image(model: Model) -> NDArray[np.uint8]:
    """A random picture as smooth as a camera frame, uint8 [height, width, 3]."""
    return noise(model.input.width, model.input.height, model.input.height // 9)


def _speedup(parent_ms: Sequence[float], child_ms: Sequence[float]) -> dict[str, Any]:
    """The ratio of the medians, and its 95 % interval by bootstrapping the rounds."""
    parent, child = np.array(parent_ms), np.array(child_ms)
    rounds = np.random.default_rng(0).integers(0, len(child), (BOOTSTRAP_DRAWS, len(child)))
    ratios = np.median(parent[rounds], axis=1) / np.median(child[rounds], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {
        "speedup_vs_parent": round(float(np.median(parent) / np.median(child)), 3),
        "speedup_interval": [round(float(low), 3), round(float(high), 3)],
    }


def result_table(result: dict[str, Any]) -> Table:
    """The result as a table for the terminal."""
    data = common_set(result["models"])
    figures = ("threads", "ms", "paced", "in time", "speed-up", "mAP")
    table = figure_table(["model", "input", "runtime"], figures)
    for model in result["models"]:
        runs = {(run["backend"], run["threads"], run["pace"]): run for run in model["runs"]}
        accuracy = model["map50_95"].get(data)
        first = [model["name"], "{width}x{height}".format(**model["input"])]
        last = ["" if accuracy is None else f"{accuracy:.3f}"]
        for backend, threads in dict.fromkeys(key[:2] for key in runs):
            tight, paced = (runs[backend, threads, pace] for pace in PACES)
            speedup = tight["speedup_vs_parent"]
            table.add_row(
                *first,
                backend,
                str(threads),
                f"{tight['p50']:.2f}",
                f"{paced['p50']:.2f}",
                f"{paced['in_time']:.0%}",
                "" if speedup is None else f"{speedup:.2f} x",
                *last,
            )
            first, last = ["", ""], [""]
    table.title = result["machine"]["cpu"]
    notes = [f"{model['name']}: {note}" for model in result["models"] for note in model["notes"]]
    table.caption = (
        f"medians in a tight loop and paced at {result['rate_hz']:g} Hz; in time: share of "
        f"the paced calls within {result['inference_budget_ms']:g} ms, which "
        "leaves the other stages their part of "
        f"{Budget().deadline_ms:g} ms; mAP50-95 on {data or 'no set'}"
    ) + "".join(f"\n{escape(note)}" for note in notes)
    return table
