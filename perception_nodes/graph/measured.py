"""Parameters that a measurement on this machine decides: `model:=auto` and `threads:=auto`."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.backends.contract import INSTALL
from perception_nodes.backends.delegate import DELEGATE
from perception_nodes.backends.instructions import VARIABLE
from perception_nodes.backends.pace import RATE_HZ, apart_ms
from perception_nodes.core.budget import Budget
from perception_nodes.graph.config import AUTO_THREADS
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import load_model
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.load import busy
from perception_nodes.system.processes import physical_cores, speed_facts

FAMILY = (("road-s", AUTO), ("road-s", "openvino"), ("road-n", AUTO))
"""Models and their runtimes, from the most accurate one to the fastest one, which is taken if none
keeps its budget. LiteRT has fewer slow frames; OpenVINO is the faster one on some processors."""
FRAMES = 150
"""Timed frames, five seconds: the p99 is about the second longest time."""
MEASURED = ("auto", "openvino", "onnxruntime", "litert")
"""Backends whose times depend on the processor and their version alone, and on a delegate."""
Say = Callable[[str], None]


def measured(values: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """The parameters of a graph that are automatic, with the values that this machine gives them.

    Each number of threads and each model is timed once on a machine, without the graph beside it;
    the times are kept in the cache folder.

    Args:
        values: parameters of the detector and of preprocessing.
        say: receives lines of progress and the choices.

    Raises:
        SettingsError: a fallback model is named with `model:=auto`, which must have the same input;
            or there are several cameras, or a device whose time depends on more than is known here.
        BackendError: the runtime refuses the model.
    """
    automatic = [
        f"{name}:={AUTO}"
        for name, value in (("model", AUTO), ("threads", AUTO_THREADS))
        if values[name] == value
    ]
    if not automatic:
        return {}
    for name, is_allowed in (
        ("fallback_model", not values["fallback_model"] or values["model"] != AUTO),
        ("cameras", not values["cameras"]),
        ("backend", values["backend"] in MEASURED),
    ):
        if not is_allowed:
            raise SettingsError(
                f"{' and '.join(automatic)} cannot be measured with {name}:={values[name]}; name "
                "the value"
            )
    limit_ms = Budget.for_deadline(values["deadline_ms"]).inference
    tries = {(values["model"], values["backend"]): None}
    if values["model"] == AUTO:
        named = values["backend"]
        tries = dict.fromkeys((one, own if named == AUTO else named) for one, own in FAMILY)
    for model, backend in tries:
        chosen = {**values, "model": model, "backend": backend}
        if values["threads"] == AUTO_THREADS:
            chosen["threads"] = _best_threads(chosen, say)
        if values["model"] != AUTO:
            break
        p99_ms = _p99_ms(chosen, say)
        keeps = "keeps" if p99_ms <= limit_ms else "does not keep"
        say(
            f"model:=auto: {model} by backend:={backend} has a p99 of {p99_ms:.1f} ms and {keeps} "
            f"{limit_ms:.1f} ms"
        )
        if p99_ms <= limit_ms:
            break
    found = {name: chosen[name] for name in ("model", "backend", "threads")}
    say(" ".join(f"{name}:={value}" for name, value in found.items()) + ", measured here")
    return found


def _best_threads(values: Mapping[str, Any], say: Say) -> int:
    """The number of threads with the lowest p99 while every processor has other work.

    On a quiet machine more threads are always better; beside other work each layer waits for the
    thread whose processor is the busiest.
    """
    cores = physical_cores()
    p99_ms = {
        count: _p99_ms({**values, "threads": count}, say, loaded=True)
        for count in sorted({*(1 << n for n in range(cores.bit_length())), cores})
    }
    listed = ", ".join(f"{count}: {time_ms:.1f}" for count, time_ms in p99_ms.items())
    say(f"threads:=auto: p99 in ms beside other work, by number of threads: {listed}")
    return min(p99_ms, key=p99_ms.__getitem__)


def _p99_ms(values: Mapping[str, Any], say: Say, loaded: bool = False) -> float:
    """The p99 of a model's inference, as measured now or before."""
    model = load_model(values["model"], values["model_key"])
    backend = runtime_for(values["backend"], model)
    settings = [values[name] for name in ("threads", "cpus", "fifo_priority")]
    key = f"{model.digest} {backend} {_version(backend)} {settings} {speed_facts()}"
    key += f" {[os.environ.get(name, '') for name in (DELEGATE, VARIABLE)]}" + " loaded" * loaded
    kept, known = cache_folder() / "paced_p99_ms.json", {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(kept.read_text(encoding="utf-8")))
    if not isinstance(known.get(key), float):
        beside = f", {values['threads']} threads, beside other work" if loaded else ""
        seconds = f"{FRAMES / RATE_HZ:.0f} s"
        say(f"measuring {model.name} by {backend}{beside}: {seconds}, once on this machine")
        threads, *realtime = settings
        with busy(sorted(os.sched_getaffinity(0))) if loaded else nullcontext():
            times_ms = apart_ms(values["model"], backend, threads, FRAMES, *realtime)
        known[key] = float(np.percentile(times_ms, 99))
        with suppress(OSError):  # then it is measured again next time
            write_whole(kept, json.dumps(known, indent=1))
    return float(known[key])


def _version(backend: str) -> str:
    """The version of a runtime; empty if it is not installed, which its opening will tell."""
    try:
        return version(INSTALL[backend])
    except PackageNotFoundError:
        return ""
