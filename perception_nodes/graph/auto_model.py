"""`model:=auto`: the most accurate of our models that keeps its budget on this machine."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np

from perception_nodes.backends.model import load_model
from perception_nodes.backends.pace import RATE_HZ, apart_ms
from perception_nodes.core.budget import Budget
from perception_nodes.graph.config import SettingsError
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.processes import cpu_name

AUTO = "auto"
FAMILY = ("road-s", "road-n")
"""From the most accurate one to the fastest one, which is taken if none keeps its budget."""
SETTINGS = ("threads", "cpus", "fifo_priority")
FRAMES = 150
"""Timed frames, five seconds: the p99 is about the second longest time."""
MEASURED = ("openvino", "onnxruntime")
"""Backends whose times depend on the processor and their version alone."""


def fitting_model(values: Mapping[str, Any], say: Callable[[str], None]) -> str:
    """The most accurate model whose p99 keeps the share of the deadline that inference has.

    Each model is measured once on a machine, without the graph beside it; the times are kept in the
    cache folder.

    Args:
        values: parameters of the detector and of preprocessing.
        say: receives lines of progress and the choice.

    Raises:
        SettingsError: a fallback model is named, which must have the same input; or there are
            several cameras, or a device whose time depends on more than is known here.
        BackendError: the runtime refuses the model.
    """
    for name, is_allowed in (
        ("fallback_model", not values["fallback_model"]),
        ("cameras", not values["cameras"]),
        ("backend", values["backend"] in MEASURED),
    ):
        if not is_allowed:
            raise SettingsError(
                f"parameter model: auto is not allowed with {name}:={values[name]}; name a model"
            )
    limit_ms = Budget.for_deadline(values["deadline_ms"]).inference
    for name in FAMILY:
        p99_ms = _p99_ms(name, values, say)
        if p99_ms <= limit_ms:
            break
    keeps = "keeps" if p99_ms <= limit_ms else "is the fastest, but misses"
    say(f"model:=auto is {name}: p99 {p99_ms:.1f} ms {keeps} the {limit_ms:.1f} ms of inference")
    return name


def _p99_ms(name: str, values: Mapping[str, Any], say: Callable[[str], None]) -> float:
    """The p99 of a model's inference, as measured now or before."""
    backend, settings = values["backend"], [values[name] for name in SETTINGS]
    key = f"{load_model(name).sha256} {backend} {version(backend)} {settings} {cpu_name()}"
    kept, known = cache_folder() / "paced_p99_ms.json", {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(kept.read_text(encoding="utf-8")))
    if not isinstance(known.get(key), float):
        say(f"model:=auto: measuring {name}, {FRAMES / RATE_HZ:.0f} s, once on this machine")
        threads, *realtime = settings
        known[key] = float(np.percentile(apart_ms(name, backend, threads, FRAMES, *realtime), 99))
        with suppress(OSError):  # then it is measured again next time
            write_whole(kept, json.dumps(known, indent=1))
    return float(known[key])
