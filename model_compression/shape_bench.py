"""Which plain networks do the most work in a given time, on each target.

Speed depends on the shape and not on the weights, so it is known before any training. Random 8-bit
networks of channels and depths at strides 4 to 32 are timed on every target, in turns and at a
camera's pace; a latency model is fitted to them, and shown with its error on networks that it was
not fitted to. It ranks every network of the space; the best are measured, too, and marked where
that is above the budget. All times are medians; for an FPGA they are those of its compiler's cycle
model. `perception model compress` trains what was found, as `network:` of a configuration.
"""

import argparse
import hashlib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from model_compression.export import export
from model_compression.latency import FEATURES, GMAC, LEAST_NETWORKS, features, fit, left_out_errors
from model_compression.package import interface
from model_compression.plain import PlainNetwork
from model_compression.quantization import emit
from model_compression.quantization.graph import read_layout
from model_compression.quantization.ranges import Observation, table_of
from model_compression.shapes import CLASSES, Candidate, space
from model_compression.targets import Steps, check_target, times_of, usual_targets
from perception_nodes.cli.common import check_writable, give, progress_bars, say_problem
from perception_nodes.core.budget import Budget
from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.inference import BackendError
from perception_nodes.evaluation.models import is_busy
from perception_nodes.system.processes import cpu_name, physical_cores
from perception_nodes.system.signals import STOPPING, handled_stopping

AMAX = 4.0
ACTIVATION = "relu"


@dataclass(frozen=True)
class ShapeBench:
    """One search; see `python -m model_compression.shape_bench --help`.

    Attributes:
        targets: what runs the networks.
        sizes: width and height of inputs.
        budget_ms: time that the median of a network's inference may take.
        networks: to fit the latency models to.
        best: networks to measure for each target and size.
        threads: of inference; 0 for one per physical core.
        rounds: timed calls of each network.
    """

    targets: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    budget_ms: float
    networks: int
    best: int
    threads: int
    rounds: int

    def run(self, progress: Steps) -> dict[str, Any]:
        """Measure, fit, search and measure again.

        Args:
            progress: is told what is done, how much of it, and its total.

        Returns:
            The JSON result.

        Raises:
            BackendError: a runtime refuses a network, or an engine holds too few to fit to.
        """
        load = os.getloadavg()[0]
        spaces = [space(*size) for size in self.sizes]
        random = np.random.default_rng(0)
        known = [s[random.integers(len(s))] for _ in range(self.networks) for s in spaces]
        known = known[: self.networks]
        times_ms = self._measured(known, "fit", progress)
        rows = np.array([features(one.layers()) for one in known])
        fits, found = [], []
        for target, target_ms in zip(self.targets, times_ms, strict=True):
            kept = np.isfinite(target_ms)
            if kept.sum() < LEAST_NETWORKS:
                raise BackendError(
                    f"{target} holds {kept.sum()} of the {len(known)} networks, and a fit needs "
                    f"{LEAST_NETWORKS}: take smaller --sizes, or leave the target out"
                )
            fits.append(fit(rows[kept], target_ms[kept]))
            found.append(left_out_errors(rows[kept], target_ms[kept]))
        chosen = []
        for number, candidates in enumerate(spaces):
            space_rows = np.array([features(one.layers()) for one in candidates])
            gmac = space_rows[:, GMAC].sum(axis=1)
            for row, law in enumerate(fits):
                predicted_ms = space_rows @ law
                best = most_work(candidates, gmac, predicted_ms, self.budget_ms, self.best)
                chosen += [(row, candidates[i], float(predicted_ms[i])) for i in best]
            progress("search, sizes", number + 1, len(spaces))
        checked = list(dict.fromkeys(candidate for _, candidate, _ in chosen))
        checked_ms = self._measured(checked, "check", progress)
        return {
            "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load_before": round(load, 2)},
            "threads": self.threads or physical_cores(),
            "budget_ms": self.budget_ms,
            "fits": [
                {
                    "target": target,
                    "networks": len(errors),
                    "measured_ms": [round(float(t), 3) for t in np.nanpercentile(ms, [0, 100])],
                    "median_error": round(float(np.median(np.abs(errors))), 4),
                    "largest_error": round(float(np.abs(errors).max()), 4),
                    "ms_for_one": dict(
                        zip(FEATURES, (round(float(c), 4) for c in law), strict=True)
                    ),
                }
                for target, ms, law, errors in zip(self.targets, times_ms, fits, found, strict=True)
            ],
            "found": [
                {
                    "target": self.targets[row],
                    "width": one.width,
                    "height": one.height,
                    "widths": one.shape.widths,
                    "depths": one.shape.depths,
                    "gmac": round(one.gmac, 3),
                    "predicted_ms": round(predicted, 3),
                    "measured_ms": _number(checked_ms[row, checked.index(one)]),
                }
                for row, one, predicted in chosen
            ],
        }

    def _measured(
        self, candidates: Sequence[Candidate], what: str, progress: Steps
    ) -> NDArray[np.float64]:
        def step(name: str, done: int, total: int) -> None:
            progress(f"{what}, {name}", done, total)

        with TemporaryDirectory() as scratch:
            folders = []
            for number, candidate in enumerate(candidates):
                folders.append(write_untrained(candidate, Path(scratch) / str(number)))
                step("making networks", number + 1, len(candidates))
            return times_of(folders, self.targets, self.threads, self.rounds, step)


