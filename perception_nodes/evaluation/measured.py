"""Parameters that a measurement on this machine decides: `model:=auto` and `threads:=auto`."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.backends.contract import INSTALL
from perception_nodes.backends.delegate import DELEGATE
from perception_nodes.backends.pace import RATE_HZ, apart_ms
from perception_nodes.core.budget import Budget
from perception_nodes.graph.config import AUTO_THREADS, ON_CPU, DetectorSettings, WatchdogSettings
from perception_nodes.graph.resolve import GraphSettings
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import load_model
from perception_nodes.networks.openvino_core import VARIABLE
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.load import busy
from perception_nodes.system.processes import physical_cores, speed_facts

FAMILY = (("road-s", AUTO), ("road-s", "openvino"), ("road-n", AUTO))
"""Models and their runtimes, from the most accurate one to the fastest one, which is taken if none
keeps its budget. LiteRT has fewer slow frames; OpenVINO is the faster one on some processors."""
FRAMES = 150
"""Timed frames, five seconds: the p99 is about the second longest time."""
Say = Callable[[str], None]


def measured(settings: GraphSettings, say: Say) -> dict[str, Any]:
    """The parameters of a graph that are automatic, with the values that this machine gives them.

    Each number of threads and each model is timed once on a machine, without the graph beside it;
    the times are kept in the cache folder.

    Args:
        settings: of the nodes.
        say: receives lines of progress and the choices.

    Raises:
        SettingsError: a fallback model is named with `model:=auto`, which must have the same input;
            or there are several cameras, or a device whose time depends on more than is known here.
        BackendError: the runtime refuses the model.
    """
    given = settings.of(DetectorSettings)
    is_any_model, is_any_number = given.model == AUTO, given.threads == AUTO_THREADS
    if not (is_any_model or is_any_number):
        return {}
    for name, is_allowed in (
        ("fallback_model", given.fallback_model in ("auto", "none") or not is_any_model),
        ("cameras", not given.cameras),
        ("backend", given.backend in ON_CPU),
    ):
        if not is_allowed:
            wanted = ["model:=auto"] * is_any_model + ["threads:=auto"] * is_any_number
            raise SettingsError(
                f"{' and '.join(wanted)} cannot be measured with {name}:={getattr(given, name)}; "
                "name the value"
            )
    limit_ms = Budget.for_deadline(settings.of(WatchdogSettings).deadline_ms).inference
    tries = {(given.model, str(given.backend)): None}
    if is_any_model:
        of_any = given.backend == AUTO
        tries = {(model, own if of_any else str(given.backend)): None for model, own in FAMILY}
    for model, backend in tries:
        chosen = given.model_copy(update={"model": model, "backend": backend})
        if is_any_number:
            chosen = chosen.model_copy(update={"threads": _best_threads(chosen, say)})
        if not is_any_model:
            break
        p99_ms = _p99_ms(chosen, say)
        keeps = "keeps" if p99_ms <= limit_ms else "does not keep"
        say(
            f"model:=auto: {model} by backend:={backend} has a p99 of {p99_ms:.1f} ms and {keeps} "
            f"{limit_ms:.1f} ms"
        )
        if p99_ms <= limit_ms:
            break
    found = chosen.model_dump(include={"model", "backend", "threads"})
    say(" ".join(f"{name}:={value}" for name, value in found.items()) + ", measured here")
    return found


def _best_threads(settings: DetectorSettings, say: Say) -> int:
    """The number of threads with the lowest p99 while every processor has other work.

    On a quiet machine more threads are always better; beside other work each layer waits for the
    thread whose processor is the busiest.
    """
    cores = physical_cores()
    p99_ms = {
        count: _p99_ms(settings.model_copy(update={"threads": count}), say, loaded=True)
        for count in sorted({*(1 << n for n in range(cores.bit_length())), cores})
    }
    listed = ", ".join(f"{count}: {time_ms:.1f}" for count, time_ms in p99_ms.items())
    say(f"threads:=auto: p99 in ms beside other work, by number of threads: {listed}")
    return min(p99_ms, key=p99_ms.__getitem__)


def _p99_ms(settings: DetectorSettings, say: Say, loaded: bool = False) -> float:
    """The p99 of a model's inference, as measured now or before."""
    model = load_model(settings.model, settings.model_key)
    backend = runtime_for(settings.backend, model)
    threads, cpus, fifo_priority = settings.threads, settings.cpus, settings.fifo_priority
    key = f"{model.digest} {backend} {_version(backend)} {[threads, cpus, fifo_priority]}"
    key += f" {speed_facts()} {[os.environ.get(name, '') for name in (DELEGATE, VARIABLE)]}"
    key += " loaded" * loaded
    kept, known = cache_folder() / "paced_p99_ms.json", {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(kept.read_text(encoding="utf-8")))
    if not isinstance(known.get(key), float):
        beside = f", {threads} threads, beside other work" if loaded else ""
        seconds = f"{FRAMES / RATE_HZ:.0f} s"
        say(f"measuring {model.name} by {backend}{beside}: {seconds}, once on this machine")
        with busy(sorted(os.sched_getaffinity(0))) if loaded else nullcontext():
            times_ms = apart_ms(settings.model, backend, threads, FRAMES, cpus, fifo_priority)
        known[key] = float(np.percentile(times_ms, 99))
        with suppress(OSError):  # it is measured again next time
            write_whole(kept, json.dumps(known, indent=1))
    return float(known[key])


def _version(backend: str) -> str:
    """The version of a runtime; empty if it is not installed, which an error reports later."""
    try:
        return version(INSTALL[backend])
    except PackageNotFoundError:
        return ""
