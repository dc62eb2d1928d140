"""Engines by what they were made from. A file is whole as soon as it is there, and says what it is.

An engine fits one network, one version of the runtime, one GPU and one driver. All of these are in
its name, so that after an update it is another file that is looked for, and no old one is tried.
What is damaged is built again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perception_nodes.core.inference import BackendError
from perception_nodes.system.files import write_whole

MAGIC = b"perception_nodes engine 1\n"


@dataclass(frozen=True)
class EngineKey:
    """What an engine was made from.

    Attributes:
        model: its name, for people.
        onnx_sha256: of the network's file.
        library: the runtime with its version.
        gpu: name of the GPU.
        sm: its compute capability, 89 for 8.9.
        driver: the driver's version, as exactly as it tells.
        precision: of the model.
        flags: what else the builder was told.
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
    def name(self) -> str:
        """What files of this engine are called, without their ending."""
        facts = json.dumps(asdict(self), sort_keys=True).encode()
        return f"{self.model}-{hashlib.sha256(facts).hexdigest()[:16]}"

    @property
    def machine(self) -> str:
        """What measurements of kernels are called: they do not depend on the network."""
        facts = json.dumps([self.library, self.gpu, self.sm, self.driver]).encode()
        return f"kernels-{hashlib.sha256(facts).hexdigest()[:16]}"


@dataclass(frozen=True)
class CachedEngine:
    """An engine and what is known of it.

    Attributes:
        plan: serialized.
        convolutions: how many it has, 0 where the builder did not tell.
        in_int8: how many of them compute in 8 bits.
    """

    plan: bytes
    convolutions: int
    in_int8: int


class EngineCache:
    """A folder of engines; without one nothing is kept."""

    def __init__(self, folder: str) -> None:
        """Take the folder, empty for none; it is made when something is written."""
        self._folder = Path(folder) if folder else None

    def read(self, key: EngineKey) -> CachedEngine | None:
        """The engine; None where there is none that is whole and of this key."""
        content = self._read(f"{key.name}.engine")
        if not content.startswith(MAGIC):
            return None
        head, _, plan = content[len(MAGIC) :].partition(b"\n")
        try:
            said: dict[str, Any] = json.loads(head)
            engine = CachedEngine(plan, int(said["convolutions"]), int(said["in_int8"]))
            whole = said["plan_sha256"] == hashlib.sha256(plan).hexdigest()
        except (ValueError, KeyError, TypeError):
            return None
        return engine if whole and said.get("key") == asdict(key) else None

    def write(self, key: EngineKey, engine: CachedEngine) -> None:
        """Keep an engine.

        Raises:
            BackendError: the folder cannot be written.
        """
        said = {
            "key": asdict(key),
            "convolutions": engine.convolutions,
            "in_int8": engine.in_int8,
            "plan_sha256": hashlib.sha256(engine.plan).hexdigest(),
        }
        self._write(f"{key.name}.engine", MAGIC + json.dumps(said).encode() + b"\n" + engine.plan)

    def read_timing(self, key: EngineKey) -> bytes:
        """What earlier builds measured on this machine, empty for nothing."""
        return self._read(f"{key.machine}.timing")

    def write_timing(self, key: EngineKey, timing: bytes) -> None:
        """Keep what a build measured."""
        self._write(f"{key.machine}.timing", timing)

    def read_kernels(self, key: EngineKey) -> bytes:
        """What TensorRT-RTX compiled of an engine where it ran, empty for nothing."""
        return self._read(f"{key.name}.kernels")

    def write_kernels(self, key: EngineKey, kernels: bytes) -> None:
        """Keep it."""
        self._write(f"{key.name}.kernels", kernels)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Build alone: others that want to build into this folder wait until we are done.

        A builder tries kernels and takes the fastest; beside another one it would take others. The
        lock goes with its process, however that ends.

        Raises:
            BackendError: the folder cannot be made.
        """
        if self._folder is None:
            yield
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> bytes:
        if self._folder is None:
            return b""
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return b""

    def _write(self, name: str, content: bytes) -> None:
        if self._folder is None or not content:
            return
        try:
            write_whole(self._folder / name, content)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> BackendError:
        return BackendError(
            f"the cache {self._folder} cannot be written: {error.strerror}; name another folder "
            "with $XDG_CACHE_HOME"
        )
