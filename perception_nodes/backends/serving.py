"""The models that serve frames: in the wanted backend, or in a stand-in while that is built."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from timeit import repeat
from typing import cast

import numpy as np

from perception_nodes.backends import contract
from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.backends.building import Building, build_command
from perception_nodes.backends.in_place import in_place
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import FrameHeader, ImageView
from perception_nodes.core.inference import BackendError, BatchBackend, Candidate, InPlaceBackend
from perception_nodes.networks.model import Model
from perception_nodes.preprocess.placement import Placement

STAND_IN = AUTO
"""Backend that serves during a build: it runs on every machine that the graph runs on."""
TIMED_CALLS = 10
"""Calls timed at start: so many that starting nodes leave at least one undisturbed."""


class LoadedModels:
    """Models loaded in one backend.

    Attributes:
        backend: the one that the best model runs on.
        candidates: the loaded models for the pipeline, in the given order.
        descriptions: one line for each model, for people.
    """

    def __init__(
        self,
        backend: str,
        models: Sequence[Model],
        settings: contract.BackendSettings,
        decode: DecodeSettings,
        in_place_cameras: Sequence[str],
    ) -> None:
        """Load all models, and measure what each costs.

        Args:
            backend: name of the backend.
            models: the best one first.
            settings: settings of the backend.
            decode: thresholds of the decoder.
            in_place_cameras: cameras whose frames are read in place; empty if slots have pixels.

        Raises:
            NotBuilt: a model must be built first, and the settings do not allow it.
            BackendError: the backend is not installed, or refuses a model.
        """
        self.backend = runtime_for(backend, models[0])
        self.candidates: list[Candidate] = []
        self.descriptions: list[str] = []
        with ExitStack() as closing:
            for model in models:
                # Only the best model runs on several images at once.
                own = settings if model is models[0] else replace(settings, max_batch=1)
                opened = contract.open_backend(runtime_for(backend, model), own)
                closing.callback(opened.close)
                info, reader = opened.load(model), None
                if in_place_cameras:
                    reader = in_place(opened, model, decode, in_place_cameras)
                    closing.callback(reader.close)
                    together = in_place_cameras[: min(own.max_batch, reader.max_batch)]
                    calls_ns = _shortest_in_place_ns(reader, model, together)
                else:
                    calls_ns = _shortest_calls_ns(opened, model, info.max_batch)
                decoder, several = model.decoder(decode), cast(BatchBackend, opened)
                self.candidates.append(
                    Candidate(
                        model.name, opened, decoder, calls_ns[0], several, calls_ns[1:], reader
                    )
                )
                self.descriptions.append(_description(model, info, calls_ns))
            self._closing = closing.pop_all()

    def close(self) -> None:
        """Free the runtimes' memory."""
        self._closing.close()


