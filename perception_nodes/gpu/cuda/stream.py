"""Streams of work for the device, events on them, and graphs of captured work."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import driver as api
from perception_nodes.gpu.cuda.errors import STREAM_CAPTURE, CudaError
from perception_nodes.gpu.cuda.memory import DeviceMemory, Resource


class Event(Resource):
    """A mark on a stream that records the time; made by `Device.event`."""

    def __init__(self, driver: api.Driver) -> None:
        self._driver = driver
        super().__init__(driver.cuEventDestroy, driver.cuEventCreate(api.EVENT_BLOCKING_SYNC))

    def record(self, stream: "Stream") -> None:
        """Put the event on a stream, behind the work that is there."""
        self._driver.cuEventRecord(self.handle, stream.handle)

    def wait(self) -> None:
        """Wait until the stream has reached the event."""
        self._driver.cuEventSynchronize(self.handle)

    def since_ms(self, earlier: "Event") -> float:
        """Device time between two events that the stream has passed, to half a microsecond."""
        return float(self._driver.cuEventElapsedTime(earlier.handle, self.handle))


class CudaGraph(Resource):
    """Work that was captured once and is put on a stream as a whole; made by `Stream.capture`."""

    def __init__(self, driver: api.Driver, handle: int) -> None:
        self._driver = driver
        super().__init__(driver.cuGraphExecDestroy, handle)

    def launch(self, stream: "Stream") -> None:
        """Put the graph on a stream."""
        self._driver.cuGraphLaunch(self.handle, stream.handle)


class Stream(Resource):
    """A queue of work for the device, of the highest priority; made by `Device.stream`.

    `handle` is the CUstream, for libraries such as TensorRT.
    """

    def __init__(self, driver: api.Driver, own: Callable[[CudaGraph], CudaGraph]) -> None:
        self._own = own
        self._driver = driver
        _, highest = driver.cuCtxGetStreamPriorityRange()
        stream = driver.cuStreamCreateWithPriority(api.NON_BLOCKING, highest)
        super().__init__(driver.cuStreamDestroy, stream)

    def wait(self) -> None:
        """Wait until all work on the stream is done; the processor is free meanwhile.

        Raises:
            CudaError: some of the work failed.
        """
        self._driver.cuStreamSynchronize(self.handle)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Copy between device addresses, of device memory or of page-locked memory."""
        self._driver.cuMemcpyAsync(to, source, nbytes, self.handle)

    def fill(self, memory: DeviceMemory, value: int = 0) -> None:
        """Set every byte of device memory."""
        self._driver.cuMemsetD8Async(memory.address, value, memory.nbytes, self.handle)

    def capture(self, work: Callable[["Stream"], None]) -> CudaGraph:
        """Make a graph of what a function puts on this stream, instead of running it.

        A graph keeps all addresses and arguments of the captured work, so values that change from
        frame to frame must be passed through memory. The function must not allocate or wait.

        Raises:
            CudaError: something that it does cannot be captured.
        """
        self._driver.cuStreamBeginCapture(self.handle, api.CAPTURE_THREAD_LOCAL)
        try:
            work(self)
        except BaseException:
            with suppress(CudaError):
                # Report the first error; ending a broken capture fails too.
                self._driver.cuGraphDestroy(self._driver.cuStreamEndCapture(self.handle))
            raise
        template = self._driver.cuStreamEndCapture(self.handle)
        try:
            executable = self._driver.cuGraphInstantiate(template, 0)
        finally:
            self._driver.cuGraphDestroy(template)
        graph = self._own(CudaGraph(self._driver, executable))
        # Otherwise the first launch does this, and is late.
        self._driver.cuGraphUpload(executable, self.handle)
        return graph


class Uncaptured:
    """Stages that are put on a stream one by one, in the place of a graph."""

    def __init__(self, stages: Sequence[Callable[[Stream], None]]) -> None:
        self._stages = stages

    def launch(self, stream: Stream) -> None:
        """Put all stages on a stream."""
        for stage in self._stages:
            stage(stream)

    def close(self) -> None:
        """Do nothing: nothing is held."""


def capture(
    stream: Stream, stages: Sequence[Callable[[Stream], None]], capturable: bool = True
) -> CudaGraph | Uncaptured:
    """Capture one graph of several stages, each of which puts its work on the stream.

    The stages are run once before the capture, because TensorRT, for example, does some setup at
    its first run that cannot be captured.

    Args:
        stream: the stream.
        stages: put their work on it.
        capturable: whether all of them say that they can be captured.

    Returns:
        The graph; or what runs the stages without one, if one of them cannot be captured.

    Raises:
        BackendError: a stage failed.
    """
    uncaptured = Uncaptured(stages)
    uncaptured.launch(stream)
    stream.wait()
    if not capturable:
        return uncaptured
    try:
        return stream.capture(uncaptured.launch)
    except BackendError as error:
        if isinstance(error, CudaError) and not error.name.startswith(STREAM_CAPTURE):
            raise
        # They ran before: if they do so again, it was the capture that failed.
        uncaptured.launch(stream)
        stream.wait()
        return uncaptured