def most_work(
    candidates: Sequence[Candidate],
    gmac: NDArray[np.float64],
    predicted_ms: NDArray[np.float64],
    budget_ms: float,
    best: int,
) -> list[int]:
    """The networks of the most multiply-accumulates within a budget, each of other widths.

    Args:
        candidates: to choose from.
        gmac: their work, [candidates].
        predicted_ms: their times, [candidates].
        budget_ms: the longest time.
        best: how many at most.

    Returns:
        Indices, the most work first; none if nothing is fast enough.
    """
    chosen: dict[tuple[int, ...], int] = {}
    for index in np.lexsort((predicted_ms, -gmac)):
        if predicted_ms[index] <= budget_ms:
            chosen.setdefault(candidates[index].shape.widths, int(index))
    return list(chosen.values())[:best]


def write_untrained(candidate: Candidate, folder: Path) -> Path:
    """Write a network of random weights as a model folder, to be timed.

    Speed does not depend on values, so its ranges are not measured, and not what it would need.
    """
    folder.mkdir()
    size_px = candidate.width, candidate.height
    network = PlainNetwork(candidate.shape, ACTIVATION, CLASSES)
    graph = export(network, folder / "float.onnx", size_px)
    layout = read_layout(graph)
    largest = dict.fromkeys([*(group[0] for group in layout.groups), *layout.outputs], AMAX)
    seen = Observation(layout, (), largest, dict.fromkeys(largest, np.zeros(0, np.int64)))
    path = folder / "untrained.u8.onnx"
    onnx.save(emit(graph, table_of(graph, seen, "untrained", method="max"), "u8"), path)
    classes = [f"class{number}" for number in range(CLASSES)]
    description = {
        "name": "untrained",
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        **interface(size_px, classes),
        "precision": "int8",
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return folder


def result_tables(result: dict[str, Any]) -> Group:
    """The result as tables for the terminal."""
    fits = Table("target", "networks", "ms", "median error", "largest", box=SIMPLE_HEAD)
    fits.title = f"latency models on {result['machine']['cpu']}"
    fits.caption = "errors for networks that were left out of the fit"
    for one in result["fits"]:
        fits.add_row(
            one["target"],
            str(one["networks"]),
            "{:.1f} to {:.1f}".format(*one["measured_ms"]),
            f"{one['median_error']:.1%}",
            f"{one['largest_error']:.1%}",
        )
    columns = ("target", "input", "channels", "depths", "GMAC", "predicted", "measured")
    found = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    found.title = f"the most work in {result['budget_ms']:g} ms, times in ms"
    for one in result["found"]:
        measured_ms = one["measured_ms"]
        found.add_row(
            one["target"],
            f"{one['width']}x{one['height']}",
            "-".join(map(str, one["widths"])),
            "-".join(map(str, one["depths"])),
            f"{one['gmac']:.2f}",
            f"{one['predicted_ms']:.2f}",
            _told(measured_ms, result["budget_ms"]),
        )
    found.caption = "medians; where an input is missing, no network is fast enough"
    if is_busy(result["machine"]):
        load = result["machine"]["load_before"]
        found.caption += f"; the machine was busy (load {load:g} before the start)"
    return Group(fits, found)


def _told(measured_ms: float | None, budget_ms: float) -> str:
    if measured_ms is None:
        return "too large"
    return f"{measured_ms:.2f}" + " (above)" * (measured_ms > budget_ms)


def _number(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    given = _parser().parse_args(arguments)
    bench = ShapeBench(
        given.targets or usual_targets(),
        given.sizes,
        given.budget_ms,
        given.networks,
        given.best,
        given.threads,
        given.rounds,
    )
    try:
        check_writable(given.out, "--out")
        for target in bench.targets:
            check_target(target)
        with handled_stopping(_stop), progress_bars() as progress:
            result = bench.run(progress)
        give(result, result_tables(result), as_json=False, out=given.out)
    except (PerceptionError, OSError) as error:
        say_problem("error", error)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument(
        "--targets",
        type=lambda text: list(dict.fromkeys(text.split(","))),
        help="what the networks shall run on, with commas: litert, openvino, openvino:INSTRUCTIONS "
        "with those of ONEDNN_MAX_CPU_ISA that the processor has (AVX2, AVX512_CORE_VNNI, "
        "AVX512_CORE_FP16, or ALL for AMX too), fpga:512, fpga:1024. By default litert, openvino "
        "(without AMX), openvino:ALL and openvino:AVX2 where the processor has them, fpga:512. A "
        "detector has the faster one of openvino and openvino:ALL",
    )
    sizes = "input sizes, WIDTHxHEIGHT in multiples of 32, with commas"
    parser.add_argument("--sizes", type=_sizes, default="416x256,640x384", help=sizes)
    for name, low, high, default, text in (
        ("--networks", 16, 200, 32, "random networks to fit the latency models to"),
        ("--best", 1, 20, 2, "networks to measure for each target and size"),
        ("--threads", 0, 256, 0, "threads for inference; 0: one per physical core"),
        ("--rounds", 3, 1000, 15, "timed calls of each network on each target"),
    ):
        kind = _between(int, low, high)
        parser.add_argument(name, type=kind, default=default, metavar="N", help=text)
    parser.add_argument(
        "--budget-ms",
        type=_between(float, 0.1, 1000),
        default=Budget().inference,
        metavar="MS",
        help="time that the median of inference may take; its p99 is longer: leave a margin",
    )
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    return parser


def _between(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low:g} to {high:g}")
        return value

    read.__name__ = "number"
    return read


def _sizes(text: str) -> list[tuple[int, int]]:
    sizes = [tuple(map(int, one)) for one in re.findall(r"(\d{2,4})x(\d{2,4})", text)]
    again = ",".join(f"{width}x{height}" for width, height in sizes)
    if again != text or any(side % 32 for size in sizes for side in size):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form 416x256,640x384, in multiples of 32"
        )
    return [(width, height) for width, height in sizes]


def _stop(number: int, _: object) -> None:
    """End in good order; no further signal cuts that short."""
    for one in STOPPING:
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