class Serving:
    """Models that can run now, and are replaced once a build has finished.

    Attributes:
        standing_in: why these models replace the wanted ones; empty if they are the wanted ones.
    """

    def __init__(
        self,
        backend: str,
        models: Sequence[Model],
        settings: contract.BackendSettings,
        decode: DecodeSettings,
        log: Callable[[str], object],
        in_place_cameras: Sequence[str] = (),
    ) -> None:
        """Load models; if they must be built first, load them into the stand-in and start a build.

        Raises:
            BackendError: a backend is not installed, or refuses a model.
        """
        self._backend, self._log, self._models, self._decode = backend, log, models, decode
        self._building: Building[LoadedModels] | None = None
        self._outcome: LoadedModels | BackendError | None = None
        self.standing_in = ""
        load = partial(
            LoadedModels, models=models, decode=decode, in_place_cameras=in_place_cameras
        )
        try:
            self._loaded = load(backend, settings=settings)
        except contract.NotBuilt as error:
            # On the CPU, frames that are read in place are inferred one at a time.
            stand_in = replace(settings, max_batch=1) if in_place_cameras else settings
            self._loaded = load(STAND_IN, settings=stand_in)
            log(f"{error}; it is being built, and {self.backend} stands in")
            self.standing_in = f"{self.backend} stands in while {backend} is being built"
            command = build_command(backend, [model.folder for model in models], settings)
            self._building = Building(command, partial(load, backend, settings=settings))
        self._describe()

    @property
    def candidates(self) -> list[Candidate]:
        """The loaded models for the pipeline, the best one first."""
        return self._loaded.candidates

    @property
    def backend(self) -> str:
        """The backend that serves now."""
        return self._loaded.backend

    def decode_with(self, decode: DecodeSettings) -> None:
        """Use other thresholds from now on; for models that read frames in place it is too late."""
        self._decode = decode
        for candidate, model in zip(self.candidates, self._models, strict=True):
            candidate.decoder = model.decoder(decode)

    def ready(self) -> bool:
        """Whether a build has ended, successfully or not, so that `switch` must be called."""
        if self._building is not None and self._outcome is None:
            try:
                self._outcome = self._building.poll()
            except BackendError as error:
                self._outcome = error
        return self._outcome is not None

    def switch(self) -> None:
        """Serve with the models that were built, or log why the build failed.

        Call it between two frames: the old models are closed, which takes a moment.
        """
        ready, self._outcome = self._outcome, None
        if self._building is not None:
            self._building.close()
            self._building = None
        if isinstance(ready, BackendError):
            self.standing_in = f"{self.backend} stands in, {self._backend} cannot be built: {ready}"
            self._log(self.standing_in)
        elif ready is not None:
            before, self._loaded, self.standing_in = self._loaded, ready, ""
            self.decode_with(self._decode)
            before.close()
            self._log(f"{self._backend} is built and takes over from {before.backend}")
            self._describe()

    def close(self) -> None:
        """Kill a running build and free the models."""
        if self._building is not None and (built := self._building.close()) is not None:
            built.close()
        self._loaded.close()

    def _describe(self) -> None:
        for line in self._loaded.descriptions:
            self._log(line)


def _shortest_calls_ns(backend: contract.Backend, model: Model, max_batch: int) -> list[int]:
    """Durations of calls of the backend with 1, 2, ... black frames."""
    image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
    several = cast(BatchBackend, backend)
    batches = [[image] * size for size in range(2, max_batch + 1)]
    return [
        _shortest_ns(partial(backend.infer, image)),
        *(_shortest_ns(partial(several.infer_batch, batch)) for batch in batches),
    ]


def _shortest_in_place_ns(
    reader: InPlaceBackend, model: Model, cameras: Sequence[str]
) -> list[int]:
    """Durations of calls with black frames of 1, 2, ... cameras, of the network's size."""
    size = model.input.width, model.input.height
    image = ImageView.of_pixels(np.zeros((*size[::-1], 3), np.uint8))
    frames = []
    for camera in cameras:
        header = FrameHeader(camera=camera.encode())
        Placement.fit(size, size, None).describe(header, 0)
        reader.prepare(header, image)
        frames.append((header, image))
    return [_shortest_ns(partial(reader.infer, frames[:n])) for n in range(1, len(frames) + 1)]


def _shortest_ns(call: Callable[[], object]) -> int:
    """The shortest duration of `TIMED_CALLS` calls."""
    return round(1e9 * min(repeat(call, number=1, repeat=TIMED_CALLS)))


def _description(model: Model, info: contract.BackendInfo, calls_ns: Sequence[int]) -> str:
    times = [f"{calls_ns[0] / 1e6:.1f} ms"]
    times += [f"{size} at once {ns / 1e6:.1f}" for size, ns in enumerate(calls_ns[1:], 2)]
    return (
        f"{model.name} ({model.precision}, {model.input.width}x{model.input.height}) on "
        f"{info.runtime}, {info.device}, {info.threads} threads: {', '.join(times)}"
    )
