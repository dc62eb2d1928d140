"""A backend that fails on demand; only `perception hil` can start it."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from perception_nodes.backends.contract import BACKENDS, BackendInfo, BackendSettings, open_backend
from perception_nodes.backends.contract import Backend as BackendProtocol
from perception_nodes.core.inference import BackendError, BatchBackend, HeadTensors
from perception_nodes.networks.model import Model
from perception_nodes.system.files import write_whole

VARIABLE = "PERCEPTION_HIL_BACKEND"
"""The file with the orders; without this variable the backend does not load."""
ABSURD_LOGIT = 1e30
FOREVER_S = 3600.0


def hit_file(orders: Path) -> Path:
    """The file that is made when the backend obeys an order to fail."""
    return orders.with_suffix(".hit")


def register() -> None:
    """Make the backend known to this process under the name `faulty`."""
    BACKENDS["faulty"] = __name__


class Orders(BaseModel, extra="forbid", frozen=True):
    """What the backend is to do.

    Attributes:
        inner: name of the backend that does the work.
        call_ms: minimum duration of a call.
        fault: what goes wrong. `hang` and `segfault` hit one call, the others all calls until
            `until_ns`.
        factor: for `slow`: multiplies the duration of a call.
        until_ns: end of the fault, CLOCK_MONOTONIC.
    """

    inner: str = "null"
    call_ms: float = 0.0
    fault: Literal["", "slow", "hang", "exception", "segfault", "nan", "absurd"] = ""
    factor: float = 1.0
    until_ns: int = 0

    def write(self, path: Path) -> None:
        """Make these the orders in force."""
        write_whole(path, self.model_dump_json())


class Backend:
    """Passes calls on to another backend, and at each call obeys the orders in its file."""

    def __init__(self, settings: BackendSettings) -> None:
        """See `Orders`.

        Raises:
            BackendError: not started by `perception hil`.
        """
        if not (name := os.environ.get(VARIABLE, "")):
            raise BackendError(
                "backend 'faulty' fails on demand and is for fault injection only: "
                "use it through `perception hil run`"
            )
        self._path = Path(name)
        self._inner: BackendProtocol = open_backend(self._orders().inner, settings)

    def load(self, model: Model) -> BackendInfo:
        """Load the model into the inner backend."""
        return self._inner.load(model)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Infer, or fail as ordered."""
        return self._obey(lambda: [self._inner.infer(image)])[0]

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """The same for several images in one call."""
        return self._obey(lambda: cast(BatchBackend, self._inner).infer_batch(images))

    def _obey(self, infer: Callable[[], Sequence[HeadTensors]]) -> Sequence[HeadTensors]:
        started_ns = time.monotonic_ns()
        orders = self._orders()
        fault = orders.fault
        if fault in ("hang", "segfault"):
            # The order is for this process only: its successor must not fail in the same way.
            orders.model_copy(update={"fault": ""}).write(self._path)
        elif started_ns > orders.until_ns:
            fault = ""
        if fault:
            hit_file(self._path).touch()
        if fault == "hang":
            time.sleep(FOREVER_S)
        if fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "exception":
            raise BackendError("faulty: the runtime was ordered to fail")
        found = infer()
        took_ms = max((time.monotonic_ns() - started_ns) / 1e6, orders.call_ms)
        wanted_ms = took_ms * (orders.factor if fault == "slow" else 1.0)
        rest_s = wanted_ms / 1e3 - (time.monotonic_ns() - started_ns) / 1e9
        if rest_s > 0:
            time.sleep(rest_s)
        if fault in ("nan", "absurd"):
            filled = partial(np.full_like, fill_value=np.nan if fault == "nan" else ABSURD_LOGIT)
            kinds = ((map(filled, heads.boxes), map(filled, heads.classes)) for heads in found)
            return [HeadTensors([*boxes], [*classes]) for boxes, classes in kinds]
        return found

    def close(self) -> None:
        """Close the inner backend."""
        self._inner.close()

    def _orders(self) -> Orders:
        return Orders.model_validate_json(self._path.read_bytes())
