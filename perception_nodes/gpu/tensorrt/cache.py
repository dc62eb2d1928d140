"""A cache of engines, keyed by what they were made from.

An engine fits one network, one version of the runtime, one GPU and one driver. A hash of all these
is in its file name, so after an update a different file is looked for and no old one is tried. A
file appears complete, by renaming, and is sealed with its key; a damaged engine is built again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from perception_nodes.core.inference import BackendError
from perception_nodes.system.environment import writing_cache
from perception_nodes.system.files import read_sealed, write_sealed, write_whole


@dataclass(frozen=True)
class EngineKey:
    """What an engine was made from.

    Attributes:
        model: name of the model, for people.
        onnx_sha256: hash of the network's file.
        library: the runtime with its version.
        gpu: name of the GPU.
        sm: compute capability of the GPU, 89 for 8.9.
        driver: version of the driver, as exactly as it is known.
        precision: precision of the model.
        flags: other options of the builder.
    """

    model: str
    onnx_sha256: str
    library: str
    gpu: str
    sm: int
    driver: str
    precision: str
    flags: str

    @property
    def facts(self) -> bytes:
        """The whole key as JSON, with which the files are sealed."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @property
    def name(self) -> str:
        """Name of this engine's files, without suffix."""
        return f"{self.model}-{hashlib.sha256(self.facts).hexdigest()[:16]}"

    @property
    def machine(self) -> str:
        """Name of the file with kernel timings, without suffix; they fit every network."""
        facts = json.dumps([self.library, self.gpu, self.sm, self.driver]).encode()
        return f"kernels-{hashlib.sha256(facts).hexdigest()[:16]}"


@dataclass(frozen=True)
class CachedEngine:
    """An engine with facts from its build.

    Attributes:
        plan: the serialized engine.
        convolutions: number of convolutions, 0 if the builder did not list them.
        in_int8: number of convolutions that compute in 8 bits.
    """

    plan: bytes
    convolutions: int
    in_int8: int


class EngineCache:
    """A folder of engines, made when something is written; with an empty name nothing is kept.

    The timings of kernels, which help every build on this machine, can lie in another folder.
    """

    def __init__(self, folder: str, timing_folder: str = "") -> None:
        self._folder = Path(folder) if folder else None
        self._timing_folder = Path(timing_folder) if timing_folder else self._folder

    def read(self, key: EngineKey) -> CachedEngine | None:
        """Read an engine; None if there is no undamaged file with this key."""
        head, _, plan = self.kept(key, "engine").partition(b"\n")
        if not head:
            return None
        convolutions, in_int8 = json.loads(head)
        return CachedEngine(plan, convolutions, in_int8)

    def write(self, key: EngineKey, engine: CachedEngine) -> None:
        """Write an engine.

        Raises:
            BackendError: the folder cannot be written.
        """
        head = json.dumps([engine.convolutions, engine.in_int8]).encode()
        self.keep(key, "engine", head + b"\n" + engine.plan)

    def read_timing(self, key: EngineKey) -> bytes:
        """Read the kernel timings of earlier builds on this machine, empty if there are none."""
        if self._timing_folder is not None:
            with suppress(OSError):
                return (self._timing_folder / f"{key.machine}.timing").read_bytes()
        return b""

    def write_timing(self, key: EngineKey, timing: bytes) -> None:
        """Write the kernel timings of a build."""
        if self._timing_folder is not None and timing:
            with writing_cache(self._timing_folder, BackendError):
                write_whole(self._timing_folder / f"{key.machine}.timing", timing)

    def kept(self, key: EngineKey, kind: str) -> bytes:
        """What is kept beside an engine, or itself; empty if there is no undamaged file with it.

        Args:
            key: the engine's.
            kind: `kernels`, those that TensorRT-RTX compiled at its first run; or `engine`.
        """
        if self._folder is None:
            return b""
        return read_sealed(self._folder / f"{key.name}.{kind}", key.facts) or b""

    def keep(self, key: EngineKey, kind: str, content: bytes) -> None:
        """Keep content for `kept`, unless it is empty.

        Raises:
            BackendError: the folder cannot be written.
        """
        if self._folder is not None and content:
            with writing_cache(self._folder, BackendError):
                write_sealed(self._folder / f"{key.name}.{kind}", content, key.facts)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock on building: other processes with this folder of timings wait.

        A builder times kernels and takes the fastest; a concurrent build would distort the timings.
        The kernel releases the lock when the process ends in any way.

        Raises:
            BackendError: the folder cannot be made.
        """
        folder = self._timing_folder
        if folder is None:
            yield
            return
        with writing_cache(folder, BackendError):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
