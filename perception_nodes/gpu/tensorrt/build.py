"""Building an engine from an ONNX file, once per machine; TensorRT-RTX needs no GPU for it."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_nodes.core.inference import BackendError, Progress
from perception_nodes.gpu.tensorrt.layers import ConvolutionTypes, convolutions
from perception_nodes.gpu.tensorrt.library import Library, make_log, start

FLAGS = "strongly typed, memory by the user"
"""Options of the builder; part of an engine's name in the cache."""
STEPS = 1000


@dataclass(frozen=True)
class Built:
    """Results of a build.

    Attributes:
        plan: the serialized engine.
        timing: timings of kernels, for the next build.
        convolutions: the engine's convolutions, if the builder lists them.
    """

    plan: bytes
    timing: bytes
    convolutions: list[ConvolutionTypes]


def build(
    library: Library, onnx: Path, sm: int = 0, timing: bytes = b"", progress: Progress | None = None
) -> Built:
    """Build an engine.

    The network is strongly typed: the QuantizeLinear and DequantizeLinear nodes of the file decide
    on precision.

    Args:
        library: TensorRT library that builds and will run the engine.
        onnx: the network.
        sm: compute capability of the target GPU, 89 for 8.9; 0 for the GPU of this machine, the
            only one that TensorRT itself builds for.
        timing: timings of an earlier build; ignored if they do not fit.
        progress: called during the build.

    Raises:
        BackendError: the file or the GPU is refused.
    """
    trt, log = library.module, make_log(library, keep_all=True)
    builder = start(library, "Builder", log)
    # From TensorRT 11 on, strong typing is the default, and its flag may be absent.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise BackendError(f"{library.name} refuses {onnx}: {'; '.join(errors)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if library.for_rtx:
        # Build for a single GPU: for several, kernels would be chosen only when the engine runs.
        _target(library, config, sm)
        # Otherwise the engine may allocate while it runs, and no graph of it can be captured.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    else:
        cache = config.create_timing_cache(timing)
        if cache is None or not config.set_timing_cache(cache, False):  # it does not fit
            config.set_timing_cache(config.create_timing_cache(b""), False)
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    if (plan := builder.build_serialized_network(network, config)) is None:
        raise BackendError(f"{library.name} cannot build {onnx}: {log.last_error()}")
    if progress is not None:
        progress(STEPS, STEPS)
    kept = b"" if library.for_rtx else bytes(config.get_timing_cache().serialize())
    return Built(bytes(plan), kept, convolutions(log.lines))


def _target(library: Library, config: Any, sm: int) -> None:
    """Let TensorRT-RTX build for one GPU."""
    known = library.module.ComputeCapability
    target = getattr(known, f"SM{sm}" if sm else "CURRENT", None)
    config.num_compute_capabilities = 1
    if target is None or not config.set_compute_capability(target, 0):
        names = ", ".join(sorted(name for name in vars(known) if name.startswith("SM")))
        raise BackendError(f"{library.name} does not build for SM{sm}; it does for {names}")


def _monitor(trt: Any, progress: Progress) -> Any:
    """A progress monitor for a build, which consists of nested phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.phases: dict[str, tuple[str | None, int, int]] = {}
            self.shown = 0
            self.lock = threading.Lock()  # several threads report, out of order

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self.lock:
                self.phases[name] = (parent, steps, 0)

        def step_complete(self, name: str, step: int) -> bool:
            with self.lock:
                if name not in self.phases:  # a phase may be finished before its last steps
                    return True
                parent, steps, _ = self.phases[name]
                self.phases[name] = (parent, steps, step + 1)
                outermost = (one for one, (of, *_) in self.phases.items() if of is None)
                whole = max(map(self.share, outermost), default=0.0)
                # Progress must not go back.
                self.shown = max(self.shown, round(STEPS * whole))
                progress(self.shown, STEPS)
                return True

        def phase_finish(self, name: str) -> None:
            with self.lock:
                self.phases.pop(name, None)

        def share(self, name: str) -> float:
            """Completed share of a phase, including its inner phases."""
            _, steps, done = self.phases[name]
            inner = [self.share(one) for one, (of, *_) in self.phases.items() if of == name]
            return min(1.0, (done + max(inner, default=0.0)) / max(1, steps))

    return Monitor()
